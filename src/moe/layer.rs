//! The whole layer, and what it reports.

use super::{dispatch, experts, router};
use crate::build::{BuildError, Builder};
use crate::config::{ModelConfig, Padding, Router};
use crate::ir::Value;
use crate::layers::{Context, Params, Phase};
use crate::shard::{Axis, MODEL, Mesh};

/// Name of what has come from all devices to those of the experts: `[experts / devices, devices * slots, d_model]`.
pub const EXCHANGED_INPUTS: &str = "exchanged_inputs";
/// Name of what has come back: `[experts, slots, width]`.
pub const EXCHANGED_OUTPUTS: &str = "exchanged_outputs";

/// The static sizes of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeShape {
    pub groups: usize,
    /// Per group.
    pub tokens: usize,
    pub experts: usize,
    /// Slots per expert and group.
    pub capacity: usize,
    /// Slots that a token can have at most: the router's choices, or E where experts choose.
    pub choices: usize,
    /// `d_model`.
    pub width: usize,
    /// Rows of the batch: `groups * tokens / sequences` is their length.
    pub sequences: usize,
    /// The devices, of which this one has these groups.
    pub mesh: Mesh,
}

impl MoeShape {
    /// The sizes for `sequences` rows of `length` tokens, as if there were no other device.
    pub fn new(
        config: &ModelConfig,
        router: &Router,
        phase: Phase,
        (sequences, length): (usize, usize),
    ) -> Self {
        let groups = config.moe.groups(sequences, length);
        Self {
            groups: groups.num_groups,
            tokens: groups.tokens_per_group,
            experts: config.moe.num_experts,
            capacity: config.moe.capacity_for(groups.tokens_per_group, phase == Phase::Train),
            choices: router.experts_per_token().unwrap_or(config.moe.num_experts),
            width: config.d_model,
            sequences,
            mesh: Mesh::default(),
        }
    }

    /// Slots of all experts and groups.
    pub fn slots(&self) -> usize {
        self.experts * self.groups * self.capacity
    }
}

/// What one sparse layer reports, beside its output. Means over all tokens (or groups) of the batch come as this device's
/// share of them: their sum over the devices of the batch is the mean.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// `f32[groups, experts]`: share of a group's choices for the expert, and its mean probability there.
    pub fraction: Value,
    pub probability: Value,
    /// Scalars `f32`.
    pub load_balancing_loss: Value,
    pub z_loss: Value,
    pub dropped: Value,
    pub dropped_choices: Value,
    pub entropy: Value,
    /// `f32[experts]`.
    pub load: Value,
    /// `s32[batch, length, choices]`: the expert of each choice, or -1 where it was dropped.
    pub decisions: Value,
}

impl Stats {
    /// How many values there are.
    pub const COUNT: usize = 9;

    /// The values in the order of [`Stats::from_values`].
    pub fn values(&self) -> Vec<Value> {
        let shares = [self.fraction, self.probability];
        let scalars =
            [self.load_balancing_loss, self.z_loss, self.dropped, self.dropped_choices, self.entropy];
        [&shares[..], &scalars, &[self.load, self.decisions]].concat()
    }

    /// The inverse of [`Stats::values`]; `None` for another number of values.
    pub fn from_values(values: &[Value]) -> Option<Self> {
        let &[
            fraction,
            probability,
            load_balancing_loss,
            z_loss,
            dropped,
            dropped_choices,
            entropy,
            load,
            decisions,
        ] = values
        else {
            return None;
        };
        Some(Self {
            fraction,
            probability,
            load_balancing_loss,
            z_loss,
            dropped,
            dropped_choices,
            entropy,
            load,
            decisions,
        })
    }
}

pub fn declare(params: &mut Params, config: &ModelConfig, router: &Router) {
    router::declare(params, router, config.d_model, &config.moe);
    params.scoped("experts", |params| experts::declare(params, config));
    if config.moe.shared_experts > 0 {
        params.scoped("shared_experts", |params| experts::declare_shared(params, config));
    }
}

/// The layer on `x [batch, length, d_model]`; `real f32[batch, length]` marks what is not padding.
///
/// The routed output is zero for dropped tokens, which therefore pass through the residual connection (and the shared
/// experts, if there are any) alone.
pub fn apply(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    (x, real): (Value, Value),
) -> Result<(Value, Stats), BuildError> {
    let (mut partial, stats) = routed(b, cx, router, (x, real), |b, inputs| experts::apply(b, cx, inputs))?;
    if cx.config.moe.shared_experts > 0 {
        let shared = b.scoped("shared_experts", |b| experts::apply_shared(b, cx, x))?;
        partial = b.add(partial, shared)?;
    }
    let output = b.scoped("combine", |b| cx.mesh.sum(b, partial, MODEL))?;
    Ok((output, stats))
}

/// What the `experts` make of their slots `[experts, slots, d_model]`, `[experts, slots, width]`, at the tokens
/// `[batch, length, width]` and weighted by their gates: zero for dropped tokens.
pub fn routed(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    (x, real): (Value, Value),
    experts: impl FnOnce(&mut Builder, Value) -> Result<Value, BuildError>,
) -> Result<(Value, Stats), BuildError> {
    let input_shape = b.shape(x);
    let [batch, length] = [input_shape[0], input_shape[1]];
    let shape = MoeShape::new(cx.config, router, cx.phase, (batch, length));
    let shape = MoeShape { mesh: cx.mesh, ..shape };
    let tokens = b.reshape(x, &[shape.groups, shape.tokens, shape.width])?;
    let real = b.reshape(real, &[shape.groups, shape.tokens])?;
    let real = match cx.config.padding {
        Padding::Excluded => real,
        Padding::Included => b.full_like(real, 1.0)?,
    };
    let routing = router::route(b, cx, router, (tokens, real), &shape)?;
    let plan = b.scoped("dispatch", |b| {
        let dtype = b.dtype(x);
        dispatch::plan(b, cx.config.moe.dispatch, &shape, &routing.slots, dtype)
    })?;
    let inputs = b.scoped("dispatch", |b| dispatch::dispatch(b, &shape, &plan, tokens))?;
    // Slots go to the devices that have their experts, and back.
    let inputs = b.scoped("dispatch", |b| exchange(b, cx, inputs, (0, 1), EXCHANGED_INPUTS))?;
    let outputs = b.scoped("experts", |b| experts(b, inputs))?;
    let outputs = b.scoped("combine", |b| exchange(b, cx, outputs, (1, 0), EXCHANGED_OUTPUTS))?;
    let combined = b.scoped("combine", |b| dispatch::combine(b, &shape, &plan, outputs))?;
    let width = b.shape(combined)[2];
    let output = b.reshape(combined, &[batch, length, width])?;
    Ok((output, stats(b, &routing, [batch, length, shape.choices])?))
}

/// An exchange of `[experts, slots, width]` over `expert`, its result named where there is one.
fn exchange(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    dims: (usize, usize),
    name: &str,
) -> Result<Value, BuildError> {
    if cx.mesh.expert == 1 {
        return Ok(x);
    }
    let exchanged = cx.mesh.exchange(b, x, dims, Axis::Expert)?;
    Ok(b.name(exchanged, name, &["experts", "slots", "width"]))
}

/// What the layer reports, with decisions of this shape.
fn stats(b: &mut Builder, routing: &router::Routing, decisions: [usize; 3]) -> Result<Stats, BuildError> {
    Ok(Stats {
        fraction: routing.balance.fraction,
        probability: routing.balance.probability,
        load_balancing_loss: routing.balance.loss,
        z_loss: routing.z_loss,
        dropped: routing.dropped,
        dropped_choices: routing.dropped_choices,
        entropy: routing.entropy,
        load: routing.load,
        decisions: b.reshape(routing.decisions, &decisions)?,
    })
}
