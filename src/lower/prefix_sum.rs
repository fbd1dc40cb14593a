//! Cumulative sums as one `reduce-window` over the axis, which XLA's compilers turn into a tree.

use super::function::Inst;
use super::node::{Target, padding};
use crate::hlo::{Window, WindowDimension, shape_of};
use crate::ir::{Reducer, TensorType};

pub(super) fn cumsum(
    t: &mut Target,
    x: &Inst,
    ty: &TensorType,
    dim: usize,
    (exclusive, reverse): (bool, bool),
) -> Inst {
    let size = ty.shape[dim];
    // XLA divides by zero on a window over nothing.
    if ty.elements() == 0 {
        return *x;
    }
    let combine = t.module.reducer(Some(Reducer::Add), ty.dtype, 1);
    let zero = t.f.constant(t.module, &Reducer::Add.neutral(ty.dtype));
    let window = (0..ty.rank()).map(|d| window_dimension(if d == dim { size } else { 1 }, reverse)).collect();
    let inclusive = t.emit("reduce-window", shape_of(ty), &[x, &zero], |p| {
        p.window = Some(Box::new(Window { dimensions: window }));
        p.called_computation_ids = vec![combine];
    });
    if !exclusive {
        return inclusive;
    }
    // Shifted by one, so that no difference of sums rounds.
    let mut low = vec![0; ty.rank()];
    let mut high = low.clone();
    (low[dim], high[dim]) = if reverse { (-1, 1) } else { (1, -1) };
    let config = padding(&low, &high, &vec![0; ty.rank()]);
    t.emit("pad", shape_of(ty), &[&inclusive, &zero], |p| p.padding_config = Some(Box::new(config)))
}

fn window_dimension(size: usize, reverse: bool) -> WindowDimension {
    let reach = size as i64 - 1;
    WindowDimension {
        size: size as i64,
        stride: 1,
        padding_low: if reverse { 0 } else { reach },
        padding_high: if reverse { reach } else { 0 },
        window_dilation: 1,
        base_dilation: 1,
        window_reversal: false,
    }
}
