//! The learning rate as a function of the step.

use crate::build::{BuildError, Builder};
use crate::config::Schedule;
use crate::ir::{DType, Value};
use std::f64::consts::PI;

type Built = Result<Value, BuildError>;

/// The rate at `step`, an integer scalar that counts from 0: `f32[]`.
///
/// A linear warm-up of n steps takes `rate / n` first and the whole rate at step n - 1, so no step is wasted on rate 0.
/// Steps above 2^24 are rounded. Errors: [`BuildError::Shape`] if `step` is no scalar.
/// Source of the inverse square root: T5 (Raffel et al., 2020), section 3.1.2.
pub fn learning_rate(b: &mut Builder, schedule: &Schedule, step: Value) -> Built {
    b.scoped("learning_rate", |b| {
        let step = b.convert(step, DType::F32)?;
        let rate = match *schedule {
            Schedule::InverseSquareRoot { base, warmup_steps } => {
                let warmup = b.scalar(DType::F32, warmup_steps.max(1) as f64)?;
                let step = b.max(step, warmup)?;
                let root = b.rsqrt(step)?;
                b.mul_scalar(root, base)?
            }
            Schedule::Constant { rate, warmup_steps } => {
                let warm = warm_up(b, step, warmup_steps)?;
                b.mul_scalar(warm, rate)?
            }
            Schedule::Cosine { peak, warmup_steps, total_steps, final_fraction } => {
                let warm = warm_up(b, step, warmup_steps)?;
                let progress = progress(b, step, warmup_steps, total_steps)?;
                let height = half_cosine(b, progress)?;
                let fraction = b.mul_scalar(height, 1.0 - final_fraction)?;
                let fraction = b.add_scalar(fraction, final_fraction)?;
                let rate = b.mul(warm, fraction)?;
                b.mul_scalar(rate, peak)?
            }
        };
        Ok(b.name(rate, "rate", &[]))
    })
}

/// `min(1, (step + 1) / steps)`.
fn warm_up(b: &mut Builder, step: Value, steps: u64) -> Built {
    let one = b.scalar(DType::F32, 1.0)?;
    let steps = b.scalar(DType::F32, steps.max(1) as f64)?;
    let next = b.add(step, one)?;
    // A division, so that the last step of the warm-up gives exactly 1.
    let fraction = b.div(next, steps)?;
    b.min(fraction, one)
}

/// 0 until `start`, 1 from `end` on, linear between.
fn progress(b: &mut Builder, step: Value, start: u64, end: u64) -> Built {
    let length = b.scalar(DType::F32, end.saturating_sub(start).max(1) as f64)?;
    let (zero, one) = (b.scalar(DType::F32, 0.0)?, b.scalar(DType::F32, 1.0)?);
    let past = b.add_scalar(step, -(start as f64))?;
    let fraction = b.div(past, length)?;
    b.clamp(zero, fraction, one)
}

/// From 1 at `progress` 0 down to 0 at 1.
fn half_cosine(b: &mut Builder, progress: Value) -> Built {
    let angle = b.mul_scalar(progress, PI)?;
    let cos = b.cos(angle)?;
    let half = b.mul_scalar(cos, 0.5)?;
    b.add_scalar(half, 0.5)
}
