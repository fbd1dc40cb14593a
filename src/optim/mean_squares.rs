//! The mean squares of parameters: the scale of Adafactor's steps. Where they are kept, an update leaves those of its new parameters
//! for the next one. They follow from the parameters, so that no checkpoint has them.

use super::spec::{ParamSpec, Slot};
use super::update::Context;
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Value};

/// What is kept of these parameters, in their order: `optimizer/mean_square/<parameter>`, one number for each element of a stack.
pub fn mean_squares(cx: &Context, params: &[ParamSpec]) -> Vec<Slot> {
    let kept = params.iter().enumerate().filter(|(_, spec)| cx.keeps_mean_square(spec));
    kept.map(|(param, spec)| slot(param, spec)).collect()
}

fn slot(param: usize, spec: &ParamSpec) -> Slot {
    let mut ty = spec.ty.with_dtype(DType::F32);
    let mut partition = spec.partition.clone();
    for axis in spec.own_axes().into_iter().rev() {
        ty.shape.remove(axis);
        partition = partition.without(axis);
    }
    Slot { name: format!("optimizer/mean_square/{}", spec.name), ty, partition, param }
}

/// The same numbers from the blocks of the parameters that this device holds.
pub fn take_mean_squares(
    b: &mut Builder,
    cx: &Context,
    params: &[ParamSpec],
    values: &[Value],
) -> Result<Vec<Value>, BuildError> {
    let kept = params.iter().zip(values).filter(|(spec, _)| cx.keeps_mean_square(spec));
    kept.map(|(spec, &value)| take(b, cx, spec, value)).collect()
}

/// Of one parameter.
pub(super) fn take(
    b: &mut Builder,
    cx: &Context,
    spec: &ParamSpec,
    value: Value,
) -> Result<Value, BuildError> {
    let value = b.convert(value, DType::F32)?;
    let squares = b.square(value)?;
    cx.means().mean(b, spec, squares, &spec.own_axes())
}
