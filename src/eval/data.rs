//! Operations that move elements without changing them.

use super::tensor::{Scalar, Tensor, by_kind};
use crate::ir::TensorType;
use ndarray::{ArrayD, Axis, IxDyn, Slice};
use std::sync::Arc;

pub(super) fn iota(ty: &TensorType, dim: usize) -> Tensor {
    let inner: usize = ty.shape[dim + 1..].iter().product();
    let count = (0..ty.elements()).map(|i| i / inner.max(1) % ty.shape[dim].max(1));
    if ty.dtype.is_float() {
        Tensor::fitted(ty.dtype, ty.shape.clone(), count.map(|i| i as f64).collect())
    } else {
        Tensor::fitted(ty.dtype, ty.shape.clone(), count.map(|i| i as i128).collect())
    }
}

pub(super) fn broadcast_in_dim(x: &Tensor, shape: &[usize], dims: &[usize]) -> Tensor {
    fn typed<T: Scalar>(x: &Tensor, shape: &[usize], dims: &[usize]) -> Tensor {
        let mut view = x.view::<T>();
        for axis in (0..shape.len()).filter(|d| !dims.contains(d)) {
            view = view.insert_axis(Axis(axis));
        }
        let wide = view.broadcast(IxDyn(shape));
        Tensor::of_view(
            x.dtype(),
            wide.unwrap_or_else(|| panic!("internal: {} does not fill {shape:?}", x.ty)),
        )
    }
    by_kind!(x, typed(x, shape, dims))
}

pub(super) fn reshape(x: &Tensor, shape: &[usize]) -> Tensor {
    Tensor { ty: TensorType::new(x.dtype(), shape), data: x.data.clone() }
}

pub(super) fn transpose(x: &Tensor, permutation: &[usize]) -> Tensor {
    fn typed<T: Scalar>(x: &Tensor, permutation: &[usize]) -> Tensor {
        Tensor::of_view(x.dtype(), x.view::<T>().permuted_axes(IxDyn(permutation)))
    }
    by_kind!(x, typed(x, permutation))
}

pub(super) fn reverse(x: &Tensor, dims: &[usize]) -> Tensor {
    fn typed<T: Scalar>(x: &Tensor, dims: &[usize]) -> Tensor {
        let mut view = x.view::<T>();
        dims.iter().for_each(|&d| view.invert_axis(Axis(d)));
        Tensor::of_view(x.dtype(), view)
    }
    by_kind!(x, typed(x, dims))
}

/// Every `step` element from `start` on, below `limit`.
#[derive(Clone, Copy)]
struct Range {
    start: usize,
    limit: usize,
    step: usize,
}

impl Range {
    fn of(self) -> Slice {
        Slice::new(self.start as isize, Some(self.limit as isize), self.step as isize)
    }
}

pub(super) fn slice(x: &Tensor, starts: &[usize], limits: &[usize], strides: &[usize]) -> Tensor {
    let ranges: Vec<Range> =
        (0..starts.len()).map(|d| Range { start: starts[d], limit: limits[d], step: strides[d] }).collect();
    by_kind!(x, sliced(x, &ranges))
}

fn sliced<T: Scalar>(x: &Tensor, ranges: &[Range]) -> Tensor {
    Tensor::of_view(x.dtype(), x.view::<T>().slice_each_axis(|axis| ranges[axis.axis.index()].of()))
}

/// The block of these sizes at these starts.
pub(super) fn block(x: &Tensor, starts: &[usize], sizes: &[usize]) -> Tensor {
    let limits: Vec<usize> = starts.iter().zip(sizes).map(|(start, size)| start + size).collect();
    slice(x, starts, &limits, &vec![1; starts.len()])
}

/// `x` with `update` in place of the block at these starts.
pub(super) fn with_block(x: &Tensor, update: &Tensor, starts: &[usize]) -> Tensor {
    fn typed<T: Scalar>(x: &Tensor, update: &Tensor, starts: &[usize]) -> Tensor {
        let mut result = x.view::<T>().to_owned();
        result
            .slice_each_axis_mut(|axis| {
                let d = axis.axis.index();
                Range { start: starts[d], limit: starts[d] + update.shape()[d], step: 1 }.of()
            })
            .assign(&update.view::<T>());
        Tensor::of_view(x.dtype(), result.view())
    }
    by_kind!(x, typed(x, update, starts))
}

pub(super) fn concatenate(xs: &[Arc<Tensor>], dim: usize) -> Tensor {
    fn typed<T: Scalar>(xs: &[Arc<Tensor>], dim: usize) -> Tensor {
        // Row-major: for each position of the outer axes, one run of elements per operand.
        let first = xs[0].shape();
        let outer: usize = first[..dim].iter().product();
        let mut elements = vec![];
        for row in 0..outer {
            for x in xs {
                let run: usize = x.shape()[dim..].iter().product();
                elements.extend_from_slice(&x.elements::<T>()[row * run..(row + 1) * run]);
            }
        }
        let mut shape = first.to_vec();
        shape[dim] = xs.iter().map(|x| x.shape()[dim]).sum();
        Tensor::exact(xs[0].dtype(), shape, elements)
    }
    by_kind!(xs[0], typed(xs, dim))
}

pub(super) fn pad(x: &Tensor, value: &Tensor, low: &[i64], high: &[i64], interior: &[usize]) -> Tensor {
    let axes: Vec<PaddedAxis> =
        (0..low.len()).map(|d| PaddedAxis::new(x.shape()[d], low[d], high[d], interior[d])).collect();
    by_kind!(x, padded(x, value, &axes))
}

/// Where the elements of an axis go that padding keeps.
struct PaddedAxis {
    size: usize,
    from: Range,
    to: Range,
}

impl PaddedAxis {
    fn new(size: usize, low: i64, high: i64, interior: usize) -> Self {
        let step = interior as i64 + 1;
        let spread = if size == 0 { 0 } else { (size as i64 - 1) * step + 1 };
        let padded = (spread + low + high).max(0);
        let kept: Vec<usize> =
            (0..size).filter(|&i| (0..padded).contains(&(low + i as i64 * step))).collect();
        let (Some(&first), Some(&last)) = (kept.first(), kept.last()) else {
            let none = Range { start: 0, limit: 0, step: 1 };
            return Self { size: padded as usize, from: none, to: none };
        };
        let place = |i: usize| (low + i as i64 * step) as usize;
        Self {
            size: padded as usize,
            from: Range { start: first, limit: last + 1, step: 1 },
            to: Range { start: place(first), limit: place(last) + 1, step: step as usize },
        }
    }
}

fn padded<T: Scalar>(x: &Tensor, value: &Tensor, axes: &[PaddedAxis]) -> Tensor {
    let shape: Vec<usize> = axes.iter().map(|axis| axis.size).collect();
    let mut result = ArrayD::from_elem(IxDyn(&shape), value.elements::<T>()[0]);
    let view = x.view::<T>();
    result
        .slice_each_axis_mut(|axis| axes[axis.axis.index()].to.of())
        .assign(&view.slice_each_axis(|axis| axes[axis.axis.index()].from.of()));
    Tensor::of_view(x.dtype(), result.view())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    fn counted(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor::exact(DType::S32, shape, (0..n as i128).collect())
    }

    fn padded_row(low: i64, high: i64, interior: usize) -> Vec<i128> {
        let value = Tensor::exact(DType::S32, [], vec![9i128]);
        pad(&counted(&[3]), &value, &[low], &[high], &[interior]).ints().to_vec()
    }

    #[test]
    fn padding_adds_removes_and_spreads() {
        assert_eq!(padded_row(1, 2, 0), [9, 0, 1, 2, 9, 9]);
        assert_eq!(padded_row(0, 0, 1), [0, 9, 1, 9, 2]);
        assert_eq!(padded_row(-1, 0, 0), [1, 2]);
        // Spread to 0 9 9 1 9 9 2, then one removed before and two after.
        assert_eq!(padded_row(-1, -2, 2), [9, 9, 1, 9]);
        // What a negative side removes is never brought back by the other.
        assert_eq!(padded_row(-4, 3, 0), [9, 9]);
        assert_eq!(padded_row(-3, 0, 0), []);
    }

    #[test]
    fn padding_of_nothing_gives_the_value() {
        let value = Tensor::exact(DType::F32, [], vec![0.5]);
        let x = Tensor::exact(DType::F32, [0, 2], Vec::<f64>::new());
        let y = pad(&x, &value, &[1, 0], &[1, 0], &[3, 0]);
        assert_eq!((y.shape(), y.floats()), (&[2, 2][..], &[0.5; 4][..]));
    }

    #[test]
    fn broadcast_repeats_along_the_other_axes() {
        let x = Tensor::exact(DType::S32, [2], vec![7i128, 8]);
        assert_eq!(broadcast_in_dim(&x, &[2, 3], &[0]).ints(), [7, 7, 7, 8, 8, 8]);
        assert_eq!(broadcast_in_dim(&x, &[3, 2], &[1]).ints(), [7, 8, 7, 8, 7, 8]);
        let scalar = Tensor::exact(DType::S32, [], vec![5i128]);
        assert_eq!(broadcast_in_dim(&scalar, &[2, 0], &[]).ints(), []);
    }

    #[test]
    fn axes_are_moved_and_turned() {
        let x = counted(&[2, 3]);
        assert_eq!(transpose(&x, &[1, 0]).ints(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(reverse(&x, &[1]).ints(), [2, 1, 0, 5, 4, 3]);
        assert_eq!(reverse(&x, &[0, 1]).ints(), [5, 4, 3, 2, 1, 0]);
        assert_eq!(slice(&x, &[0, 0], &[2, 3], &[1, 2]).ints(), [0, 2, 3, 5]);
        assert_eq!(slice(&x, &[1, 3], &[2, 3], &[1, 1]).shape(), [1, 0]);
        assert_eq!(reshape(&x, &[3, 2]).shape(), [3, 2]);
    }

    #[test]
    fn operands_are_joined_along_any_axis() {
        let (x, y) = (Arc::new(counted(&[2, 2])), Arc::new(counted(&[2, 1])));
        assert_eq!(concatenate(&[x.clone(), y], 1).ints(), [0, 1, 0, 2, 3, 1]);
        assert_eq!(concatenate(&[x.clone(), x], 0).shape(), [4, 2]);
    }

    #[test]
    fn iota_counts_along_its_axis_and_wraps() {
        assert_eq!(iota(&TensorType::new(DType::S32, [2, 3]), 0).ints(), [0, 0, 0, 1, 1, 1]);
        assert_eq!(iota(&TensorType::new(DType::F32, [2, 2]), 1).floats(), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(iota(&TensorType::new(DType::S8, [130]), 0).ints()[128..], [-128, -127]);
        assert_eq!(iota(&TensorType::new(DType::S8, [0, 2]), 0).ints(), []);
    }
}
