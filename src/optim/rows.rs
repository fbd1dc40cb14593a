//! A stack updated row after row, in a loop that the one which makes the gradients can take up: then a gradient lasts for one
//! iteration, and the stack of all gradients is never in memory.

use super::spec::ParamSpec;
use super::update::{Context, New, Rule, Scalars, Tensor, apply as apply_one};
use crate::build::{BuildError, Builder, ScanInputs};
use crate::ir::Value;

/// Whether the first axis stacks separate tensors, all of which each device has.
pub(super) fn has_rows(spec: &ParamSpec) -> bool {
    spec.batch_axes > 0 && spec.ty.rank() > 0 && spec.partition.axes_of(0).is_empty()
}

/// One row of a stack.
fn row(spec: &ParamSpec) -> ParamSpec {
    let mut row = spec.clone();
    row.ty.shape.remove(0);
    row.partition = spec.partition.without(0);
    row.batch_axes -= 1;
    row
}

/// The update of a stack whose gradient is not clipped, and its squares, `f32[rows]`.
pub(super) fn apply(
    b: &mut Builder,
    cx: &Context,
    scalars: Scalars,
    tensor: Tensor,
) -> Result<(New, Value), BuildError> {
    let spec = row(tensor.spec);
    let xs = [&[tensor.value, tensor.grad], tensor.slots].concat();
    let inputs = ScanInputs { consts: &[scalars.rate, scalars.count], xs: &xs, ..Default::default() };
    let (_, ys) = b.scan(inputs, |b, consts, _, xs| {
        let rule = Rule::new(b, cx.optimizer, Scalars { rate: consts[0], count: consts[1], ..scalars })?;
        let tensor = Tensor { spec: &spec, value: xs[0], grad: xs[1], slots: &xs[2..], mean_square: None };
        let (New { value, slots, .. }, squares) = apply_one(b, cx, &rule, tensor)?;
        Ok((vec![], [vec![value, squares], slots].concat()))
    })?;
    Ok((New { value: ys[0], slots: ys[2..].to_vec(), mean_square: None }, ys[1]))
}
