//! Products, reductions and prefix sums.

use super::{Context, ShapeError};
use crate::ir::{DType, Domain, DotDims, Reducer, TensorType};

type Inferred = Result<TensorType, ShapeError>;

pub(super) fn dot_general(cx: &Context, dims: &DotDims, result: DType) -> Inferred {
    cx.arity(2)?;
    let (lhs, rhs) = (&cx.operands[0], &cx.operands[1]);
    cx.ensure(lhs.dtype == rhs.dtype, || {
        format!("operands have element types {} and {}", lhs.dtype, rhs.dtype)
    })?;
    cx.ensure(lhs.dtype != DType::Pred && result.domain() == lhs.dtype.domain(), || {
        format!("cannot multiply {} into {result}", lhs.dtype)
    })?;
    paired(cx, "batch", (lhs, &dims.lhs_batch), (rhs, &dims.rhs_batch))?;
    paired(cx, "contracting", (lhs, &dims.lhs_contracting), (rhs, &dims.rhs_contracting))?;
    cx.distinct_axes("lhs dimension", &[&dims.lhs_batch[..], &dims.lhs_contracting].concat(), lhs.rank())?;
    cx.distinct_axes("rhs dimension", &[&dims.rhs_batch[..], &dims.rhs_contracting].concat(), rhs.rank())?;
    let batch = dims.lhs_batch.iter().map(|&d| lhs.shape[d]);
    let shape = batch.chain(free(lhs, &dims.lhs_batch, &dims.lhs_contracting)).chain(free(
        rhs,
        &dims.rhs_batch,
        &dims.rhs_contracting,
    ));
    Ok(TensorType::new(result, shape.collect::<Vec<_>>()))
}

fn free<'a>(
    ty: &'a TensorType,
    batch: &'a [usize],
    contracting: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    (0..ty.rank()).filter(|d| !batch.contains(d) && !contracting.contains(d)).map(|d| ty.shape[d])
}

/// Both sides name as many dimensions, and of the same sizes.
fn paired(
    cx: &Context,
    what: &str,
    (lhs, l): (&TensorType, &[usize]),
    (rhs, r): (&TensorType, &[usize]),
) -> Result<(), ShapeError> {
    cx.ensure(l.len() == r.len(), || format!("lhs has {} {what} dimensions, rhs has {}", l.len(), r.len()))?;
    cx.distinct_axes(&format!("lhs {what} dimension"), l, lhs.rank())?;
    cx.distinct_axes(&format!("rhs {what} dimension"), r, rhs.rank())?;
    for (&a, &b) in l.iter().zip(r) {
        let (m, n) = (lhs.shape[a], rhs.shape[b]);
        if m != n {
            let problem =
                format!("lhs {what} dimension {a} has size {m}, rhs {what} dimension {b} has size {n}");
            return Err(cx.axis_error(a, problem));
        }
    }
    Ok(())
}

pub(super) fn reduce(cx: &Context, dims: &[usize], reducer: Reducer) -> Result<Vec<TensorType>, ShapeError> {
    let first = cx.operands.first();
    cx.ensure(first.is_some(), || "takes one operand or more, got none".into())?;
    let one = |x: &TensorType| {
        cx.ensure(first == Some(x), || {
            format!("operands must have one type, got {} and {x}", cx.operands[0])
        })?;
        reducible(cx, reducer, x.dtype)?;
        cx.distinct_axes("reduced axis", dims, x.rank())?;
        let kept = (0..x.rank()).filter(|d| !dims.contains(d)).map(|d| x.shape[d]);
        Ok(TensorType::new(x.dtype, kept.collect::<Vec<_>>()))
    };
    cx.operands.iter().map(one).collect()
}

/// `and` and `or` take bits, the others numbers.
pub(super) fn reducible(cx: &Context, reducer: Reducer, dtype: DType) -> Result<(), ShapeError> {
    let accepts = reducer.binary().accepts();
    cx.ensure(accepts.contains(dtype), || {
        format!("{} takes {}, got {dtype}", reducer.binary().opcode(), accepts.words())
    })
}

pub(super) fn cumsum(cx: &Context, dim: usize) -> Inferred {
    cx.arity(1)?;
    let x = &cx.operands[0];
    cx.distinct_axes("summed axis", &[dim], x.rank())?;
    cx.ensure(x.dtype.domain() != Domain::Bool, || "operand must be a number, got pred".into())?;
    Ok(x.clone())
}
