//! Operations that move elements without changing them.

use super::{Context, ShapeError};
use crate::ir::TensorType;

type Inferred = Result<TensorType, ShapeError>;

pub(super) fn broadcast_in_dim(cx: &Context, shape: &[usize], dims: &[usize]) -> Inferred {
    cx.arity(1)?;
    let x = &cx.operands[0];
    cx.ensure(dims.len() == x.rank(), || {
        format!("{} broadcast dimensions for an operand of rank {}", dims.len(), x.rank())
    })?;
    cx.distinct_axes("broadcast dimension", dims, shape.len())?;
    cx.ensure(dims.is_sorted(), || format!("broadcast dimensions {dims:?} must ascend"))?;
    for (i, &dim) in dims.iter().enumerate() {
        if x.shape[i] != shape[dim] {
            let problem = format!("operand size {} does not match result size {}", x.shape[i], shape[dim]);
            return Err(cx.axis_error(i, problem));
        }
    }
    Ok(TensorType::new(x.dtype, shape))
}

pub(super) fn reshape(cx: &Context, shape: &[usize]) -> Inferred {
    cx.arity(1)?;
    let x = &cx.operands[0];
    let result = TensorType::new(x.dtype, shape);
    cx.fits_in_memory(&result)?;
    cx.ensure(x.elements() == result.elements(), || {
        format!("{} elements do not fill {result} with {}", x.elements(), result.elements())
    })?;
    Ok(result)
}

pub(super) fn transpose(cx: &Context, permutation: &[usize]) -> Inferred {
    cx.arity(1)?;
    let x = &cx.operands[0];
    cx.ensure(permutation.len() == x.rank(), || {
        format!("permutation {permutation:?} for an operand of rank {}", x.rank())
    })?;
    cx.distinct_axes("permutation axis", permutation, x.rank())?;
    Ok(TensorType::new(x.dtype, permutation.iter().map(|&p| x.shape[p]).collect::<Vec<_>>()))
}

pub(super) fn reverse(cx: &Context, dims: &[usize]) -> Inferred {
    cx.arity(1)?;
    cx.distinct_axes("reversed axis", dims, cx.operands[0].rank())?;
    Ok(cx.operands[0].clone())
}

pub(super) fn slice(cx: &Context, starts: &[usize], limits: &[usize], strides: &[usize]) -> Inferred {
    cx.arity(1)?;
    let x = &cx.operands[0];
    for (what, len) in [("starts", starts.len()), ("limits", limits.len()), ("strides", strides.len())] {
        cx.ensure(len == x.rank(), || format!("{len} {what} for an operand of rank {}", x.rank()))?;
    }
    let mut shape = Vec::with_capacity(x.rank());
    for i in 0..x.rank() {
        let (start, limit, stride) = (starts[i], limits[i], strides[i]);
        if start > limit || limit > x.shape[i] || stride == 0 {
            let problem = format!("range {start}..{limit} by {stride} is not within size {}", x.shape[i]);
            return Err(cx.axis_error(i, problem));
        }
        shape.push((limit - start).div_ceil(stride));
    }
    Ok(TensorType::new(x.dtype, shape))
}

pub(super) fn pad(cx: &Context, low: &[i64], high: &[i64], interior: &[usize]) -> Inferred {
    cx.arity(2)?;
    let (x, value) = (&cx.operands[0], &cx.operands[1]);
    cx.ensure(*value == TensorType::scalar(x.dtype), || {
        format!("padding value must be {}, got {value}", TensorType::scalar(x.dtype))
    })?;
    for (what, len) in [("low", low.len()), ("high", high.len()), ("interior", interior.len())] {
        cx.ensure(len == x.rank(), || format!("{len} {what} paddings for an operand of rank {}", x.rank()))?;
    }
    let mut shape = Vec::with_capacity(x.rank());
    for i in 0..x.rank() {
        shape.push(padded_size(x.shape[i], low[i], high[i], interior[i]).ok_or_else(|| {
            let problem =
                format!("padding {}_{}_{} of size {} is negative", low[i], high[i], interior[i], x.shape[i]);
            cx.axis_error(i, problem)
        })?);
    }
    Ok(TensorType::new(x.dtype, shape))
}

fn padded_size(size: usize, low: i64, high: i64, interior: usize) -> Option<usize> {
    let gaps = (size.saturating_sub(1) as i64).checked_mul(i64::try_from(interior).ok()?)?;
    let total = (size as i64).checked_add(gaps)?.checked_add(low)?.checked_add(high)?;
    usize::try_from(total).ok()
}

pub(super) fn concatenate(cx: &Context, dim: usize) -> Inferred {
    let Some(first) = cx.operands.first() else {
        return Err(cx.error("takes at least one operand, got none"));
    };
    cx.distinct_axes("concatenation axis", &[dim], first.rank())?;
    let mut shape = first.shape.clone();
    for other in &cx.operands[1..] {
        cx.ensure(other.dtype == first.dtype && other.rank() == first.rank(), || {
            format!("operands have types {first} and {other}")
        })?;
        for i in (0..first.rank()).filter(|&i| i != dim) {
            if other.shape[i] != first.shape[i] {
                let problem = format!("operands have sizes {} and {}", first.shape[i], other.shape[i]);
                return Err(cx.axis_error(i, problem));
            }
        }
        let sum = shape[dim].checked_add(other.shape[dim]);
        shape[dim] = sum.ok_or_else(|| cx.axis_error(dim, "the sum of sizes overflows"))?;
    }
    Ok(TensorType::new(first.dtype, shape))
}
