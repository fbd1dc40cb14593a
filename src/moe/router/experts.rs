//! Experts that choose tokens (Zhou et al., 2022): each takes the tokens that give it the highest probabilities until it is
//! full. One stable sort of the tokens per expert; everything after it is as long as there are slots.

use super::measure::{self, Counts};
use super::{Balance, Routing, Scores, Slots};
use crate::build::{BuildError, Builder};
use crate::ir::{Combiner, DType, Direction, Reducer, ScatterDims, TensorType, Value};
use crate::moe::layer::MoeShape;

/// The routing for scores `[G, S, E]`; `real [G, S]` is 1 for tokens and 0 for padding, which is never taken.
pub fn route(b: &mut Builder, scores: Scores, real: Value, shape: &MoeShape) -> Result<Routing, BuildError> {
    let (token, taken) = best_tokens(b, scores.choice, real, shape)?;
    let gate = gates(b, scores.weight, (token, taken), shape)?;
    let empty = b.full_like(token, shape.tokens as f64)?;
    let token = b.select(taken, token, empty)?;
    let decisions = decisions(b, token, shape)?;

    let counts = Counts::new(b, shape.mesh, real)?;
    let kept = b.compare_scalar(Direction::Ge, decisions, 0.0)?;
    let dtype = b.dtype(real);
    let taken = b.convert(taken, dtype)?;
    let taken = b.sum(taken, &[0, 2])?; // [E]
    let zero = b.scalar(dtype, 0.0)?;
    let none = b.zeros(&TensorType::new(dtype, [shape.groups, shape.experts]))?;
    Ok(Routing {
        slots: Slots::OfExperts { token, gate },
        decisions,
        // Every expert has the same load by construction, and loses no choice.
        balance: Balance { loss: zero, fraction: none, probability: none },
        dropped_choices: zero,
        z_loss: measure::z_loss(b, &counts, scores.logits, real)?,
        load: measure::shares(b, shape.mesh, taken)?,
        dropped: measure::dropped_tokens(b, shape.mesh, real, kept)?,
        entropy: measure::entropy(b, &counts, scores.probs, real)?,
    })
}

/// The tokens that each expert would take, best first, and whether they are no padding: `s32` and `pred[G, E, C]`.
fn best_tokens(
    b: &mut Builder,
    scores: Value,
    real: Value,
    shape: &MoeShape,
) -> Result<(Value, Value), BuildError> {
    let scores = b.stop_gradient(scores)?;
    let wide = [shape.groups, shape.experts, shape.tokens];
    let scores = b.transpose(scores, &[0, 2, 1])?;
    let is_real = b.compare_scalar(Direction::Gt, real, 0.0)?;
    let is_real = b.broadcast_in_dim(is_real, &wide, &[0, 2])?;
    // Probabilities are not negative: padding comes last.
    let scores = b.mask(is_real, scores, -1.0)?;
    let token = b.iota(TensorType::new(DType::S32, wide), 2)?;
    let sorted = b.sort_by_key(scores, &[token], 2, true)?;
    let best = b.slice_axis(sorted[0], 2, 0, shape.capacity)?;
    let token = b.slice_axis(sorted[1], 2, 0, shape.capacity)?;
    Ok((token, b.compare_scalar(Direction::Ge, best, 0.0)?))
}

/// The weights `[G, S, E]` of the taken tokens: `[G, E, C]`, 0 elsewhere.
fn gates(
    b: &mut Builder,
    weights: Value,
    (token, taken): (Value, Value),
    shape: &MoeShape,
) -> Result<Value, BuildError> {
    let [g, e, s, c] = [shape.groups, shape.experts, shape.tokens, shape.capacity];
    let weights = b.transpose(weights, &[0, 2, 1])?;
    let weights = b.reshape(weights, &[g * e, s])?;
    let rows = b.reshape(token, &[g * e, c])?;
    let found = b.take_rows_grouped(weights, rows)?;
    let found = b.reshape(found, &[g, e, c])?;
    b.mask(taken, found, 0.0)
}

/// `s32[G, S, E]`: the expert where it took the token, else -1, from `token s32[G, E, C]`.
fn decisions(b: &mut Builder, token: Value, shape: &MoeShape) -> Result<Value, BuildError> {
    let [g, e, s] = [shape.groups, shape.experts, shape.tokens];
    let ty = b.ty(token).clone();
    let (group, expert) = (b.iota(ty.clone(), 0)?, b.iota(ty.clone(), 1)?);
    // (group * S + token) * E + expert
    let row = b.mul_scalar(group, s as f64)?;
    let row = b.add(row, token)?;
    let row = b.mul_scalar(row, e as f64)?;
    let place = b.add(row, expert)?;
    let is_token = b.compare_scalar(Direction::Lt, token, s as f64)?;
    let place = b.mask(is_token, place, (g * s * e) as f64)?;
    let none = b.full(&TensorType::new(DType::S32, [g * s * e]), -1.0)?;
    let dims = ScatterDims {
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 3,
        ..Default::default()
    };
    // Empty slots point past the end, where updates are skipped; all others differ.
    let marked = b.scatter((none, place, expert), dims, Combiner::Reduce(Reducer::Max), false)?;
    b.reshape(marked, &[g, s, e])
}
