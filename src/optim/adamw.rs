//! Adam with decoupled weight decay.

use super::update::{Decay, Gradient, Scalars, Tensor, Updated, moving_average};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Value};

type Built = Result<Value, BuildError>;

/// The numbers of the configuration.
pub(super) struct Settings {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

/// The rule with the scalars of this step. Source: Loshchilov and Hutter (2019), algorithm 2.
pub(super) struct AdamW {
    settings: Settings,
    scalars: Scalars,
    /// `1 - beta1^count`, `1 - beta2^count`.
    corrections: (Value, Value),
}

impl AdamW {
    pub fn new(b: &mut Builder, settings: Settings, scalars: Scalars) -> Result<Self, BuildError> {
        let first = correction(b, scalars.count, settings.beta1)?;
        let second = correction(b, scalars.count, settings.beta2)?;
        Ok(Self { settings, scalars, corrections: (first, second) })
    }

    pub fn apply(
        &self,
        b: &mut Builder,
        Tensor { spec, value: param, slots, .. }: Tensor,
        gradient: Gradient,
    ) -> Updated {
        let &[m, v] = slots else {
            return Err(BuildError::Invalid(format!("optimizer: slots of `{}` are missing", spec.name)));
        };
        let squares = b.square(gradient.clipped)?;
        let m = moving_average(b, m, gradient.clipped, self.settings.beta1)?;
        let v = moving_average(b, v, squares, self.settings.beta2)?;
        let change = self.change(b, m, v)?;
        let decay = Decay { rate: self.scalars.rate, weight: self.settings.weight_decay };
        Ok((decay.subtract(b, spec, param, change)?, vec![m, v]))
    }

    /// `rate * (m / correction1) / (sqrt(v / correction2) + epsilon)`.
    fn change(&self, b: &mut Builder, m: Value, v: Value) -> Built {
        let size = b.div(self.scalars.rate, self.corrections.0)?;
        let inverse = {
            let one = b.scalar(DType::F32, 1.0)?;
            b.div(one, self.corrections.1)?
        };
        let v = b.scale(v, inverse)?;
        let root = b.sqrt(v)?;
        let root = b.add_scalar(root, self.settings.epsilon)?;
        let m = b.scale(m, size)?;
        b.div(m, root)
    }
}

/// `1 - beta^count` as `-expm1(count * ln beta)`: `beta` in float32 would be wrong by 1e-5 of the result near 1.
fn correction(b: &mut Builder, count: Value, beta: f64) -> Built {
    let log = b.scalar(DType::F32, beta.ln())?;
    let exponent = b.mul(count, log)?;
    let power = b.expm1(exponent)?;
    b.neg(power)
}
