//! Exploration while training (Switch Transformer, appendix C); evaluation has none.

use crate::build::{BuildError, Builder};
use crate::config::Exploration;
use crate::ir::Value;
use crate::layers::{Context, Phase, dropout};
use crate::shard::BATCH;

/// The least uniform number, half of the next one: its logarithm is finite.
const LEAST_UNIFORM: f64 = 1.0 / (1 << 25) as f64;

/// The router's input with jitter or dropout; the experts' input stays as it is.
pub fn on_inputs(
    b: &mut Builder,
    cx: &Context,
    exploration: Exploration,
    inputs: Value,
) -> Result<Value, BuildError> {
    match exploration {
        Exploration::Argmax | Exploration::Sample { .. } => Ok(inputs),
        Exploration::InputJitter { epsilon } => dropout::jitter(b, cx, epsilon, inputs),
        Exploration::InputDropout { rate } => dropout::dropout(b, cx, "router_input", rate, inputs),
    }
}

/// What to choose by in place of `scores`: with sampling, `logits / temperature` plus Gumbel noise, whose greatest k elements
/// are k draws from the softmax without replacement.
pub fn on_choice(
    b: &mut Builder,
    cx: &Context,
    exploration: Exploration,
    (scores, logits): (Value, Value),
) -> Result<Value, BuildError> {
    let Exploration::Sample { temperature } = exploration else { return Ok(scores) };
    if cx.phase == Phase::Eval {
        return Ok(scores);
    }
    let uniform = uniform(b, cx, "sample", logits)?;
    let least = b.full_like(uniform, LEAST_UNIFORM)?;
    let uniform = b.max(uniform, least)?;
    let log = b.log(uniform)?;
    let exponential = b.neg(log)?;
    let log = b.log(exponential)?;
    let cooled = b.mul_scalar(logits, 1.0 / temperature)?;
    b.sub(cooled, log)
}

/// Uniform numbers in [0, 1) of the type of `like [groups, ..]`.
pub fn uniform(b: &mut Builder, cx: &Context, site: &str, like: Value) -> Result<Value, BuildError> {
    let key = cx.stream(b, site)?;
    let (shape, dtype) = (b.shape(like), b.dtype(like));
    let window = cx.window(b, &shape, &[(0, BATCH)])?;
    let uniform = b.random_uniform(key, &window)?;
    b.convert(uniform, dtype)
}
