//! Operations with positions that are values: gather, scatter, dynamic slices.

use super::rule::{Pulled, Site};
use crate::build::{BuildError, Builder};
use crate::ir::{Combiner, Direction, GatherDims, Literal, Op, Reducer, ScatterDims, TensorType, Value};

type Built = Result<Value, BuildError>;

/// Adds each slice back where it came from.
pub(super) fn gather(site: &mut Site, dims: &GatherDims) -> Pulled {
    let (x, indices) = (site.operands[0], site.operands[1]);
    let g = site.cotangent()?;
    let for_x = site.when(0, |b| {
        let ty = b.ty(x).clone();
        let limits: Vec<usize> =
            dims.start_index_map.iter().map(|&d| ty.shape[d] - dims.slice_sizes[d]).collect();
        // A gather clamps its starts, a scatter skips what is out of bounds.
        let indices = clamp_starts(b, indices, dims.index_vector_dim, &limits)?;
        let zeros = b.zeros(&ty)?;
        let dims = ScatterDims {
            update_window_dims: dims.offset_dims.clone(),
            inserted_window_dims: dims.collapsed_slice_dims.clone(),
            scatter_dims_to_operand_dims: dims.start_index_map.clone(),
            input_batching_dims: dims.operand_batching_dims.clone(),
            scatter_indices_batching_dims: dims.start_indices_batching_dims.clone(),
            index_vector_dim: dims.index_vector_dim,
        };
        b.scatter((zeros, indices, g), dims, Combiner::Reduce(Reducer::Add), false)
    })?;
    Ok(vec![for_x, None])
}

pub(super) fn scatter(
    site: &mut Site,
    op: &Op,
    dims: &ScatterDims,
    (combiner, unique): (Combiner, bool),
) -> Pulled {
    let g = site.cotangent()?;
    let (indices, updates) = (site.operands[1], site.operands[2]);
    let for_x = match combiner {
        Combiner::Reduce(Reducer::Add) => site.when(0, |_| Ok(g))?,
        Combiner::Assign if unique => site.when(0, |b| {
            let zeros = b.full_like(updates, 0.0)?;
            b.scatter((g, indices, zeros), dims.clone(), Combiner::Assign, true)
        })?,
        Combiner::Assign => {
            return Err(site.no_derivative(op, "promise unique indices, or add instead of assigning"));
        }
        Combiner::Reduce(_) => {
            return Err(site.no_derivative(op, "only `add` and unique `assign` can be differentiated"));
        }
    };
    let for_updates = site.when(2, |b| windows(b, (g, indices, updates), dims))?;
    Ok(vec![for_x, None, for_updates])
}

/// The window of `g` that each update of a scatter falls on; zeros where the scatter skips it.
fn windows(b: &mut Builder, (g, indices, updates): (Value, Value, Value), dims: &ScatterDims) -> Built {
    let (shape, update_shape) = (b.shape(g), b.shape(updates));
    let dropped = |d: &usize| dims.inserted_window_dims.contains(d) || dims.input_batching_dims.contains(d);
    let mut sizes = vec![1; shape.len()];
    for (d, &u) in (0..shape.len()).filter(|d| !dropped(d)).zip(&dims.update_window_dims) {
        sizes[d] = update_shape[u];
    }
    let limits: Vec<Option<usize>> =
        dims.scatter_dims_to_operand_dims.iter().map(|&d| shape[d].checked_sub(sizes[d])).collect();
    let Some(limits) = limits.into_iter().collect::<Option<Vec<usize>>>() else {
        // An axis of size zero: every update is skipped.
        return b.full_like(updates, 0.0);
    };
    let gather = GatherDims {
        offset_dims: dims.update_window_dims.clone(),
        collapsed_slice_dims: dims.inserted_window_dims.clone(),
        start_index_map: dims.scatter_dims_to_operand_dims.clone(),
        operand_batching_dims: dims.input_batching_dims.clone(),
        start_indices_batching_dims: dims.scatter_indices_batching_dims.clone(),
        index_vector_dim: dims.index_vector_dim,
        slice_sizes: sizes,
    };
    let found = b.gather(g, indices, gather)?;
    let inside = in_bounds(b, indices, dims.index_vector_dim, &limits)?;
    let inside = b.unreduce(inside, &update_shape, &dims.update_window_dims)?;
    b.mask(inside, found, 0.0)
}

/// The greatest start per component, repeated to the shape of the indices, in their element type.
fn greatest_starts(b: &mut Builder, indices: Value, vector_dim: usize, limits: &[usize]) -> Built {
    let ty = b.ty(indices).clone();
    match limits {
        [first, rest @ ..] if rest.iter().any(|l| l != first) => {
            let bytes = limits.iter().flat_map(|&l| Literal::scalar_of(ty.dtype, l as f64).into_bytes());
            let vector_ty = TensorType::new(ty.dtype, [limits.len()]);
            let vector = b.constant(Literal::from_bytes(vector_ty, bytes.collect())?)?;
            b.broadcast_in_dim(vector, &ty.shape, &[vector_dim])
        }
        _ => b.full(&ty, limits.first().copied().unwrap_or(0) as f64),
    }
}

fn clamp_starts(b: &mut Builder, indices: Value, vector_dim: usize, limits: &[usize]) -> Built {
    let high = greatest_starts(b, indices, vector_dim, limits)?;
    let low = b.full_like(indices, 0.0)?;
    b.clamp(low, indices, high)
}

/// Whether all components of an index vector are in `0..=limit`: `pred`, of the shape of the indices without the vector.
fn in_bounds(b: &mut Builder, indices: Value, vector_dim: usize, limits: &[usize]) -> Built {
    let high = greatest_starts(b, indices, vector_dim, limits)?;
    let below = b.compare(Direction::Le, indices, high)?;
    let above = b.compare_scalar(Direction::Ge, indices, 0.0)?;
    let inside = b.and(below, above)?;
    if vector_dim < b.ty(indices).rank() { b.reduce(inside, &[vector_dim], Reducer::And) } else { Ok(inside) }
}

/// Puts the slice into zeros, at the same clamped place.
pub(super) fn dynamic_slice(site: &mut Site) -> Pulled {
    let (g, x, starts) = (site.cotangent()?, site.operands[0], site.operands[1..].to_vec());
    let for_x = site.when(0, |b| {
        let zeros = b.full_like(x, 0.0)?;
        b.dynamic_update_slice(zeros, g, &starts)
    })?;
    Ok([vec![for_x], vec![None; starts.len()]].concat())
}

pub(super) fn dynamic_update_slice(site: &mut Site) -> Pulled {
    let (g, update, starts) = (site.cotangent()?, site.operands[1], site.operands[2..].to_vec());
    let for_x = site.when(0, |b| {
        let zeros = b.full_like(update, 0.0)?;
        b.dynamic_update_slice(g, zeros, &starts)
    })?;
    let for_update = site.when(1, |b| {
        let sizes = b.shape(update);
        b.dynamic_slice(g, &starts, &sizes)
    })?;
    Ok([vec![for_x, for_update], vec![None; starts.len()]].concat())
}
