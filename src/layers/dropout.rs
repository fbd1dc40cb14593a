//! Dropout: zeros elements while training and scales the rest up.

use super::{Context, Phase};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Value};

/// Zeroes elements of `x` with probability `rate` and divides the rest by `1 - rate`; nothing in evaluation.
pub fn dropout(b: &mut Builder, cx: &Context, site: &str, rate: f64, x: Value) -> Result<Value, BuildError> {
    if cx.phase == Phase::Eval || rate == 0.0 {
        return Ok(x);
    }
    let key = cx.stream(b, site)?;
    let shape = b.shape(x);
    let keep = b.random_keep(key, 1.0 - rate, &shape)?;
    let scaled = b.mul_scalar(x, 1.0 / (1.0 - rate))?;
    b.mask(keep, scaled, 0.0)
}

/// Multiplies `x` by uniform numbers from `1 - epsilon` to `1 + epsilon` (Switch Transformer, appendix C); training only.
pub fn jitter(b: &mut Builder, cx: &Context, epsilon: f64, x: Value) -> Result<Value, BuildError> {
    if cx.phase == Phase::Eval || epsilon == 0.0 {
        return Ok(x);
    }
    let key = cx.stream(b, "jitter")?;
    let shape = b.shape(x);
    let uniform = b.random_uniform(key, &shape)?;
    let spread = b.mul_scalar(uniform, 2.0 * epsilon)?;
    let factor = b.add_scalar(spread, 1.0 - epsilon)?;
    let factor = b.convert(factor, DType::F32)?;
    b.mul(x, factor)
}
