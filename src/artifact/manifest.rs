//! The manifest: everything about an artifact that is not HLO.

use crate::config::{Capacity, Dispatch, ModelConfig, Router, RunConfig, Side};
use crate::inspect::ExpectedShape;
use crate::ir::{DType, TensorType};
use crate::layers::{self, Phase};
use crate::moe::{EXCHANGED_INPUTS, EXCHANGED_OUTPUTS, MoeShape};
use crate::shard::{Mesh, Partition, Placement};
use crate::step::{DERIVE, DISTILL_STEP, Port, Role, TEACHER_SCOPE, decoding};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Raised when the folder's meaning changes.
pub const FORMAT_VERSION: u32 = 2;

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format_version: u32,
    /// As resolved: every field explicit.
    pub config: RunConfig,
    /// Sha-256 of the resolved configuration, hexadecimal.
    pub config_digest: String,
    /// Devices that run each program together: those of `config.mesh`.
    pub num_replicas: usize,
    pub num_parameters: u64,
    /// Bytes of the whole training state.
    pub state_bytes: u64,
    /// Bytes of it that one device holds.
    pub state_bytes_per_device: u64,
    pub moe_layers: Vec<MoeLayer>,
    pub programs: Vec<ProgramSpec>,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSpec {
    pub name: String,
    /// Sha-256 of the HLO proto, hexadecimal.
    pub hlo_digest: String,
    pub inputs: Vec<PortSpec>,
    pub outputs: Vec<PortSpec>,
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    pub name: String,
    /// As HLO names it: `f32`, `bf16`, ..
    pub dtype: String,
    /// On one device.
    pub shape: Vec<usize>,
    /// The mesh axes over which each dimension is split; dimensions behind the last that is split are left out.
    #[serde(default, skip_serializing_if = "Partition::is_whole")]
    pub partition: Partition,
    /// Parts of the rows of a batch that are split over the devices one after the other.
    #[serde(default = "one_part", skip_serializing_if = "is_one_part")]
    pub microbatches: usize,
    pub role: Role,
    /// Of an output: the number of the input whose buffer it takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<usize>,
}

fn one_part() -> usize {
    1
}

fn is_one_part(count: &usize) -> bool {
    *count == 1
}

impl PortSpec {
    pub(super) fn new(port: &Port) -> Self {
        Self {
            name: port.name.clone(),
            dtype: port.ty.dtype.name().into(),
            shape: port.ty.shape.clone(),
            partition: port.partition.clone(),
            microbatches: port.microbatches,
            role: port.role,
            alias: port.alias,
        }
    }

    /// How the value is divided among the devices.
    pub fn placement(&self) -> Placement {
        Placement { partition: self.partition.clone(), microbatches: self.microbatches }
    }

    /// The tensor type of the whole value, or `None` as for [`PortSpec::ty`].
    pub fn whole(&self, mesh: &Mesh) -> Option<TensorType> {
        self.placement().whole(mesh, &self.ty()?)
    }

    /// The tensor type on one device, or `None` for an unknown element type or too many elements.
    pub fn ty(&self) -> Option<TensorType> {
        let ty = TensorType::new(DType::from_name(&self.dtype)?, self.shape.clone());
        ty.checked_elements()?.checked_mul(ty.dtype.size_bytes())?;
        Some(ty)
    }
}

/// The capacity arithmetic of the sparse layers of one stack in one program, for the tokens of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoeLayer {
    pub program: String,
    /// The path in `op_name`, such as `encoder/block_1/moe`.
    pub scope: String,
    /// Sparse layers of this scope.
    pub layers: usize,
    pub groups: usize,
    pub tokens_per_group: usize,
    pub experts: usize,
    /// How tokens choose experts, or experts tokens.
    pub router: Router,
    /// Slots that a token can have at most.
    pub experts_per_token: usize,
    /// The rule of the capacity.
    pub rule: Capacity,
    /// Slots per expert and group that the rule asks for, before they are rounded up to a multiple.
    pub asked_capacity: usize,
    /// Slots per expert and group.
    pub capacity: usize,
    /// `einsum` or `gather`.
    pub dispatch: Dispatch,
    pub d_model: usize,
    /// Element type of expert inputs.
    pub dtype: String,
}

/// The sparse layers of a program, as one device runs them; those of a teacher are below its scope.
pub(super) fn moe_layers(config: &RunConfig, program: &str) -> Vec<MoeLayer> {
    let model = &config.model;
    let (input, target) = (config.batch.input_length, config.batch.target_length);
    let both = vec![(Side::Encoder, input), (Side::Decoder, target)];
    match program {
        "init" | DERIVE => vec![],
        "prefill" if Side::Encoder.layers(model) > 0 => {
            layers_of(config, model, (program, Phase::Eval), &[(Side::Encoder, input)])
        }
        "prefill" => layers_of(config, model, (program, Phase::Eval), &[(Side::Decoder, target)]),
        "decode_step" => layers_of(config, &decoding(model), (program, Phase::Eval), &[(Side::Decoder, 1)]),
        "train_step" => layers_of(config, model, (program, Phase::Train), &both),
        DISTILL_STEP => {
            let mut layers = layers_of(config, model, (program, Phase::Train), &both);
            if let Some(teacher) = config.distillation.teacher.as_deref() {
                let lessons = layers_of(config, teacher, (program, Phase::Eval), &both);
                let below =
                    |layer: MoeLayer| MoeLayer { scope: format!("{TEACHER_SCOPE}/{}", layer.scope), ..layer };
                layers.extend(lessons.into_iter().map(below));
            }
            layers
        }
        _ => layers_of(config, model, (program, Phase::Eval), &both),
    }
}

/// The sparse layers of a model's stacks with rows of these lengths.
fn layers_of(
    config: &RunConfig,
    model: &ModelConfig,
    program: (&str, Phase),
    sides: &[(Side, usize)],
) -> Vec<MoeLayer> {
    let sparse = |&(side, length): &(Side, usize)| {
        let segments = model.segments(side).into_iter().filter_map(|s| Some((s, s.sparse?)));
        segments.flat_map(move |(segment, block)| {
            let scopes = model.moe.sublayers.scopes().iter();
            scopes.map(move |sublayer| {
                let scope = format!("{}/{}/{sublayer}", side.name(), segment.scope(block));
                moe_layer((config, model), program, (side, length), (scope, segment.sparse_blocks()))
            })
        })
    };
    sides.iter().flat_map(sparse).collect()
}

/// So many sparse layers of the same scope, on rows of this length.
fn moe_layer(
    (config, model): (&RunConfig, &ModelConfig),
    (program, phase): (&str, Phase),
    (side, length): (Side, usize),
    (scope, layers): (String, usize),
) -> MoeLayer {
    let router = side.router(model);
    let shape = MoeShape::new(model, router, phase, (config.sequences_per_replica(), length));
    let rule = model.moe.capacity;
    MoeLayer {
        program: program.into(),
        scope,
        layers,
        groups: shape.groups,
        tokens_per_group: shape.tokens,
        experts: shape.experts,
        router: *router,
        experts_per_token: shape.choices,
        rule,
        asked_capacity: rule.slots(shape.tokens, shape.experts, phase == Phase::Train).asked,
        capacity: shape.capacity,
        dispatch: model.moe.dispatch,
        d_model: shape.width,
        dtype: layers::dtype(model).name().into(),
    }
}

impl ProgramSpec {
    /// The tensors of the state that it takes, of which a stack may be several inputs.
    pub fn state_taken(&self) -> Vec<String> {
        whole(self.inputs.iter().filter(|port| port.role == Role::State))
    }

    /// The inputs that `prefill` makes.
    pub fn cache_inputs(&self) -> impl Iterator<Item = &PortSpec> {
        self.inputs.iter().filter(|port| port.role == Role::Cache)
    }

    /// The tensors that it leaves on the device: state, what follows from it, and cache.
    pub fn kept(&self) -> Vec<String> {
        whole(self.outputs.iter().filter(|port| port.role.stays()))
    }
}

/// The names of whole tensors, once each.
fn whole<'a>(ports: impl Iterator<Item = &'a PortSpec>) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    let stacks = &mut BTreeSet::new();
    for port in ports {
        match layers::row_of(&port.name) {
            Some((stack, _)) if !stacks.insert(stack) => (),
            Some((stack, _)) => names.push(stack.into()),
            None => names.push(port.name.clone()),
        }
    }
    names
}

impl Manifest {
    /// The tensors of the sparse layers of a program, as the capacity arithmetic asks for them.
    pub fn expected_shapes(&self, program: &str) -> Vec<ExpectedShape> {
        self.layers_of(program).flat_map(|layer| layer.expected_shapes(&self.config.mesh)).collect()
    }

    /// The sparse layers of a program.
    pub fn layers_of(&self, program: &str) -> impl Iterator<Item = &MoeLayer> {
        self.moe_layers.iter().filter(move |layer| layer.program == program)
    }
}

impl MoeLayer {
    /// Share of the slots that are there only to fill a multiple.
    pub fn padding_share(&self) -> f64 {
        self.capacity.saturating_sub(self.asked_capacity) as f64 / self.capacity.max(1) as f64
    }

    /// The arithmetic in one line.
    pub fn arithmetic(&self) -> String {
        let [g, s, e, c] = [self.groups, self.tokens_per_group, self.experts, self.capacity];
        let rule = match self.rule {
            Capacity::Factor { .. } => "factor",
            Capacity::Absolute { .. } => "absolute",
            Capacity::Dropless {} => "dropless",
        };
        let slots = e.saturating_mul(g).saturating_mul(c);
        let per_token = slots as f64 / (g.saturating_mul(s)).max(1) as f64;
        format!(
            "{}: {g} x {s} tokens, {e} experts x {c} slots ({rule}), {slots} slots, {per_token:.2} per token, \
             {:.1} % of them padding",
            self.scope,
            100.0 * self.padding_share()
        )
    }

    fn expected_shapes(&self, mesh: &Mesh) -> Vec<ExpectedShape> {
        let [g, s, e, c] = [self.groups, self.tokens_per_group, self.experts, self.capacity];
        let dtype = DType::from_name(&self.dtype).unwrap_or(DType::F32);
        let expect = |role: &str, shape: Vec<usize>, dtype: DType| ExpectedShape {
            scope: self.scope.clone(),
            role: role.into(),
            shape,
            dtype,
        };
        let mut shapes = vec![expect("router_logits", vec![g, s, e], DType::F32)];
        match self.dispatch {
            Dispatch::Einsum => {
                shapes.push(expect("dispatch/dispatch_mask", vec![g, s, e, c], dtype));
                shapes.push(expect("dispatch/combine_weights", vec![g, s, e, c], DType::F32));
                shapes.push(expect("dispatch/expert_inputs", vec![e, g, c, self.d_model], dtype));
            }
            Dispatch::Gather => {
                let slots = e.saturating_mul(g).saturating_mul(c);
                shapes.push(expect("dispatch/token_of_slot", vec![slots], DType::S32));
                if self.router.experts_per_token().is_some() {
                    let choices = vec![g.saturating_mul(s), self.experts_per_token];
                    shapes.push(expect("dispatch/slot_of_token", choices, DType::S32));
                } else {
                    shapes.push(expect("dispatch/gate_of_slot", vec![slots], DType::F32));
                }
                shapes.push(expect("dispatch/expert_inputs", vec![slots, self.d_model], dtype));
            }
        }
        if mesh.expert > 1 {
            let (own, all) = (e / mesh.expert, g.saturating_mul(c));
            let arrived = vec![own, all.saturating_mul(mesh.expert), self.d_model];
            shapes.push(expect(&format!("dispatch/{EXCHANGED_INPUTS}"), arrived, dtype));
            // Experts of attention return queries, keys and values, whose widths are not those of the layer.
            if self.scope.ends_with("/moe") {
                shapes.push(expect(
                    &format!("combine/{EXCHANGED_OUTPUTS}"),
                    vec![e, all, self.d_model],
                    dtype,
                ));
            }
        }
        shapes
    }
}
