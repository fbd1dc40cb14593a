//! The selection bias of experts: it balances the load without a loss (DeepSeek-V3, section 2.1.2).
//!
//! The bias only moves the choice, so no gradient reaches it, and no optimizer touches it: a training step moves it by a
//! fixed amount against the load that the step has seen.

use crate::build::{BuildError, Builder};
use crate::ir::Value;

/// `bias + rate * sign(mean load - load)` per expert: `bias` and `load`, the experts' shares of all choices, are
/// `f32[layers, E]`.
pub fn update(b: &mut Builder, rate: f64, bias: Value, load: Value) -> Result<Value, BuildError> {
    let experts = b.shape(load).last().copied().unwrap_or(1);
    // Shares add up to one. Rounded, an equal share is the same number.
    let mean = b.full_like(load, 1.0 / experts.max(1) as f64)?;
    let gap = b.sub(mean, load)?;
    let direction = b.sign(gap)?;
    let step = b.mul_scalar(direction, rate)?;
    b.add(bias, step)
}
