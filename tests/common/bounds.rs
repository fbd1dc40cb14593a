//! How far apart two correct implementations of an operation may be.
//!
//! Errors are absolute and worst-case over a tensor. Where an operation would blow up the error of its operands (a jump, a
//! pole), there is no bound, and the operation takes exact operands only.

use super::sketch::Known;
use switchyard::ir::{BinaryOp, Combiner, DType, Op, Reducer, UnaryOp};

/// Relative error of one operation with its result in this type. The short types have some slack: XLA may keep intermediate
/// results longer than they are.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        DType::Bf16 => 1.6e-2,
        _ => 0.0,
    }
}

/// What the smallest numbers of a type may be off by.
fn floor(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-300,
        DType::F32 | DType::Bf16 => 1e-30,
        DType::F16 => 1e-6,
        _ => 0.0,
    }
}

/// The bound for one result of `op`, or `None` where the operation asks for exact operands.
pub fn error(op: &Op, x: &[&Known], y: &Known) -> Option<f64> {
    let exact = x.iter().all(|x| x.exact());
    let worst = x.iter().map(|x| x.error).fold(0.0, f64::max);
    let calls = matches!(op, Op::While { .. } | Op::Scan(_) | Op::Conditional { .. } | Op::Call(_));
    if chooses_by_size(op) && x.iter().any(|x| x.nan || calls && !x.finite) {
        return None;
    }
    if calls && y.ty.dtype.is_float() {
        return Some(body_error(op, x, y));
    }
    if !y.ty.dtype.is_float() {
        // Bodies keep floats and integers apart, and moving values keeps each as exact as it was.
        let apart = calls || matches!(op, Op::OptimizationBarrier);
        return (exact || apart).then_some(0.0);
    }
    let bound = match op {
        Op::Unary(op) => unary(*op, x[0], y)?,
        Op::Binary(op) => binary(*op, x[0], x[1], y)?,
        Op::Convert(_) => convert(x[0], y),
        Op::BitcastConvert(_) | Op::Sort { .. } | Op::RngBitGenerator { .. } => exact.then_some(0.0)?,
        Op::DotGeneral { dims, .. } => {
            let terms: usize = dims.lhs_contracting.iter().map(|&d| x[0].ty.shape[d]).product();
            terms as f64 * product(x[0], x[1], y.ty.dtype)
        }
        Op::Reduce { dims, reducer } => {
            let terms = dims.iter().map(|&d| x[0].ty.shape[d]).product();
            let each: Option<Vec<f64>> = x.iter().map(|x| combined(*reducer, x, terms, y)).collect();
            each?.into_iter().fold(0.0, f64::max)
        }
        Op::CumSum { dim, .. } => combined(Reducer::Add, x[0], x[0].ty.shape[*dim], y)?,
        Op::AllReduce { reducer, groups } | Op::ReduceScatter { reducer, groups, .. } => {
            combined(*reducer, x[0], groups[0].len(), y)?
        }
        Op::Scatter { combiner: Combiner::Reduce(reducer), .. } => {
            let terms = 1 + x[2].ty.elements();
            let either =
                Known { magnitude: x[0].magnitude.max(x[2].magnitude), error: worst, ..x[0].clone() };
            combined(*reducer, &either, terms, y)?
        }
        // The rest moves or chooses.
        _ => worst,
    };
    Some(if bound == 0.0 { 0.0 } else { bound + floor(y.ty.dtype) })
}

/// Whether the operation, or a body as the tests make them, takes a maximum or minimum. XLA's CPU code paths differ in whether
/// those keep NaN.
fn chooses_by_size(op: &Op) -> bool {
    match op {
        Op::Binary(BinaryOp::Max | BinaryOp::Min) | Op::Clamp => true,
        Op::Reduce { reducer, .. }
        | Op::AllReduce { reducer, .. }
        | Op::ReduceScatter { reducer, .. }
        | Op::Scatter { combiner: Combiner::Reduce(reducer), .. } => {
            matches!(reducer, Reducer::Max | Reducer::Min)
        }
        Op::While { .. } | Op::Scan(_) | Op::Conditional { .. } | Op::Call(_) => true,
        _ => false,
    }
}

/// Whether later operations may read the value: it is neither huge nor lost in rounding.
pub fn usable(op: &Op, y: &Known) -> bool {
    if !y.ty.dtype.is_float() {
        return true;
    }
    let tiny = y.rows.iter().flat_map(|row| row.to_f64()).any(|x| x != 0.0 && x.abs() < 1e-4);
    let bits = matches!(op, Op::BitcastConvert(_));
    y.magnitude <= 1e3 && !(bits && tiny) && (y.exact() || y.finite && y.error <= 0.1 * y.magnitude.max(1.0))
}

fn unary(op: UnaryOp, x: &Known, y: &Known) -> Option<f64> {
    let rounded = unit(y.ty.dtype) * y.magnitude;
    let exact = x.exact().then_some(0.0);
    Some(match op {
        UnaryOp::Neg | UnaryOp::Abs => x.error,
        UnaryOp::Sign | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::RoundNearestEven => exact?,
        UnaryOp::IsFinite | UnaryOp::Not => 0.0,
        // Slope at most one.
        UnaryOp::Tanh | UnaryOp::Logistic | UnaryOp::Sin | UnaryOp::Cos => x.error + unit(y.ty.dtype),
        UnaryOp::Erf => 1.13 * x.error + unit(y.ty.dtype),
        UnaryOp::Exp => 2.0 * y.magnitude * x.error + rounded,
        UnaryOp::Expm1 => 2.0 * (y.magnitude + 1.0) * x.error + rounded,
        UnaryOp::Log | UnaryOp::Log1p | UnaryOp::Sqrt | UnaryOp::Rsqrt => {
            exact? + unit(y.ty.dtype) * y.magnitude.max(1.0)
        }
    })
}

fn binary(op: BinaryOp, a: &Known, b: &Known, y: &Known) -> Option<f64> {
    let unit = unit(y.ty.dtype);
    let exact = (a.exact() && b.exact()).then_some(0.0);
    Some(match op {
        BinaryOp::Add | BinaryOp::Sub => a.error + b.error + unit * (a.magnitude + b.magnitude),
        BinaryOp::Mul => product(a, b, y.ty.dtype),
        BinaryOp::Div => {
            let far_from_zero = b.exact() && b.least >= 0.1;
            let quotient = a.error / b.least.max(0.1) + unit * y.magnitude;
            far_from_zero.then_some(quotient)?
        }
        BinaryOp::Rem => exact?,
        BinaryOp::Max | BinaryOp::Min => a.error.max(b.error),
        // The sign of a zero base, and infinities, have rules of their own, which the table of special values tests.
        BinaryOp::Pow => {
            let plain = a.finite && b.finite && a.least > 0.0;
            plain.then_some(exact? + 4.0 * unit * y.magnitude.max(1.0))?
        }
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::ShiftLeft | BinaryOp::ShiftRight => 0.0,
    })
}

/// Of one product, rounded to `dtype`.
fn product(a: &Known, b: &Known, dtype: DType) -> f64 {
    a.error * b.magnitude
        + b.error * a.magnitude
        + a.error * b.error
        + unit(dtype).max(unit(a.ty.dtype).min(1e-5)) * a.magnitude * b.magnitude
}

/// Of `terms` elements combined into one, in any order.
fn combined(reducer: Reducer, x: &Known, terms: usize, y: &Known) -> Option<f64> {
    let n = terms as f64;
    Some(match reducer {
        Reducer::Add => n * (x.error + unit(y.ty.dtype) * x.magnitude),
        Reducer::Mul => {
            let overflows = n * x.magnitude.max(1.0).log2() > 10.0;
            let exact = (x.exact() && x.finite && !overflows).then_some(0.0);
            exact? + unit(y.ty.dtype) * n * x.magnitude.max(1.0).powf(n)
        }
        Reducer::Max | Reducer::Min | Reducer::And | Reducer::Or => x.error,
    })
}

fn convert(x: &Known, y: &Known) -> f64 {
    let (from, to) = (x.ty.dtype, y.ty.dtype);
    let widens = from.is_float() && unit(from) >= unit(to) && from != DType::F16;
    let once = !from.is_float() && matches!(to, DType::F32 | DType::F64);
    if from == to || widens || once || (from == DType::F16 && to != DType::Bf16) {
        return x.error;
    }
    x.error + unit(to) * x.magnitude.max(y.magnitude)
}

/// The bodies of the tests map floats in the same type, with slopes of at most one in every step.
fn body_error(op: &Op, x: &[&Known], y: &Known) -> f64 {
    let steps = if let Op::Scan(scan) = op { scan.length.max(1) as f64 } else { 4.0 };
    let same = || x.iter().filter(|x| x.ty.dtype == y.ty.dtype);
    let errors: f64 = same().map(|x| x.error).sum();
    let scale = same().map(|x| x.magnitude).fold(1.0, f64::max);
    4.0 * errors + 16.0 * steps * unit(y.ty.dtype) * scale
}
