//! Operations between replicas. Every replica is in exactly one group; groups have one size.

use super::{Context, ShapeError};
use crate::ir::{DType, Reducer, TensorType};

type Inferred = Result<TensorType, ShapeError>;

pub(super) fn all_reduce(cx: &Context, reducer: Reducer, groups: &[Vec<usize>]) -> Inferred {
    cx.arity(1)?;
    group_size(cx, groups)?;
    super::linear::reducible(cx, reducer, cx.operands[0].dtype)?;
    Ok(cx.operands[0].clone())
}

pub(super) fn all_gather(cx: &Context, dim: usize, groups: &[Vec<usize>]) -> Inferred {
    cx.arity(1)?;
    let mut ty = cx.operands[0].clone();
    cx.distinct_axes("gathered axis", &[dim], ty.rank())?;
    let size = ty.shape[dim].checked_mul(group_size(cx, groups)?);
    ty.shape[dim] = size.ok_or_else(|| cx.axis_error(dim, "the gathered size overflows"))?;
    Ok(ty)
}

pub(super) fn reduce_scatter(cx: &Context, dim: usize, reducer: Reducer, groups: &[Vec<usize>]) -> Inferred {
    cx.arity(1)?;
    super::linear::reducible(cx, reducer, cx.operands[0].dtype)?;
    let mut ty = cx.operands[0].clone();
    cx.distinct_axes("scattered axis", &[dim], ty.rank())?;
    ty.shape[dim] = split(cx, ty.shape[dim], dim, group_size(cx, groups)?)?;
    Ok(ty)
}

pub(super) fn all_to_all(
    cx: &Context,
    split_dim: usize,
    concat_dim: usize,
    groups: &[Vec<usize>],
) -> Inferred {
    cx.arity(1)?;
    let mut ty = cx.operands[0].clone();
    cx.distinct_axes("split axis", &[split_dim], ty.rank())?;
    cx.distinct_axes("concatenation axis", &[concat_dim], ty.rank())?;
    let size = group_size(cx, groups)?;
    ty.shape[split_dim] = split(cx, ty.shape[split_dim], split_dim, size)?;
    let joined = ty.shape[concat_dim].checked_mul(size);
    ty.shape[concat_dim] = joined.ok_or_else(|| cx.axis_error(concat_dim, "the joined size overflows"))?;
    Ok(ty)
}

pub(super) fn permute(cx: &Context, pairs: &[(usize, usize)]) -> Inferred {
    cx.arity(1)?;
    for (i, &(source, target)) in pairs.iter().enumerate() {
        let clash = pairs[..i].iter().any(|&(s, t)| s == source || t == target);
        cx.ensure(!clash, || format!("pair {source} -> {target} names a source or target again"))?;
    }
    Ok(cx.operands[0].clone())
}

pub(super) fn id(cx: &Context) -> Inferred {
    cx.arity(0)?;
    Ok(TensorType::scalar(DType::U32))
}

fn split(cx: &Context, size: usize, dim: usize, parts: usize) -> Result<usize, ShapeError> {
    if size.is_multiple_of(parts) {
        return Ok(size / parts);
    }
    Err(cx.axis_error(dim, format!("size {size} is not a multiple of the group size {parts}")))
}

fn group_size(cx: &Context, groups: &[Vec<usize>]) -> Result<usize, ShapeError> {
    let size = groups.first().map_or(0, Vec::len);
    cx.ensure(size > 0 && groups.iter().all(|g| g.len() == size), || {
        "replica groups must be given, of one size and not empty".into()
    })?;
    let mut members: Vec<usize> = groups.concat();
    members.sort_unstable();
    cx.ensure(members.iter().copied().eq(0..members.len()), || {
        format!("replica groups must hold each replica from 0 once, got {groups:?}")
    })?;
    Ok(size)
}
