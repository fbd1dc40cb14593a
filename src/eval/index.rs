//! Operations with positions that are values: gather, scatter, dynamic slices.

use super::data::{block, with_block};
use super::elementwise::{float_binary, int_binary};
use super::tensor::{Scalar, Tensor, by_kind, for_each_position, strides, wrap};
use crate::ir::{Combiner, GatherDims, Reducer, ScatterDims};
use std::sync::Arc;

/// Reads index vectors out of an index tensor.
struct Indices<'a> {
    values: &'a [i128],
    /// Sizes of the axes other than the index vector's.
    batch: Vec<usize>,
    /// Strides of those axes.
    strides: Vec<usize>,
    /// Stride and length of the index vector.
    vector: (usize, usize),
    /// Positions among `batch` of the batching axes.
    batching: Vec<usize>,
}

impl<'a> Indices<'a> {
    fn new(indices: &'a Tensor, vector_dim: usize, batching_dims: &[usize]) -> Self {
        let (shape, all) = (indices.shape(), strides(indices.shape()));
        let others: Vec<usize> = (0..shape.len()).filter(|&d| d != vector_dim).collect();
        let vector = if vector_dim < shape.len() { (all[vector_dim], shape[vector_dim]) } else { (0, 1) };
        Self {
            values: indices.ints(),
            batch: others.iter().map(|&d| shape[d]).collect(),
            strides: others.iter().map(|&d| all[d]).collect(),
            vector,
            batching: batching_dims.iter().map(|&d| d - usize::from(d > vector_dim)).collect(),
        }
    }

    /// The index vector at a position of the batch axes.
    fn at(&self, position: &[usize]) -> impl Iterator<Item = i128> {
        let base: usize = position.iter().zip(&self.strides).map(|(p, s)| p * s).sum();
        (0..self.vector.1).map(move |k| self.values[base + k * self.vector.0])
    }
}

/// Which axes of a result or of updates belong to the window and which to the batch of indices.
struct Split {
    window: Vec<usize>,
    batch: Vec<usize>,
}

impl Split {
    fn new(rank: usize, window: &[usize]) -> Self {
        Self { window: window.to_vec(), batch: (0..rank).filter(|d| !window.contains(d)).collect() }
    }
}

fn pick(position: &[usize], axes: &[usize], into: &mut [usize]) {
    into.iter_mut().zip(axes).for_each(|(slot, &axis)| *slot = position[axis]);
}

pub(super) fn gather(x: &Tensor, indices: &Tensor, dims: &GatherDims) -> Tensor {
    by_kind!(x, gathered(x, indices, dims))
}

fn gathered<T: Scalar>(x: &Tensor, start_indices: &Tensor, dims: &GatherDims) -> Tensor {
    let indices = Indices::new(start_indices, dims.index_vector_dim, &dims.start_indices_batching_dims);
    let kept: Vec<usize> = (0..x.shape().len())
        .filter(|d| !dims.collapsed_slice_dims.contains(d) && !dims.operand_batching_dims.contains(d))
        .collect();
    let split = Split::new(indices.batch.len() + kept.len(), &dims.offset_dims);
    let mut shape = vec![0; split.window.len() + split.batch.len()];
    split.window.iter().zip(&kept).for_each(|(&axis, &d)| shape[axis] = dims.slice_sizes[d]);
    split.batch.iter().zip(&indices.batch).for_each(|(&axis, &size)| shape[axis] = size);

    let (elements, strides) = (x.elements::<T>(), strides(x.shape()));
    let mut result = Vec::with_capacity(shape.iter().product());
    let mut batch = vec![0; split.batch.len()];
    for_each_position(&shape, |position| {
        pick(position, &split.batch, &mut batch);
        let mut offset = 0;
        for (&d, start) in dims.start_index_map.iter().zip(indices.at(&batch)) {
            let last = x.shape()[d] - dims.slice_sizes[d];
            offset += clamped(start, last) * strides[d];
        }
        for (&d, &axis) in dims.operand_batching_dims.iter().zip(&indices.batching) {
            offset += batch[axis] * strides[d];
        }
        for (&d, &axis) in kept.iter().zip(&split.window) {
            offset += position[axis] * strides[d];
        }
        result.push(elements[offset]);
    });
    Tensor::exact(x.dtype(), shape, result)
}

fn clamped(start: i128, last: usize) -> usize {
    start.clamp(0, last as i128) as usize
}

pub(super) fn scatter(
    x: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    dims: &ScatterDims,
    combiner: Combiner,
) -> Tensor {
    let dtype = x.dtype();
    let reducer = match combiner {
        Combiner::Assign => None,
        Combiner::Reduce(reducer) => Some(reducer),
    };
    let float = |reducer: Reducer, a, b| float_binary(reducer.binary(), a, b);
    let int = |reducer: Reducer, a, b| wrap(int_binary(reducer.binary(), a, b, dtype), dtype);
    if dtype.is_float() {
        scattered::<f64>(x, indices, updates, dims, |a, b| reducer.map_or(b, |r| float(r, a, b)))
    } else {
        scattered::<i128>(x, indices, updates, dims, |a, b| reducer.map_or(b, |r| int(r, a, b)))
    }
}

fn scattered<T: Scalar>(
    x: &Tensor,
    scatter_indices: &Tensor,
    updates: &Tensor,
    dims: &ScatterDims,
    combine: impl Fn(T, T) -> T,
) -> Tensor {
    let indices = Indices::new(scatter_indices, dims.index_vector_dim, &dims.scatter_indices_batching_dims);
    let kept: Vec<usize> = (0..x.shape().len())
        .filter(|d| !dims.inserted_window_dims.contains(d) && !dims.input_batching_dims.contains(d))
        .collect();
    let split = Split::new(updates.shape().len(), &dims.update_window_dims);
    let mut window = vec![1; x.shape().len()];
    kept.iter().zip(&split.window).for_each(|(&d, &axis)| window[d] = updates.shape()[axis]);

    let (source, strides) = (updates.elements::<T>(), strides(x.shape()));
    let mut result = x.elements::<T>().to_vec();
    let (mut batch, mut next) = (vec![0; split.batch.len()], 0);
    for_each_position(updates.shape(), |position| {
        pick(position, &split.batch, &mut batch);
        let update = source[next];
        next += 1;
        let mut offset = 0;
        for (&d, start) in dims.scatter_dims_to_operand_dims.iter().zip(indices.at(&batch)) {
            // The whole window must lie inside; otherwise none of it is written.
            if start < 0 || start + window[d] as i128 > x.shape()[d] as i128 {
                return;
            }
            offset += start as usize * strides[d];
        }
        for (&d, &axis) in dims.input_batching_dims.iter().zip(&indices.batching) {
            offset += batch[axis] * strides[d];
        }
        for (&d, &axis) in kept.iter().zip(&split.window) {
            offset += position[axis] * strides[d];
        }
        result[offset] = combine(result[offset], update);
    });
    Tensor::fitted(x.dtype(), x.shape(), result)
}

pub(super) fn dynamic_slice(x: &Tensor, starts: &[Arc<Tensor>], sizes: &[usize]) -> Tensor {
    block(x, &clamped_starts(x, starts, sizes), sizes)
}

pub(super) fn dynamic_update_slice(x: &Tensor, update: &Tensor, starts: &[Arc<Tensor>]) -> Tensor {
    with_block(x, update, &clamped_starts(x, starts, update.shape()))
}

fn clamped_starts(x: &Tensor, starts: &[Arc<Tensor>], sizes: &[usize]) -> Vec<usize> {
    let axes = x.shape().iter().zip(sizes);
    starts.iter().zip(axes).map(|(start, (total, size))| clamped(start.scalar_int(), total - size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    fn s32(shape: &[usize], x: &[i128]) -> Tensor {
        Tensor::exact(DType::S32, shape, x.to_vec())
    }

    /// `0 1 2 / 10 11 12 / 20 21 22`.
    fn table() -> Tensor {
        s32(&[3, 3], &[0, 1, 2, 10, 11, 12, 20, 21, 22])
    }

    fn rows() -> GatherDims {
        GatherDims {
            offset_dims: vec![1],
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0],
            index_vector_dim: 1,
            slice_sizes: vec![1, 3],
            ..Default::default()
        }
    }

    #[test]
    fn rows_are_gathered_and_indices_clamped() {
        let y = gather(&table(), &s32(&[3], &[2, -5, 9]), &rows());
        assert_eq!(y.shape(), [3, 3]);
        assert_eq!(y.ints(), [20, 21, 22, 0, 1, 2, 20, 21, 22]);
    }

    #[test]
    fn windows_are_gathered_at_index_vectors() {
        // Windows 2 x 1 at (row, column) = (0, 2) and (2, 0); the second start is clamped to row 1.
        let dims = GatherDims {
            offset_dims: vec![0],
            collapsed_slice_dims: vec![1],
            start_index_map: vec![0, 1],
            index_vector_dim: 1,
            slice_sizes: vec![2, 1],
            ..Default::default()
        };
        let y = gather(&table(), &s32(&[2, 2], &[0, 2, 2, 0]), &dims);
        assert_eq!(y.shape(), [2, 2]);
        assert_eq!(y.ints(), [2, 10, 12, 20]);
    }

    #[test]
    fn index_vector_may_be_the_first_axis() {
        let dims = GatherDims {
            collapsed_slice_dims: vec![0, 1],
            start_index_map: vec![1, 0],
            index_vector_dim: 0,
            slice_sizes: vec![1, 1],
            ..Default::default()
        };
        // Columns 0 and 1 of rows 2 and 1.
        assert_eq!(gather(&table(), &s32(&[2, 2], &[0, 1, 2, 1]), &dims).ints(), [20, 11]);
    }

    #[test]
    fn batching_axes_pair_up() {
        let dims = GatherDims {
            collapsed_slice_dims: vec![1],
            start_index_map: vec![1],
            operand_batching_dims: vec![0],
            start_indices_batching_dims: vec![0],
            index_vector_dim: 2,
            slice_sizes: vec![1, 1],
            ..Default::default()
        };
        let y = gather(&table(), &s32(&[3, 2], &[0, 1, 2, 2, 1, 0]), &dims);
        assert_eq!(y.ints(), [0, 1, 12, 12, 21, 20]);
    }

    fn row_updates() -> ScatterDims {
        ScatterDims {
            update_window_dims: vec![1],
            inserted_window_dims: vec![0],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 1,
            ..Default::default()
        }
    }

    #[test]
    fn updates_meet_in_the_combiner_and_fall_away_out_of_bounds() {
        let updates = s32(&[4, 3], &[1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8]);
        let zeros = s32(&[3, 3], &[0; 9]);
        let indices = s32(&[4], &[1, 1, 3, -1]);
        let sum = scatter(&zeros, &indices, &updates, &row_updates(), Combiner::Reduce(Reducer::Add));
        assert_eq!(sum.ints(), [0, 0, 0, 3, 3, 3, 0, 0, 0]);
        let last = scatter(&zeros, &indices, &updates, &row_updates(), Combiner::Assign);
        assert_eq!(last.ints(), [0, 0, 0, 2, 2, 2, 0, 0, 0]);
    }

    #[test]
    fn a_window_partly_outside_is_not_written_at_all() {
        let dims = ScatterDims {
            update_window_dims: vec![0],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 0,
            ..Default::default()
        };
        let x = s32(&[3], &[0, 0, 0]);
        let at = |start| {
            let (i, u) = (s32(&[1], &[start]), s32(&[2], &[5, 6]));
            scatter(&x, &i, &u, &dims, Combiner::Assign).ints().to_vec()
        };
        assert_eq!(at(1), [0, 5, 6]);
        assert_eq!(at(2), [0, 0, 0]);
    }

    #[test]
    fn scatter_pairs_batching_axes() {
        let dims = ScatterDims {
            inserted_window_dims: vec![1],
            scatter_dims_to_operand_dims: vec![1],
            input_batching_dims: vec![0],
            scatter_indices_batching_dims: vec![0],
            index_vector_dim: 1,
            ..Default::default()
        };
        let x = s32(&[2, 2], &[0; 4]);
        let y = scatter(&x, &s32(&[2], &[1, 0]), &s32(&[2], &[7, 8]), &dims, Combiner::Assign);
        assert_eq!(y.ints(), [0, 7, 8, 0]);
    }

    #[test]
    fn dynamic_slices_are_clamped_into_the_operand() {
        let starts = |a: i128, b: i128| [Arc::new(s32(&[], &[a])), Arc::new(s32(&[], &[b]))];
        assert_eq!(dynamic_slice(&table(), &starts(5, -1), &[1, 2]).ints(), [20, 21]);
        let update = s32(&[1, 2], &[7, 8]);
        let y = dynamic_update_slice(&table(), &update, &starts(0, 2));
        assert_eq!(y.ints(), [0, 7, 8, 10, 11, 12, 20, 21, 22]);
    }
}
