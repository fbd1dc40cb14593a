//! Operations that work element by element.

use super::tensor::{Data, Scalar, Tensor, bits, by_kind, wrap};
use crate::ir::{BinaryOp, DType, Direction, Literal, LiteralError, UnaryOp};
use std::f64::consts::PI;

pub(super) fn unary(op: UnaryOp, x: &Tensor) -> Tensor {
    let (dtype, shape) = (x.dtype(), x.shape());
    match &x.data {
        Data::Float(elements) if op == UnaryOp::IsFinite => {
            Tensor::exact(DType::Pred, shape, elements.iter().map(|x| i128::from(x.is_finite())).collect())
        }
        Data::Float(elements) => {
            Tensor::fitted(dtype, shape, elements.iter().map(|&x| float_unary(op, x)).collect())
        }
        Data::Int(elements) => {
            Tensor::fitted(dtype, shape, elements.iter().map(|&x| int_unary(op, x, dtype)).collect())
        }
    }
}

fn float_unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        // Keeps the sign of zero and NaN.
        UnaryOp::Sign => {
            if x == 0.0 || x.is_nan() {
                x
            } else {
                x.signum()
            }
        }
        UnaryOp::Exp => x.exp(),
        UnaryOp::Expm1 => x.exp_m1(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Log1p => x.ln_1p(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Logistic => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Erf => erf(x),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::RoundNearestEven => x.round_ties_even(),
        UnaryOp::IsFinite | UnaryOp::Not => unreachable!("internal: {} has no float result", op.opcode()),
    }
}

fn int_unary(op: UnaryOp, x: i128, dtype: DType) -> i128 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sign => x.signum(),
        UnaryOp::Not if dtype == DType::Pred => 1 - x,
        UnaryOp::Not => !x,
        _ => unreachable!("internal: {} takes floats", op.opcode()),
    }
}

/// The error function, to the precision of `f64`: a series of positive terms,
/// `2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!`.
fn erf(x: f64) -> f64 {
    // From 6 on the result rounds to one.
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-18 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

pub(super) fn binary(op: BinaryOp, x: &Tensor, y: &Tensor) -> Tensor {
    let dtype = x.dtype();
    match (&x.data, &y.data) {
        (Data::Float(a), Data::Float(b)) => {
            let elements = a.iter().zip(b).map(|(&a, &b)| float_binary(op, a, b)).collect();
            Tensor::fitted(dtype, x.shape(), elements)
        }
        _ => {
            let pairs = x.ints().iter().zip(y.ints());
            Tensor::fitted(dtype, x.shape(), pairs.map(|(&a, &b)| int_binary(op, a, b, dtype)).collect())
        }
    }
}

/// Not yet rounded to the element type.
pub(super) fn float_binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Rem => a % b,
        BinaryOp::Max => {
            if a.is_nan() || a > b {
                a
            } else {
                b
            }
        }
        BinaryOp::Min => {
            if a.is_nan() || a < b {
                a
            } else {
                b
            }
        }
        BinaryOp::Pow => a.powf(b),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::ShiftLeft | BinaryOp::ShiftRight => {
            unreachable!("internal: {} takes bits", op.opcode())
        }
    }
}

/// Wraps around: the result fits `dtype` once it is taken modulo the width.
pub(super) fn int_binary(op: BinaryOp, a: i128, b: i128, dtype: DType) -> i128 {
    let width = 8 * dtype.size_bytes() as i128;
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a.wrapping_mul(b),
        // XLA: all ones for a zero divisor; the least integer over -1 wraps to itself.
        BinaryOp::Div => {
            if b == 0 {
                -1
            } else {
                a / b
            }
        }
        BinaryOp::Rem => {
            if b == 0 {
                a
            } else {
                a % b
            }
        }
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        // A negative distance counts as a large unsigned one.
        BinaryOp::ShiftLeft => {
            if (0..width).contains(&b) {
                wrap(a << b, dtype)
            } else {
                0
            }
        }
        BinaryOp::ShiftRight => {
            if (0..width).contains(&b) {
                (bits(a, dtype) >> b) as i128
            } else {
                0
            }
        }
        BinaryOp::Pow => unreachable!("internal: {} takes floats", op.opcode()),
    }
}

pub(super) fn compare(direction: Direction, x: &Tensor, y: &Tensor) -> Tensor {
    fn each<T: Scalar + PartialOrd>(direction: Direction, x: &Tensor, y: &Tensor) -> Tensor {
        let pairs = x.elements::<T>().iter().zip(y.elements::<T>());
        let holds = pairs.map(|(a, b)| {
            i128::from(match direction {
                Direction::Eq => a == b,
                Direction::Ne => a != b,
                Direction::Lt => a < b,
                Direction::Le => a <= b,
                Direction::Gt => a > b,
                Direction::Ge => a >= b,
            })
        });
        Tensor::exact(DType::Pred, x.shape(), holds.collect())
    }
    by_kind!(x, each(direction, x, y))
}

pub(super) fn select(pred: &Tensor, on_true: &Tensor, on_false: &Tensor) -> Tensor {
    fn each<T: Scalar>(pred: &Tensor, on_true: &Tensor, on_false: &Tensor) -> Tensor {
        let pairs = on_true.elements::<T>().iter().zip(on_false.elements::<T>());
        let chosen = pred.ints().iter().zip(pairs).map(|(&p, (&a, &b))| if p != 0 { a } else { b });
        Tensor::exact(on_true.dtype(), on_true.shape(), chosen.collect())
    }
    by_kind!(on_true, each(pred, on_true, on_false))
}

/// `min(max(x, low), high)`: `high` wins where the bounds cross.
pub(super) fn clamp(low: &Tensor, x: &Tensor, high: &Tensor) -> Tensor {
    binary(BinaryOp::Min, high, &binary(BinaryOp::Max, low, x))
}

pub(super) fn convert(x: &Tensor, dtype: DType) -> Tensor {
    let shape = x.shape();
    match &x.data {
        Data::Float(elements) if dtype.is_float() => Tensor::fitted(dtype, shape, elements.clone()),
        Data::Float(elements) => {
            Tensor::exact(dtype, shape, elements.iter().map(|&x| float_to_int(x, dtype)).collect())
        }
        Data::Int(elements) if dtype.is_float() => {
            Tensor::exact(dtype, shape, elements.iter().map(|&x| int_to_float(x, dtype)).collect())
        }
        Data::Int(elements) => Tensor::fitted(dtype, shape, elements.clone()),
    }
}

/// Towards zero; saturates, and NaN becomes zero.
fn float_to_int(x: f64, dtype: DType) -> i128 {
    match dtype {
        DType::Pred => (x != 0.0).into(),
        DType::S8 => (x as i8).into(),
        DType::S32 => (x as i32).into(),
        DType::S64 => (x as i64).into(),
        DType::U8 => (x as u8).into(),
        DType::U32 => (x as u32).into(),
        DType::U64 => (x as u64).into(),
        DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => x as i128,
    }
}

/// 64-bit integers are rounded once for `f32` and `f64`, through `f32` for the shorter types.
fn int_to_float(x: i128, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => x as f64,
        _ => f64::from(x as f32).fit(dtype),
    }
}

pub(super) fn bitcast(x: &Tensor, dtype: DType) -> Result<Tensor, LiteralError> {
    let bytes = x.to_literal()?.into_bytes();
    Ok(Tensor::from_literal(&Literal::from_bytes(x.ty.with_dtype(dtype), bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(x: &[f64]) -> Tensor {
        Tensor::exact(DType::F32, [x.len()], x.to_vec())
    }

    fn ints(dtype: DType, x: &[i128]) -> Tensor {
        Tensor::exact(dtype, [x.len()], x.to_vec())
    }

    fn on_ints(op: BinaryOp, dtype: DType, a: i128, b: i128) -> i128 {
        binary(op, &ints(dtype, &[a]), &ints(dtype, &[b])).ints()[0]
    }

    #[test]
    fn integer_division_at_its_edges_is_as_in_xla() {
        assert_eq!(on_ints(BinaryOp::Div, DType::S32, 7, 0), -1);
        assert_eq!(on_ints(BinaryOp::Div, DType::U8, 7, 0), 255);
        assert_eq!(on_ints(BinaryOp::Div, DType::S8, -128, -1), -128);
        assert_eq!(on_ints(BinaryOp::Div, DType::S32, -7, 2), -3);
        assert_eq!(on_ints(BinaryOp::Rem, DType::S32, -7, 2), -1);
        assert_eq!(on_ints(BinaryOp::Rem, DType::S32, 7, 0), 7);
        assert_eq!(on_ints(BinaryOp::Rem, DType::S64, i64::MIN.into(), -1), 0);
    }

    #[test]
    fn integer_arithmetic_wraps() {
        assert_eq!(on_ints(BinaryOp::Add, DType::S8, 127, 1), -128);
        assert_eq!(on_ints(BinaryOp::Sub, DType::U32, 0, 1), u32::MAX.into());
        // (2^64 - 1)^2 = 2^128 - 2^65 + 1, which is 1 modulo 2^64.
        assert_eq!(on_ints(BinaryOp::Mul, DType::U64, u64::MAX.into(), u64::MAX.into()), 1);
        assert_eq!(unary(UnaryOp::Neg, &ints(DType::S8, &[-128])).ints(), [-128]);
        assert_eq!(unary(UnaryOp::Abs, &ints(DType::S8, &[-128, -3])).ints(), [-128, 3]);
        assert_eq!(unary(UnaryOp::Not, &ints(DType::U8, &[1])).ints(), [254]);
        assert_eq!(unary(UnaryOp::Not, &ints(DType::Pred, &[1, 0])).ints(), [0, 1]);
    }

    #[test]
    fn shifts_past_the_width_give_zero() {
        assert_eq!(on_ints(BinaryOp::ShiftLeft, DType::U32, 1, 31), 1 << 31);
        assert_eq!(on_ints(BinaryOp::ShiftLeft, DType::S32, 1, 31), i32::MIN.into());
        assert_eq!(on_ints(BinaryOp::ShiftLeft, DType::U32, 1, 32), 0);
        assert_eq!(on_ints(BinaryOp::ShiftRight, DType::S8, -1, 1), 127);
        assert_eq!(on_ints(BinaryOp::ShiftRight, DType::S8, -1, 0), -1);
        assert_eq!(on_ints(BinaryOp::ShiftRight, DType::S8, -1, -1), 0);
    }

    #[test]
    fn maximum_minimum_and_clamp_keep_nan() {
        let (x, y) = (f32s(&[f64::NAN, 1.0, 2.0]), f32s(&[0.0, f64::NAN, 3.0]));
        let max = binary(BinaryOp::Max, &x, &y);
        assert!(max.floats()[0].is_nan() && max.floats()[1].is_nan() && max.floats()[2] == 3.0);
        let min = binary(BinaryOp::Min, &x, &y);
        assert!(min.floats()[0].is_nan() && min.floats()[1].is_nan() && min.floats()[2] == 2.0);
        let x = f32s(&[f64::NAN, -1.0, 9.0, 0.5]);
        let clamped = clamp(&f32s(&[0.0; 4]), &x, &f32s(&[1.0; 4]));
        assert!(clamped.floats()[0].is_nan());
        assert_eq!(clamped.floats()[1..], [0.0, 1.0, 0.5]);
    }

    #[test]
    fn nan_compares_unequal_to_all() {
        let (x, one) = (f32s(&[f64::NAN]), f32s(&[1.0]));
        let holds = |direction| compare(direction, &x, &one).ints()[0] == 1;
        let true_for: Vec<Direction> = Direction::ALL.into_iter().filter(|&d| holds(d)).collect();
        assert_eq!(true_for, [Direction::Ne]);
    }

    #[test]
    fn signs_of_zero_and_nan_stay() {
        let signs = unary(UnaryOp::Sign, &f32s(&[-0.0, 0.0, -3.0, f64::NAN, f64::INFINITY]));
        let x = signs.floats();
        assert!(x[0] == 0.0 && x[0].is_sign_negative() && x[1].is_sign_positive());
        assert!(x[2] == -1.0 && x[3].is_nan() && x[4] == 1.0);
    }

    #[test]
    fn rounding_goes_to_even() {
        let x = f32s(&[0.5, 1.5, 2.5, -0.5, -1.5, 2.4]);
        assert_eq!(unary(UnaryOp::RoundNearestEven, &x).floats(), [0.0, 2.0, 2.0, 0.0, -2.0, 2.0]);
    }

    #[test]
    fn floats_saturate_as_integers() {
        let x = f32s(&[f64::NAN, f64::INFINITY, -f64::INFINITY, 2.9, -2.9, 300.0]);
        assert_eq!(convert(&x, DType::S8).ints(), [0, 127, -128, 2, -2, 127]);
        assert_eq!(convert(&x, DType::U8).ints(), [0, 255, 0, 2, 0, 255]);
        assert_eq!(convert(&x, DType::Pred).ints(), [1; 6]);
    }

    #[test]
    fn integers_wrap_as_shorter_integers_and_round_as_floats() {
        let x = ints(DType::S32, &[300, -1, (1 << 24) + 1]);
        assert_eq!(convert(&x, DType::U8).ints(), [44, 255, 1]);
        assert_eq!(convert(&x, DType::F32).floats(), [300.0, -1.0, 16_777_216.0]);
        assert_eq!(convert(&x, DType::Pred).ints(), [1, 1, 1]);
    }

    #[test]
    fn bits_are_read_as_another_type() {
        assert_eq!(bitcast(&f32s(&[1.0, -0.0]), DType::U32).unwrap().ints(), [0x3F80_0000, 0x8000_0000]);
        assert_eq!(bitcast(&ints(DType::U8, &[255]), DType::S8).unwrap().ints(), [-1]);
        assert_eq!(bitcast(&ints(DType::S32, &[0x4000_0000]), DType::F32).unwrap().floats(), [2.0]);
    }

    #[test]
    fn error_function_matches_its_table() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
        {
            assert!((erf(x) - expected).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(7.0), 1.0);
        assert!((erf(5.9) - 1.0).abs() < 1e-14);
    }
}
