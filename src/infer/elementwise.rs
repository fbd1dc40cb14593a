//! Operations that work element by element.

use super::{Context, ShapeError};
use crate::ir::{BinaryOp, DType, TensorType, UnaryOp};

type Inferred = Result<TensorType, ShapeError>;

pub(super) fn iota(cx: &Context, ty: &TensorType, dim: usize) -> Inferred {
    cx.arity(0)?;
    cx.distinct_axes("iota dimension", &[dim], ty.rank())?;
    cx.ensure(ty.dtype != DType::Pred, || "element type must be a number, got pred".into())?;
    Ok(ty.clone())
}

pub(super) fn unary(cx: &Context, op: UnaryOp) -> Inferred {
    cx.arity(1)?;
    let ty = &cx.operands[0];
    accepts(cx, op.accepts(), ty.dtype)?;
    cx.ensure(op != UnaryOp::Sign || !matches!(ty.dtype, DType::U8 | DType::U32 | DType::U64), || {
        format!("operand must be signed, got {}", ty.dtype)
    })?;
    Ok(if op == UnaryOp::IsFinite { ty.with_dtype(DType::Pred) } else { ty.clone() })
}

pub(super) fn binary(cx: &Context, op: BinaryOp) -> Inferred {
    cx.arity(2)?;
    same_types(cx)?;
    let ty = &cx.operands[0];
    accepts(cx, op.accepts(), ty.dtype)?;
    let shift = matches!(op, BinaryOp::ShiftLeft | BinaryOp::ShiftRight);
    cx.ensure(!(shift && ty.dtype == DType::Pred), || "operands must be integers, got pred".into())?;
    Ok(ty.clone())
}

pub(super) fn compare(cx: &Context) -> Inferred {
    cx.arity(2)?;
    same_types(cx)?;
    Ok(cx.operands[0].with_dtype(DType::Pred))
}

pub(super) fn select(cx: &Context) -> Inferred {
    cx.arity(3)?;
    let [pred, on_true, on_false] = cx.operands else { unreachable!("arity is three") };
    cx.ensure(pred.dtype == DType::Pred, || format!("first operand must be pred, got {}", pred.dtype))?;
    cx.ensure(on_true == on_false, || format!("branches have types {on_true} and {on_false}"))?;
    same_shape(cx, pred, on_true)?;
    Ok(on_true.clone())
}

pub(super) fn clamp(cx: &Context) -> Inferred {
    cx.arity(3)?;
    same_types(cx)?;
    cx.ensure(cx.operands[0].dtype != DType::Pred, || "operands must be numbers, got pred".into())?;
    Ok(cx.operands[1].clone())
}

pub(super) fn bitcast(cx: &Context, dtype: DType) -> Inferred {
    cx.arity(1)?;
    let from = cx.operands[0].dtype;
    cx.ensure(from != DType::Pred && dtype != DType::Pred, || "pred has no bit pattern".into())?;
    cx.ensure(from.size_bytes() == dtype.size_bytes(), || {
        format!("{from} and {dtype} differ in size, {} and {} bytes", from.size_bytes(), dtype.size_bytes())
    })?;
    Ok(cx.operands[0].with_dtype(dtype))
}

fn accepts(cx: &Context, accepts: crate::ir::Accepts, dtype: DType) -> Result<(), ShapeError> {
    cx.ensure(accepts.contains(dtype), || format!("operand must be {}, got {dtype}", accepts.words()))
}

fn same_types(cx: &Context) -> Result<(), ShapeError> {
    let first = &cx.operands[0];
    for other in &cx.operands[1..] {
        cx.ensure(first.dtype == other.dtype, || {
            format!("operands have element types {} and {}", first.dtype, other.dtype)
        })?;
        same_shape(cx, first, other)?;
    }
    Ok(())
}

fn same_shape(cx: &Context, a: &TensorType, b: &TensorType) -> Result<(), ShapeError> {
    cx.ensure(a.rank() == b.rank(), || format!("operands have ranks {} and {}", a.rank(), b.rank()))?;
    match (0..a.rank()).find(|&i| a.shape[i] != b.shape[i]) {
        Some(i) => Err(cx.axis_error(i, format!("operands have sizes {} and {}", a.shape[i], b.shape[i]))),
        None => Ok(()),
    }
}
