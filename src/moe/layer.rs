//! The whole layer, and what it reports.

use super::{dispatch, experts, router};
use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::Value;
use crate::layers::{Context, Params, Phase};

/// The static sizes of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeShape {
    pub groups: usize,
    /// Per group.
    pub tokens: usize,
    pub experts: usize,
    /// Slots per expert and group.
    pub capacity: usize,
    /// Experts per token.
    pub choices: usize,
    /// `d_model`.
    pub width: usize,
}

impl MoeShape {
    /// The sizes for `sequences` rows of `length` tokens.
    pub fn new(config: &ModelConfig, phase: Phase, sequences: usize, length: usize) -> Self {
        let groups = config.moe.groups(sequences, length);
        Self {
            groups: groups.num_groups,
            tokens: groups.tokens_per_group,
            experts: config.moe.num_experts,
            capacity: config.moe.capacity_for(groups.tokens_per_group, phase == Phase::Train),
            choices: config.moe.router.experts_per_token(),
            width: config.d_model,
        }
    }

    /// Slots of all experts and groups.
    pub fn slots(&self) -> usize {
        self.experts * self.groups * self.capacity
    }
}

/// What one sparse layer reports, beside its output.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Scalars `f32`.
    pub load_balancing_loss: Value,
    pub z_loss: Value,
    pub dropped: Value,
    pub entropy: Value,
    /// `f32[experts]`.
    pub load: Value,
    /// `s32[batch, length, choices]`: the expert of each choice, or -1 where it was dropped.
    pub decisions: Value,
}

impl Stats {
    /// The values in the order of [`Stats::from_values`].
    pub fn values(&self) -> Vec<Value> {
        vec![self.load_balancing_loss, self.z_loss, self.dropped, self.entropy, self.load, self.decisions]
    }

    /// The inverse of [`Stats::values`]; `None` for another number of values.
    pub fn from_values(values: &[Value]) -> Option<Self> {
        let &[load_balancing_loss, z_loss, dropped, entropy, load, decisions] = values else { return None };
        Some(Self { load_balancing_loss, z_loss, dropped, entropy, load, decisions })
    }
}

pub fn declare(params: &mut Params, config: &ModelConfig) {
    router::declare(params, config.d_model, config.moe.num_experts);
    params.scoped("experts", |params| experts::declare(params, config));
}

/// The layer on `x [batch, length, d_model]`; `real f32[batch, length]` marks what is not padding.
///
/// The output is zero for dropped tokens, which therefore pass through the residual connection alone.
pub fn apply(b: &mut Builder, cx: &Context, x: Value, real: Value) -> Result<(Value, Stats), BuildError> {
    let input_shape = b.shape(x);
    let [batch, length] = [input_shape[0], input_shape[1]];
    let shape = MoeShape::new(cx.config, cx.phase, batch, length);
    let tokens = b.reshape(x, &[shape.groups, shape.tokens, shape.width])?;
    let real = b.reshape(real, &[shape.groups, shape.tokens])?;
    let routing = router::route(b, cx, tokens, real, shape.capacity)?;
    let plan = b.scoped("dispatch", |b| {
        let dtype = b.dtype(x);
        dispatch::plan(b, cx.config.moe.dispatch, &shape, &routing, dtype)
    })?;
    let inputs = b.scoped("dispatch", |b| dispatch::dispatch(b, &shape, &plan, tokens))?;
    let outputs = b.scoped("experts", |b| experts::apply(b, cx, inputs))?;
    let combined = b.scoped("combine", |b| dispatch::combine(b, &shape, &plan, outputs))?;
    let output = b.reshape(combined, &input_shape)?;
    let none = b.full_like(routing.expert_index, -1.0)?;
    let decisions = b.select(routing.kept, routing.expert_index, none)?;
    let stats = Stats {
        load_balancing_loss: routing.load_balancing_loss,
        z_loss: routing.z_loss,
        dropped: routing.dropped,
        entropy: routing.entropy,
        load: routing.load,
        decisions: b.reshape(decisions, &[batch, length, shape.choices])?,
    };
    Ok((output, stats))
}
