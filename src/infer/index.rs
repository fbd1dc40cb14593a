//! Operations with positions that are values: gather, scatter, dynamic slices.

use super::{Context, ShapeError};
use crate::ir::{Combiner, GatherDims, ScatterDims, TensorType};

type Inferred = Result<TensorType, ShapeError>;

pub(super) fn gather(cx: &Context, dims: &GatherDims) -> Inferred {
    cx.arity(2)?;
    let (x, indices) = (&cx.operands[0], &cx.operands[1]);
    let batch = index_batch_shape(cx, indices, dims.index_vector_dim, dims.start_index_map.len())?;
    cx.distinct_axes("start_index_map", &dims.start_index_map, x.rank())?;
    let dropped = [&dims.collapsed_slice_dims[..], &dims.operand_batching_dims].concat();
    cx.distinct_axes("collapsed or batching dimension", &dropped, x.rank())?;
    sorted(cx, "collapsed_slice_dims", &dims.collapsed_slice_dims)?;
    sorted(cx, "operand_batching_dims", &dims.operand_batching_dims)?;
    sorted(cx, "offset_dims", &dims.offset_dims)?;
    batching(
        cx,
        (x, &dims.operand_batching_dims),
        (indices, &dims.start_indices_batching_dims),
        (dims.index_vector_dim, &dims.start_index_map),
    )?;
    cx.ensure(dims.slice_sizes.len() == x.rank(), || {
        format!("{} slice sizes for an operand of rank {}", dims.slice_sizes.len(), x.rank())
    })?;
    for (i, &size) in dims.slice_sizes.iter().enumerate() {
        let limit = if dropped.contains(&i) { x.shape[i].min(1) } else { x.shape[i] };
        if size > limit {
            return Err(cx.axis_error(i, format!("slice size {size} is above {limit}")));
        }
    }
    let offsets: Vec<usize> =
        (0..x.rank()).filter(|d| !dropped.contains(d)).map(|d| dims.slice_sizes[d]).collect();
    cx.ensure(offsets.len() == dims.offset_dims.len(), || {
        format!("{} offset dimensions for {} slice dimensions", dims.offset_dims.len(), offsets.len())
    })?;
    let rank = batch.len() + offsets.len();
    cx.distinct_axes("offset dimension", &dims.offset_dims, rank)?;
    let (mut batch, mut offsets) = (batch.into_iter(), offsets.into_iter());
    let next = |d| if dims.offset_dims.contains(&d) { offsets.next() } else { batch.next() };
    Ok(TensorType::new(x.dtype, (0..rank).filter_map(next).collect::<Vec<_>>()))
}

pub(super) fn scatter(cx: &Context, dims: &ScatterDims, combiner: Combiner) -> Inferred {
    cx.arity(3)?;
    let [x, indices, updates] = cx.operands else { unreachable!("arity is three") };
    if let Combiner::Reduce(reducer) = combiner {
        super::linear::reducible(cx, reducer, x.dtype)?;
    }
    cx.ensure(updates.dtype == x.dtype, || {
        format!("updates have element type {}, operand has {}", updates.dtype, x.dtype)
    })?;
    let map = &dims.scatter_dims_to_operand_dims;
    let batch = index_batch_shape(cx, indices, dims.index_vector_dim, map.len())?;
    cx.distinct_axes("scatter_dims_to_operand_dims", map, x.rank())?;
    let dropped = [&dims.inserted_window_dims[..], &dims.input_batching_dims].concat();
    cx.distinct_axes("inserted or batching dimension", &dropped, x.rank())?;
    sorted(cx, "inserted_window_dims", &dims.inserted_window_dims)?;
    sorted(cx, "input_batching_dims", &dims.input_batching_dims)?;
    sorted(cx, "update_window_dims", &dims.update_window_dims)?;
    batching(
        cx,
        (x, &dims.input_batching_dims),
        (indices, &dims.scatter_indices_batching_dims),
        (dims.index_vector_dim, map),
    )?;
    cx.distinct_axes("update window dimension", &dims.update_window_dims, updates.rank())?;
    let windows: Vec<usize> = (0..x.rank()).filter(|d| !dropped.contains(d)).collect();
    cx.ensure(windows.len() == dims.update_window_dims.len(), || {
        format!("{} window dimensions for {} of the operand", dims.update_window_dims.len(), windows.len())
    })?;
    for (&window, &update) in windows.iter().zip(&dims.update_window_dims) {
        if updates.shape[update] > x.shape[window] {
            let problem = format!("window size {} is above {}", updates.shape[update], x.shape[window]);
            return Err(cx.axis_error(update, problem));
        }
    }
    let scattered: Vec<usize> = (0..updates.rank())
        .filter(|d| !dims.update_window_dims.contains(d))
        .map(|d| updates.shape[d])
        .collect();
    cx.ensure(scattered == batch, || {
        format!("updates have scatter sizes {scattered:?}, indices give {batch:?}")
    })?;
    Ok(x.clone())
}

/// The shape of the indices without the index vector.
fn index_batch_shape(
    cx: &Context,
    indices: &TensorType,
    vector_dim: usize,
    components: usize,
) -> Result<Vec<usize>, ShapeError> {
    cx.ensure(indices.dtype.is_integer(), || format!("indices must be integers, got {}", indices.dtype))?;
    let rank = indices.rank();
    cx.ensure(vector_dim <= rank, || format!("index_vector_dim {vector_dim} is above rank {rank}"))?;
    let size = indices.shape.get(vector_dim).copied().unwrap_or(1);
    cx.ensure(size == components, || {
        format!("index vectors have {size} components, the index map has {components}")
    })?;
    Ok((0..rank).filter(|&d| d != vector_dim).map(|d| indices.shape[d]).collect())
}

fn batching(
    cx: &Context,
    (x, operand_dims): (&TensorType, &[usize]),
    (indices, index_dims): (&TensorType, &[usize]),
    (vector_dim, map): (usize, &[usize]),
) -> Result<(), ShapeError> {
    cx.ensure(operand_dims.len() == index_dims.len(), || {
        format!("{} operand and {} index batching dimensions", operand_dims.len(), index_dims.len())
    })?;
    cx.distinct_axes("index batching dimension", index_dims, indices.rank())?;
    for (&a, &b) in operand_dims.iter().zip(index_dims) {
        if b == vector_dim || map.contains(&a) {
            return Err(cx.axis_error(a, "a batching dimension is indexed too"));
        }
        if x.shape[a] != indices.shape[b] {
            let problem = format!("batching sizes are {} and {}", x.shape[a], indices.shape[b]);
            return Err(cx.axis_error(a, problem));
        }
    }
    Ok(())
}

fn sorted(cx: &Context, what: &str, dims: &[usize]) -> Result<(), ShapeError> {
    cx.ensure(dims.is_sorted(), || format!("{what} {dims:?} must ascend"))
}

pub(super) fn dynamic_slice(cx: &Context, sizes: &[usize]) -> Inferred {
    let Some((x, starts)) = cx.operands.split_first() else {
        return Err(cx.error("takes an operand and its starts, got none"));
    };
    start_indices(cx, x, starts)?;
    cx.ensure(sizes.len() == x.rank(), || format!("{} sizes for rank {}", sizes.len(), x.rank()))?;
    within(cx, x, sizes)?;
    Ok(TensorType::new(x.dtype, sizes))
}

pub(super) fn dynamic_update_slice(cx: &Context) -> Inferred {
    let [x, update, starts @ ..] = cx.operands else {
        return Err(cx.error("takes an operand, an update and its starts"));
    };
    start_indices(cx, x, starts)?;
    cx.ensure(update.dtype == x.dtype && update.rank() == x.rank(), || {
        format!("update {update} does not fit operand {x}")
    })?;
    within(cx, x, &update.shape)?;
    Ok(x.clone())
}

fn within(cx: &Context, x: &TensorType, sizes: &[usize]) -> Result<(), ShapeError> {
    match (0..x.rank()).find(|&i| sizes[i] > x.shape[i]) {
        Some(i) => Err(cx.axis_error(i, format!("slice size {} is above {}", sizes[i], x.shape[i]))),
        None => Ok(()),
    }
}

fn start_indices(cx: &Context, x: &TensorType, starts: &[TensorType]) -> Result<(), ShapeError> {
    cx.ensure(starts.len() == x.rank(), || {
        format!("{} start indices for an operand of rank {}", starts.len(), x.rank())
    })?;
    for start in starts {
        cx.ensure(start.rank() == 0 && start.dtype.is_integer() && start == &starts[0], || {
            format!("start indices must be integer scalars of one type, got {start}")
        })?;
    }
    Ok(())
}
