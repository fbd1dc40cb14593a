//! Root-mean-square normalisation.

use super::{Context, Params};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Value};

pub fn declare(params: &mut Params, name: &str, size: usize) {
    params.gain(name, size);
}

/// `x / rms(x) * gain` over the last axis: `[.., d_model]` -> the same; the variance is computed in float32, without mean
/// and bias.
pub fn rms_norm(b: &mut Builder, cx: &Context, name: &str, x: Value) -> Result<Value, BuildError> {
    rms_norm_with(b, cx, name, cx.config.norm_epsilon, x)
}

/// The same with this number added to the mean square.
pub fn rms_norm_with(
    b: &mut Builder,
    cx: &Context,
    name: &str,
    epsilon: f64,
    x: Value,
) -> Result<Value, BuildError> {
    let gain = cx.weights.get(b, name)?;
    let (shape, dtype) = (b.shape(x), b.dtype(x));
    let last = shape.len() - 1;
    let wide = b.convert(x, DType::F32)?;
    let square = b.square(wide)?;
    let mean = b.mean(square, &[last])?;
    let mean = b.add_scalar(mean, epsilon)?;
    let scale = b.rsqrt(mean)?;
    let scale = b.unreduce(scale, &shape, &[last])?;
    let normal = b.mul(wide, scale)?;
    let gain = b.broadcast_in_dim(gain, &shape, &[last])?;
    let scaled = b.mul(normal, gain)?;
    b.convert(scaled, dtype)
}
