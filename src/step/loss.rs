//! The training loss of a batch and what is reported beside it.

use crate::build::{BuildError, Builder};
use crate::config::{Aggregation, RunConfig, Side};
use crate::ir::{DType, Direction, Value};
use crate::layers::vocabulary::Teacher;
use crate::layers::{Context, ParamDef, attention, embedding};
use crate::model::{self, Batch, Forward};
use crate::moe::Stats;
use crate::shard::{BATCH, Mesh};

/// Per-layer statistics, in this order: scalars per layer first, then the load.
pub(super) const LAYER_METRICS: [&str; 6] =
    ["load_balancing_loss", "router_z_loss", "dropped", "dropped_choices", "router_entropy", "expert_load"];

/// Sums over the tokens of a batch, and means over sparse layers' tokens: of all devices, the same on each of them.
pub(super) struct Losses {
    /// Sum over tokens, differentiable.
    pub objective: Value,
    pub cross_entropy: Value,
    pub z_loss: Value,
    /// Of the teacher's predictions; 0 without a teacher.
    pub soft_cross_entropy: Value,
    pub correct: Value,
    /// Number of tokens that count.
    pub tokens: Value,
    /// Number of target sequences, and of those whose tokens are all correct.
    pub sequences: Value,
    pub exact: Value,
    /// The auxiliary losses with their coefficients; none for a dense model.
    pub auxiliary: Option<Value>,
    /// Each `f32[sparse layers]`, the load `f32[sparse layers, experts]`; empty for a dense model.
    pub layers: Vec<Value>,
}

impl Losses {
    /// From the parts of each device to those of all.
    fn over_devices(self, b: &mut Builder, mesh: Mesh) -> Result<Self, BuildError> {
        let mut sum = |x: Value| mesh.sum(b, x, BATCH);
        Ok(Self {
            objective: sum(self.objective)?,
            cross_entropy: sum(self.cross_entropy)?,
            z_loss: sum(self.z_loss)?,
            soft_cross_entropy: sum(self.soft_cross_entropy)?,
            correct: sum(self.correct)?,
            tokens: sum(self.tokens)?,
            sequences: sum(self.sequences)?,
            exact: sum(self.exact)?,
            auxiliary: self.auxiliary.map(&mut sum).transpose()?,
            layers: self.layers.into_iter().map(sum).collect::<Result<_, _>>()?,
        })
    }
}

/// Builds the network and its losses.
pub(super) fn losses(
    b: &mut Builder,
    config: &RunConfig,
    cx: &Context,
    defs: &[ParamDef],
    batch: Batch,
    teacher: Option<Teacher>,
) -> Result<(Losses, Forward), BuildError> {
    let forward = model::forward(b, cx, defs, batch)?;
    let sums = forward.token_loss(b, cx, config.loss, teacher)?;
    let (sequences, exact) = count_exact(b, &forward, sums.hits)?;
    let layers = layer_metrics(b, &forward)?;
    let losses = Losses {
        objective: sums.objective,
        cross_entropy: sums.cross_entropy,
        z_loss: sums.z_loss,
        soft_cross_entropy: sums.soft_cross_entropy,
        correct: sums.correct,
        tokens: b.sum_all(forward.weights)?,
        sequences,
        exact,
        auxiliary: auxiliary(b, config, &forward, &layers)?,
        layers,
    };
    let losses = losses.over_devices(b, config.mesh)?;
    Ok((losses, forward))
}

/// The number of target sequences with tokens that count, and of those among them that are hit in every such token.
fn count_exact(b: &mut Builder, forward: &Forward, hits: Value) -> Result<(Value, Value), BuildError> {
    let (tokens, hits) = match forward.segments {
        None => (b.sum(forward.weights, &[1])?, b.sum(hits, &[1])?),
        Some(segments) => {
            let same = attention::same_example(b, segments, segments)?;
            let same = b.convert(same, DType::F32)?;
            // Each example is counted at its first token.
            let before = embedding::shift_right(b, segments, None)?;
            let first = b.compare(Direction::Ne, before, segments)?;
            let sum = |b: &mut Builder, x: Value| {
                let all = b.einsum("bij,bj->bi", same, x)?;
                b.mask(first, all, 0.0)
            };
            (sum(b, forward.weights)?, sum(b, hits)?)
        }
    };
    let filled = b.compare_scalar(Direction::Gt, tokens, 0.0)?;
    let all = b.compare(Direction::Eq, hits, tokens)?;
    let exact = b.and(filled, all)?;
    let mut count = |rows: Value| {
        let rows = b.convert(rows, DType::F32)?;
        b.sum_all(rows)
    };
    Ok((count(filled)?, count(exact)?))
}

/// This device's share of the statistics of all sparse layers, encoder first.
fn layer_metrics(b: &mut Builder, forward: &Forward) -> Result<Vec<Value>, BuildError> {
    if forward.stats.is_empty() {
        return Ok(vec![]);
    }
    let pick: [fn(&Stats) -> Value; LAYER_METRICS.len()] = [
        |s| s.load_balancing_loss,
        |s| s.z_loss,
        |s| s.dropped,
        |s| s.dropped_choices,
        |s| s.entropy,
        |s| s.load,
    ];
    pick.iter()
        .map(|pick| {
            let parts: Vec<Value> = forward.stats.iter().map(|(_, stats)| pick(stats)).collect();
            b.concatenate(&parts, 0)
        })
        .collect()
}

/// This device's share of the auxiliary losses of all sparse layers with their coefficients: a scalar, or none for a dense model.
fn auxiliary(
    b: &mut Builder,
    config: &RunConfig,
    forward: &Forward,
    layers: &[Value],
) -> Result<Option<Value>, BuildError> {
    let [balance, z, ..] = *layers else { return Ok(None) };
    let moe = &config.model.moe;
    let [balance, z] = match moe.aggregation {
        Aggregation::Sum => [b.sum_all(balance)?, b.sum_all(z)?],
        Aggregation::Mean => [b.mean_all(balance)?, b.mean_all(z)?],
        Aggregation::Pooled => pooled(b, config.mesh, &forward.stats)?,
        Aggregation::PooledMixed => pooled(b, config.mesh, &of_mixed_stacks(config, forward))?,
    };
    let balance = b.mul_scalar(balance, moe.load_balancing_coef)?;
    let z = b.mul_scalar(z, moe.z_loss_coef)?;
    Ok(Some(b.add(balance, z)?))
}

/// The statistics of the stacks that have dense blocks beside sparse ones.
fn of_mixed_stacks(config: &RunConfig, forward: &Forward) -> Vec<(Side, Stats)> {
    let model = &config.model;
    let mixed = |(side, _): &&(Side, Stats)| model.sparse_blocks(*side) < side.layers(model);
    forward.stats.iter().filter(mixed).copied().collect()
}

/// The load-balancing loss and the z-loss, each stack's layers taken for one layer, summed over stacks.
fn pooled(b: &mut Builder, mesh: Mesh, stacks: &[(Side, Stats)]) -> Result<[Value; 2], BuildError> {
    let zero = b.scalar(DType::F32, 0.0)?;
    let mut sums = [zero, zero];
    for (_, stats) in stacks {
        let fraction = b.mean(stats.fraction, &[0])?; // [groups, experts]
        let probability = b.mean(stats.probability, &[0])?;
        let product = b.mul(fraction, probability)?;
        let mean = b.mean_all(product)?;
        let experts = b.shape(product)[1] as f64;
        // E * sum over experts, mean over the groups of all devices.
        let balance = b.mul_scalar(mean, experts * experts / mesh.batch_parts() as f64)?;
        let z = b.mean_all(stats.z_loss)?;
        sums = [b.add(sums[0], balance)?, b.add(sums[1], z)?];
    }
    Ok(sums)
}

/// `x / max(count, 1)` for scalars.
pub(super) fn per_token(b: &mut Builder, x: Value, count: Value) -> Result<Value, BuildError> {
    let one = b.scalar(DType::F32, 1.0)?;
    let count = b.max(count, one)?;
    b.div(x, count)
}
