//! Auxiliary losses and statistics of a layer. Padding counts in none of them.
//!
//! They are means over the whole batch, of which this device has a share: numerators are its own, denominators those of all
//! devices, so the sum over the devices of the batch is the mean.

use super::choose::Choices;
use super::{Balance, Routing, Scores, Slots};
use crate::build::{BuildError, Builder};
use crate::config::Router;
use crate::ir::{Reducer, Value};
use crate::moe::layer::MoeShape;
use crate::shard::{BATCH, Mesh};

/// The routing of tokens that chose, with all that is said about it.
pub fn of_tokens(
    b: &mut Builder,
    router: &Router,
    scores: Scores,
    choices: &Choices,
    (slots, real): (Slots, Value),
    shape: &MoeShape,
) -> Result<Routing, BuildError> {
    let Slots::OfTokens { expert, kept, .. } = slots else {
        return Err(BuildError::Invalid("internal: tokens chose, slots are of experts".into()));
    };
    let mesh = shape.mesh;
    let counts = Counts::new(b, mesh, real)?;
    let none = b.full_like(expert, -1.0)?;
    let demand = b.sum(choices.demand, &[0, 1])?; // [E]
    Ok(Routing {
        slots,
        decisions: b.select(kept, expert, none)?,
        balance: balance_of(b, router, &scores, choices, real, shape)?,
        z_loss: z_loss(b, &counts, scores.logits, real)?,
        load: shares(b, mesh, demand)?,
        dropped: dropped_tokens(b, mesh, real, kept)?,
        dropped_choices: dropped_choices(b, mesh, demand, kept)?,
        entropy: entropy(b, &counts, scores.probs, real)?,
    })
}

/// Numbers of real tokens, at least 1: totals are of the whole batch.
pub struct Counts {
    /// `[G]`.
    per_group: Value,
    /// Scalar.
    total: Value,
    /// Scalar: groups that have real tokens.
    groups: Value,
}

impl Counts {
    /// `real [G, S]`: 1 for tokens, 0 for padding.
    pub fn new(b: &mut Builder, mesh: Mesh, real: Value) -> Result<Self, BuildError> {
        let per_group = b.sum(real, &[1])?;
        let total = b.sum_all(real)?;
        let total = mesh.sum(b, total, BATCH)?;
        let one = b.full_like(per_group, 1.0)?;
        let some = b.min(per_group, one)?;
        let groups = b.sum_all(some)?;
        let groups = mesh.sum(b, groups, BATCH)?;
        Ok(Self {
            per_group: at_least_one(b, per_group)?,
            total: at_least_one(b, total)?,
            groups: at_least_one(b, groups)?,
        })
    }
}

fn at_least_one(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let one = b.full_like(x, 1.0)?;
    b.max(x, one)
}

/// The use of experts over groups of tokens; over sequences, with the k choices counted once, for a router that balances by its bias.
fn balance_of(
    b: &mut Builder,
    router: &Router,
    scores: &Scores,
    choices: &Choices,
    real: Value,
    shape: &MoeShape,
) -> Result<Balance, BuildError> {
    let Router::DeepseekV3 { k, .. } = router else {
        return balance(b, shape.mesh, (choices.counted, scores.probs), real);
    };
    let length = shape.groups * shape.tokens / shape.sequences.max(1);
    let rows = [shape.sequences, length, shape.experts];
    let counted = b.reshape(choices.counted, &rows)?;
    let probs = b.reshape(scores.probs, &rows)?;
    let real = b.reshape(real, &rows[..2])?;
    let all = balance(b, shape.mesh, (counted, probs), real)?;
    let once = 1.0 / *k as f64;
    Ok(Balance { loss: b.mul_scalar(all.loss, once)?, fraction: b.mul_scalar(all.fraction, once)?, ..all })
}

/// `E * sum over experts of f * P`, mean over the leading axis: f is the share of real tokens that chose the expert, which has
/// no derivative, P the mean of its probability. `chosen` and `probs [G, S, E]`, `chosen` 0 for padding; `real [G, S]`.
pub fn balance(
    b: &mut Builder,
    mesh: Mesh,
    (chosen, probs): (Value, Value),
    real: Value,
) -> Result<Balance, BuildError> {
    let counts = Counts::new(b, mesh, real)?;
    let shape = b.shape(probs);
    let [groups, experts] = [shape[0], shape[2]];
    let per_group = b.broadcast_in_dim(counts.per_group, &[groups, experts], &[0])?;
    let chosen = b.stop_gradient(chosen)?;
    let tokens = b.sum(chosen, &[1])?; // [G, E]
    let fraction = b.div(tokens, per_group)?;
    let masked = hide_padding(b, probs, real)?;
    let probability = b.sum(masked, &[1])?;
    let probability = b.div(probability, per_group)?;
    let product = b.mul(fraction, probability)?;
    let sum = b.sum_all(product)?;
    let sum = b.mul_scalar(sum, experts as f64)?;
    Ok(Balance { loss: b.div(sum, counts.groups)?, fraction, probability })
}

/// Mean squared `logsumexp` of `logits [G, S, E]`.
pub fn z_loss(b: &mut Builder, counts: &Counts, logits: Value, real: Value) -> Result<Value, BuildError> {
    let lse = b.logsumexp(logits)?;
    let square = b.square(lse)?;
    let masked = b.mul(square, real)?;
    let sum = b.sum_all(masked)?;
    b.div(sum, counts.total)
}

/// Mean entropy of `probs [G, S, E]` in nats.
pub fn entropy(b: &mut Builder, counts: &Counts, probs: Value, real: Value) -> Result<Value, BuildError> {
    let probs = b.stop_gradient(probs)?;
    let tiny = b.full_like(probs, f64::from(f32::MIN_POSITIVE))?;
    let safe = b.max(probs, tiny)?;
    let log = b.log(safe)?;
    let product = b.mul(probs, log)?;
    let masked = hide_padding(b, product, real)?;
    let sum = b.sum_all(masked)?;
    let mean = b.div(sum, counts.total)?;
    b.neg(mean)
}

/// Share of the tokens, `real [G, S]`, that no expert took: `kept pred[G, S, k]`.
pub fn dropped_tokens(b: &mut Builder, mesh: Mesh, real: Value, kept: Value) -> Result<Value, BuildError> {
    let served = b.reduce(kept, &[2], Reducer::Or)?;
    let tokens = b.sum_all(real)?;
    share_without(b, mesh, tokens, served)
}

/// Share of the wanted choices that found no slot; `demand [E]` counts them.
fn dropped_choices(b: &mut Builder, mesh: Mesh, demand: Value, kept: Value) -> Result<Value, BuildError> {
    let demand = b.stop_gradient(demand)?;
    let wanted = b.sum_all(demand)?;
    share_without(b, mesh, wanted, kept)
}

/// `(count - number of trues) / count` of all devices, 0 for none.
fn share_without(b: &mut Builder, mesh: Mesh, count: Value, trues: Value) -> Result<Value, BuildError> {
    let dtype = b.dtype(count);
    let trues = b.convert(trues, dtype)?;
    let trues = b.sum_all(trues)?;
    let lacking = b.sub(count, trues)?;
    let count = mesh.sum(b, count, BATCH)?;
    let count = at_least_one(b, count)?;
    b.div(lacking, count)
}

/// Each element over the sum of all on all devices, which is at least 1.
pub fn shares(b: &mut Builder, mesh: Mesh, x: Value) -> Result<Value, BuildError> {
    let x = b.stop_gradient(x)?;
    let total = b.sum_all(x)?;
    let total = mesh.sum(b, total, BATCH)?;
    let total = at_least_one(b, total)?;
    let total = b.splat(total, x)?;
    b.div(x, total)
}

/// `x [G, S, E]` times `real [G, S]`.
fn hide_padding(b: &mut Builder, x: Value, real: Value) -> Result<Value, BuildError> {
    let shape = b.shape(x);
    let mask = b.broadcast_in_dim(real, &shape, &[0, 1])?;
    b.mul(x, mask)
}
