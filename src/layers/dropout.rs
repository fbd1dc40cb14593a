//! Dropout: zeros elements while training and scales the rest up.

use super::{Context, Phase};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Value};
use crate::shard::{Axis, BATCH};

/// What is split over the mesh in activations whose first dimension is that of the rows of the batch.
const ROWS: &[(usize, &[Axis])] = &[(0, BATCH)];

/// Zeroes elements of `x [batch, ..]` with probability `rate` and divides the rest by `1 - rate`; nothing in evaluation.
pub fn dropout(b: &mut Builder, cx: &Context, site: &str, rate: f64, x: Value) -> Result<Value, BuildError> {
    dropout_split(b, cx, (site, rate), x, ROWS)
}

/// As [`dropout`], for an `x` that is split over the mesh in another way: pairs of a dimension and mesh axes.
pub fn dropout_split(
    b: &mut Builder,
    cx: &Context,
    (site, rate): (&str, f64),
    x: Value,
    split: &[(usize, &[Axis])],
) -> Result<Value, BuildError> {
    if cx.phase == Phase::Eval || rate == 0.0 {
        return Ok(x);
    }
    let key = cx.stream(b, site)?;
    let shape = b.shape(x);
    let window = cx.window(b, &shape, split)?;
    let keep = b.random_keep(key, 1.0 - rate, &window)?;
    let scaled = b.mul_scalar(x, 1.0 / (1.0 - rate))?;
    b.mask(keep, scaled, 0.0)
}

/// Multiplies `x [batch or groups, ..]` by uniform numbers from `1 - epsilon` to `1 + epsilon` (Switch Transformer, appendix C); training only.
pub fn jitter(b: &mut Builder, cx: &Context, epsilon: f64, x: Value) -> Result<Value, BuildError> {
    if cx.phase == Phase::Eval || epsilon == 0.0 {
        return Ok(x);
    }
    let key = cx.stream(b, "jitter")?;
    let shape = b.shape(x);
    let window = cx.window(b, &shape, ROWS)?;
    let uniform = b.random_uniform(key, &window)?;
    let spread = b.mul_scalar(uniform, 2.0 * epsilon)?;
    let factor = b.add_scalar(spread, 1.0 - epsilon)?;
    let factor = b.convert(factor, DType::F32)?;
    b.mul(x, factor)
}
