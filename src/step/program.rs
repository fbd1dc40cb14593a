//! A program: a graph with named inputs and outputs.

use super::{derive, evaluate, generate, init, state::Layout, teacher::Network, train};
use crate::build::{BuildError, Builder};
use crate::config::{Architecture, ModelConfig, RunConfig};
use crate::ir::{DType, Graph, TensorType, Value};
use crate::layers::{Context, ParamDef, Phase, Weights};
use crate::model::{Batch, Segments};
use crate::optim::Slot;
use crate::shard::{BATCH, Partition};
use serde::{Deserialize, Serialize};

/// The names of all programs.
pub const PROGRAMS: [&str; 7] =
    ["init", "train_step", "eval_step", "forward", "prefill", "decode_step", "gradients"];

/// One that an artifact has only where it is asked for.
const ON_REQUEST: &str = "gradients";

/// The program of a training step with a teacher.
pub const DISTILL_STEP: &str = "distill_step";

/// The program that makes what is [`Role::Derived`].
pub const DERIVE: &str = "derive";

/// The programs that an artifact has unless it is asked for others: one more with a teacher, and one where a target keeps more
/// beside the state than that.
pub fn programs(config: &RunConfig) -> Vec<&'static str> {
    programs_of(config, &Layout::new(config))
}

fn programs_of(config: &RunConfig, layout: &Layout) -> Vec<&'static str> {
    let distill = config.distillation.teacher.as_ref().map(|_| DISTILL_STEP);
    let derive = (!layout.mean_squares.is_empty()).then_some(DERIVE);
    PROGRAMS.into_iter().filter(|name| *name != ON_REQUEST).chain(distill).chain(derive).collect()
}

/// What an input or output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Part of the state.
    State,
    /// Follows from the state, is kept on the device beside it, and is in no checkpoint.
    Derived,
    /// Kept on the device from token to token of a generation.
    Cache,
    /// Given anew at each call.
    Input,
    /// A result that is not state.
    Output,
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    /// What one device takes or returns.
    pub ty: TensorType,
    /// How that is a part of the whole.
    pub partition: Partition,
    /// Of the rows of a batch: parts that follow one another, each of which is split over the devices for itself.
    pub microbatches: usize,
    pub role: Role,
    /// Of an output: the input whose buffer it takes over.
    pub alias: Option<usize>,
}

impl Role {
    /// Whether it stays on the device between calls; an output takes over the buffer of the input of its name.
    pub fn stays(self) -> bool {
        matches!(self, Role::State | Role::Derived | Role::Cache)
    }
}

impl Port {
    fn new(name: &str, ty: TensorType, partition: Partition, role: Role) -> Self {
        Self { name: name.into(), ty, partition, microbatches: 1, role, alias: None }
    }
}

/// A graph with its signature.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub graph: Graph,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// Builds a program by name; `None` if there is none of that name.
pub fn build(config: &RunConfig, name: &str) -> Option<Result<Program, BuildError>> {
    let layout = Layout::new(config);
    let name = programs_of(config, &layout).into_iter().chain([ON_REQUEST]).find(|p| *p == name)?;
    let mut assembly = Assembly { config, layout: &layout, b: Builder::new(), inputs: vec![] };
    let outputs = match name {
        "init" => init::build(&mut assembly),
        DERIVE => derive::build(&mut assembly),
        "train_step" => train::build(&mut assembly, None),
        DISTILL_STEP => train::build(&mut assembly, Network::new(config)),
        "eval_step" => evaluate::eval_step(&mut assembly),
        "forward" => evaluate::forward(&mut assembly),
        "gradients" => evaluate::gradients(&mut assembly),
        "prefill" => generate::prefill(&mut assembly),
        _ => generate::decode_step(&mut assembly),
    };
    Some(outputs.map(|outputs| assembly.finish(name, outputs)))
}

/// A program in the making.
pub(super) struct Assembly<'a> {
    pub config: &'a RunConfig,
    pub layout: &'a Layout,
    pub b: Builder,
    inputs: Vec<Port>,
}

/// A result and its name.
pub(super) enum Output {
    /// Aliases the state input of that name.
    State(String, Value),
    /// Aliases the input of that name.
    Derived(String, Value),
    /// Aliases the cache input of that name, which is divided so.
    Cache(String, Value, Partition),
    /// The same on every device.
    Plain(String, Value),
    /// Its dimension of this number is that of the rows of the batch.
    Rows(String, Value, usize),
    /// What this device has of a tensor that is divided so.
    Block(String, Value, Partition),
}

impl Assembly<'_> {
    /// An input that every device takes whole.
    pub fn input(&mut self, name: &str, ty: TensorType, role: Role) -> Result<Value, BuildError> {
        let partition = Partition::whole();
        self.split_input(name, ty, partition, role)
    }

    /// An input of the type `ty` as a whole, of which every device takes its rows.
    pub fn input_rows(&mut self, name: &str, ty: TensorType) -> Result<Value, BuildError> {
        self.split_input(name, ty, Partition::whole().split(0, BATCH), Role::Input)
    }

    /// An input of the type `ty` as a whole, of which every device takes its block.
    pub fn split_input(
        &mut self,
        name: &str,
        ty: TensorType,
        partition: Partition,
        role: Role,
    ) -> Result<Value, BuildError> {
        let block = partition.block(&self.config.mesh, &ty)?;
        self.inputs.push(Port::new(name, block.clone(), partition, role));
        self.b.parameter(block)
    }

    /// Inputs for all parameters as they are held, by name and in order.
    pub fn params(&mut self) -> Result<Vec<Value>, BuildError> {
        let layout = self.layout;
        let input =
            |def: &ParamDef| self.split_input(&def.name, def.ty(), def.partition.clone(), Role::State);
        layout.held.iter().map(input).collect()
    }

    /// The surroundings of a model's layers in evaluation, which draws no random numbers.
    pub fn evaluation<'c>(
        &mut self,
        config: &'c ModelConfig,
        weights: &'c Weights,
    ) -> Result<Context<'c>, BuildError> {
        let key = self.b.zeros(&TensorType::new(DType::U32, [2]))?;
        let RunConfig { target, mesh, .. } = *self.config;
        Ok(Context { config, target, mesh, phase: Phase::Eval, weights, key })
    }

    /// Inputs for what the optimizer keeps, by name and in order.
    pub fn slots(&mut self, slots: &[Slot], role: Role) -> Result<Vec<Value>, BuildError> {
        let input = |slot: &Slot| self.split_input(&slot.name, slot.ty.clone(), slot.partition.clone(), role);
        slots.iter().map(input).collect()
    }

    /// The same values, to be found by layers.
    pub fn weights(&self, values: &[Value]) -> Weights {
        Weights::new(self.config.mesh, self.layout.held.iter().zip(values.iter().copied()))
    }

    /// The token inputs for `sequences` rows on all devices, with the numbers of their examples where rows hold several.
    pub fn batch(&mut self, sequences: usize) -> Result<Batch, BuildError> {
        let sizes = self.config.batch;
        let inputs = match self.config.model.architecture {
            Architecture::EncoderDecoder => Some(self.rows("inputs", sequences, sizes.input_length)?),
            Architecture::DecoderOnly => None,
        };
        let targets = self.rows("targets", sequences, sizes.target_length)?;
        let roles = match self.config.joins_pairs() {
            true => Some(self.rows("target_roles", sequences, sizes.target_length)?),
            false => None,
        };
        let segments = match sizes.packing {
            true => Some(Segments {
                inputs: inputs
                    .map(|_| self.rows("input_segments", sequences, sizes.input_length))
                    .transpose()?,
                targets: self.rows("target_segments", sequences, sizes.target_length)?,
            }),
            false => None,
        };
        Ok(Batch { inputs, targets, roles, segments })
    }

    /// An input `s32[sequences, length]`, of which every device takes its rows of each microbatch.
    fn rows(&mut self, name: &str, sequences: usize, length: usize) -> Result<Value, BuildError> {
        let ty = TensorType::new(DType::S32, [sequences, length]);
        let value = self.input_rows(name, ty)?;
        let microbatches = sequences / self.config.batch.sequences_per_microbatch().max(1);
        if let Some(port) = self.inputs.last_mut() {
            port.microbatches = microbatches.max(1);
        }
        Ok(value)
    }

    fn finish(self, name: &'static str, outputs: Vec<Output>) -> Program {
        let mut ports = vec![];
        let mut values = vec![];
        for output in outputs {
            let whole = Partition::whole();
            let held = |name: &str| self.layout.partition(name).unwrap_or_default();
            let (name, value, role, partition) = match output {
                Output::State(name, value) => (name.clone(), value, Role::State, held(&name)),
                Output::Derived(name, value) => (name.clone(), value, Role::Derived, held(&name)),
                Output::Cache(name, value, partition) => (name, value, Role::Cache, partition),
                Output::Plain(name, value) => (name, value, Role::Output, whole),
                Output::Rows(name, value, dim) => (name, value, Role::Output, whole.split(dim, BATCH)),
                Output::Block(name, value, partition) => (name, value, Role::Output, partition),
            };
            let ty = self.b.ty(value).clone();
            let same = |port: &Port| port.role == role && port.name == name;
            let alias = if role.stays() { self.inputs.iter().position(same) } else { None };
            ports.push(Port { alias, ..Port::new(&name, ty, partition, role) });
            values.push(value);
        }
        Program { name, graph: self.b.finish(&values), inputs: self.inputs, outputs: ports }
    }
}
