//! Slots for the choices of tokens: each takes the next place of its expert, in order of priority.
//!
//! A place is the number of choices of the same expert that come before: an exclusive prefix sum of marks along the queue.
//! Nothing is sorted for it; only batch-prioritised routing sorts, and then the small integers, not the marks.

use super::choose::{Choices, stack_last, unstack_last};
use super::{Scores, Slots};
use crate::build::{BuildError, Builder};
use crate::config::{Placement, Priority, Router};
use crate::ir::{DType, Direction, Reducer, TensorType, Value};
use crate::moe::layer::MoeShape;

/// Gives the choices their slots.
pub fn place(
    b: &mut Builder,
    router: &Router,
    scores: &Scores,
    choices: &Choices,
    shape: &MoeShape,
) -> Result<Slots, BuildError> {
    let order = match router.priority() {
        Priority::Position => None,
        Priority::Probability => Some(b.reduce(scores.probs, &[2], Reducer::Max)?),
    };
    match router {
        Router::NoTokenLeftBehind { .. } => in_rounds(b, order, choices, shape),
        _ => at_once(b, order, choices, router.placement(), shape),
    }
}

/// All choices stand; those past the capacity are dropped.
fn at_once(
    b: &mut Builder,
    order: Option<Value>,
    choices: &Choices,
    placement: Placement,
    shape: &MoeShape,
) -> Result<Slots, BuildError> {
    let asked = asked(b, choices, shape)?;
    let positions = in_order(b, order, &asked, |b, asked| queue(b, asked, placement, shape))?;
    let position = stack_last(b, &positions)?;
    let wanted = stack_last(b, &choices.wanted)?;
    let fits = b.compare_scalar(Direction::Lt, position, shape.capacity as f64)?;
    Ok(Slots::OfTokens {
        expert: stack_last(b, &choices.experts)?,
        gate: stack_last(b, &choices.gates)?,
        position,
        kept: b.and(wanted, fits)?,
    })
}

/// The expert of each choice, or E where the token wants none: each `s32[G, S]`.
fn asked(b: &mut Builder, choices: &Choices, shape: &MoeShape) -> Result<Vec<Value>, BuildError> {
    let pairs = choices.experts.iter().zip(&choices.wanted);
    pairs.map(|(&expert, &wanted)| b.mask(wanted, expert, shape.experts as f64)).collect()
}

/// Runs `body` on values `s32[G, S]` with the tokens of each group in descending order of `score`, the first of equals first,
/// and puts its results, of the same shape, back in the order of the tokens.
fn in_order(
    b: &mut Builder,
    score: Option<Value>,
    xs: &[Value],
    body: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, BuildError>,
) -> Result<Vec<Value>, BuildError> {
    let Some(score) = score else { return body(b, xs) };
    let score = b.stop_gradient(score)?;
    let token = b.iota(TensorType::new(DType::S32, b.shape(score)), 1)?;
    let sorted = b.sort_by_key(score, &[&[token], xs].concat(), 1, true)?;
    let results = body(b, &sorted[2..])?;
    // Sorting by where a token came from puts it back.
    let restored = b.sort_by_key(sorted[1], &results, 1, false)?;
    Ok(restored[1..].to_vec())
}

/// The place of each choice among all of its expert: each `s32[G, S]`, from experts of the same shape.
fn queue(
    b: &mut Builder,
    experts: &[Value],
    placement: Placement,
    shape: &MoeShape,
) -> Result<Vec<Value>, BuildError> {
    let [g, s, k] = [shape.groups, shape.tokens, experts.len()];
    if let [only] = *experts {
        return Ok(vec![places(b, only, shape.experts)?.0]);
    }
    match placement {
        Placement::ChoiceMajor => {
            let line = b.concatenate(experts, 1)?; // [G, k * S]
            let places = places(b, line, shape.experts)?.0;
            (0..k).map(|i| b.slice_axis(places, 1, i * s, (i + 1) * s)).collect()
        }
        Placement::TokenMajor => {
            let line = stack_last(b, experts)?;
            let line = b.reshape(line, &[g, s * k])?;
            let places = places(b, line, shape.experts)?.0;
            let places = b.reshape(places, &[g, s, k])?;
            unstack_last(b, places)
        }
    }
}

/// For a line of experts `s32[G, N]`: how many of the same come before each, `s32[G, N]`, and how many of each there are,
/// `s32[G, E]`. Integers count exactly.
fn places(b: &mut Builder, line: Value, experts: usize) -> Result<(Value, Value), BuildError> {
    let marks = b.one_hot(line, experts, DType::S32)?; // [G, N, E]
    let before = b.cumsum(marks, 1, true, false)?;
    let own = b.mul(before, marks)?;
    Ok((b.sum(own, &[2])?, b.sum(marks, &[1])?))
}

/// Tokens whose choice is full try their next one, round after round; each ends with one slot at most.
fn in_rounds(
    b: &mut Builder,
    order: Option<Value>,
    choices: &Choices,
    shape: &MoeShape,
) -> Result<Slots, BuildError> {
    let asked = asked(b, choices, shape)?;
    let found = in_order(b, order, &asked, |b, asked| rounds(b, asked, shape))?;
    let (position, round) = (found[0], found[1]);
    let (mut expert, mut gate) = (choices.experts[0], choices.gates[0]);
    for i in 1..asked.len() {
        let here = b.compare_scalar(Direction::Eq, round, i as f64)?;
        expert = b.select(here, choices.experts[i], expert)?;
        gate = b.select(here, choices.gates[i], gate)?;
    }
    let fits = b.compare_scalar(Direction::Lt, position, shape.capacity as f64)?;
    let kept = b.and(fits, choices.wanted[0])?;
    let [expert, gate, position, kept] = [
        stack_last(b, &[expert])?,
        stack_last(b, &[gate])?,
        stack_last(b, &[position])?,
        stack_last(b, &[kept])?,
    ];
    Ok(Slots::OfTokens { expert, gate, position, kept })
}

/// The place that each token has in the end, the capacity where it has none, and the round that it was found in: `s32[G, S]`.
fn rounds(b: &mut Builder, asked: &[Value], shape: &MoeShape) -> Result<Vec<Value>, BuildError> {
    let (mut position, mut round) =
        (b.full_like(asked[0], shape.capacity as f64)?, b.full_like(asked[0], 0.0)?);
    let mut used: Option<Value> = None; // [G, E]
    for (i, &expert) in asked.iter().enumerate() {
        let lacking = b.compare_scalar(Direction::Ge, position, shape.capacity as f64)?;
        let expert = b.mask(lacking, expert, shape.experts as f64)?;
        let (among, count) = places(b, expert, shape.experts)?;
        let place = match used {
            Some(used) => {
                let taken = taken_of(b, used, expert)?;
                b.add(among, taken)?
            }
            None => among,
        };
        // Where more asked than fit, the expert is full, and stays so for all later rounds.
        used = Some(match used {
            Some(used) => b.add(used, count)?,
            None => count,
        });
        let fits = b.compare_scalar(Direction::Lt, place, shape.capacity as f64)?;
        let found = b.and(lacking, fits)?;
        position = b.select(found, place, position)?;
        let this = b.full_like(round, i as f64)?;
        round = b.select(found, this, round)?;
    }
    Ok(vec![position, round])
}

/// `used s32[G, E]` at `expert s32[G, S]`: `s32[G, S]`, 0 where there is no such expert.
fn taken_of(b: &mut Builder, used: Value, expert: Value) -> Result<Value, BuildError> {
    let experts = b.shape(used)[1];
    let marks = b.one_hot(expert, experts, DType::S32)?;
    let shape = b.shape(marks);
    let wide = b.broadcast_in_dim(used, &shape, &[0, 2])?;
    let own = b.mul(marks, wide)?;
    b.sum(own, &[2])
}
