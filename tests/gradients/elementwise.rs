use crate::check::*;
use switchyard::ir::*;

/// A range without kinks, or `None` for an operation on bits or with a result that is no float.
fn unary_range(op: UnaryOp) -> Option<(f64, f64)> {
    match op {
        UnaryOp::Neg
        | UnaryOp::Exp
        | UnaryOp::Expm1
        | UnaryOp::Tanh
        | UnaryOp::Logistic
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Erf => Some((-2.0, 2.0)),
        UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt => Some((0.3, 3.0)),
        UnaryOp::Log1p => Some((-0.7, 2.0)),
        UnaryOp::Abs | UnaryOp::Sign => Some((-3.0, -0.1)),
        UnaryOp::Floor | UnaryOp::Ceil => Some((1.1, 1.9)),
        UnaryOp::RoundNearestEven => Some((0.6, 1.4)),
        UnaryOp::IsFinite | UnaryOp::Not => None,
    }
}

#[test]
fn every_unary_operation_has_the_derivative_of_calculus() {
    for &op in UnaryOp::ALL {
        if let Some((low, high)) = unary_range(op) {
            check_twice(op.opcode(), &[floats(&[2, 3], low, high)], |b, v| b.insert(Op::Unary(op), v));
        }
    }
}

/// Ranges of both operands without kinks or ties.
fn binary_ranges(op: BinaryOp) -> Option<[(f64, f64); 2]> {
    match op {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul => Some([(-2.0, 2.0), (-1.0, 3.0)]),
        BinaryOp::Div => Some([(-2.0, 2.0), (-3.0, -0.5)]),
        BinaryOp::Rem => Some([(7.1, 7.9), (2.1, 2.3)]),
        BinaryOp::Max | BinaryOp::Min => Some([(-2.0, 2.0), (-1.5, 1.0)]),
        BinaryOp::Pow => Some([(0.3, 2.0), (-2.0, 3.0)]),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::ShiftLeft | BinaryOp::ShiftRight => None,
    }
}

#[test]
fn every_binary_operation_has_the_derivative_of_calculus() {
    for &op in BinaryOp::ALL {
        if let Some([x, y]) = binary_ranges(op) {
            let inputs = [floats(&[2, 3], x.0, x.1), floats(&[2, 3], y.0, y.1)];
            check_twice(op.opcode(), &inputs, |b, v| b.insert(Op::Binary(op), v));
        }
    }
}

#[test]
fn negative_remainders_have_the_derivative_of_the_truncated_quotient() {
    check("rem", &[floats(&[4], -7.9, -7.1), floats(&[4], 2.1, 2.3)], |b, v| Ok(vec![b.rem(v[0], v[1])?]));
    check("rem", &[floats(&[4], -7.9, -7.1), floats(&[4], -2.3, -2.1)], |b, v| Ok(vec![b.rem(v[0], v[1])?]));
}

#[test]
fn a_value_used_twice_adds_both_cotangents() {
    check_twice("fan-out", &[floats(&[3], -1.0, 2.0)], |b, v| {
        let square = b.mul(v[0], v[0])?;
        let sin = b.sin(square)?;
        let sum = b.add(sin, square)?;
        Ok(vec![b.mul(sum, v[0])?, sin])
    });
}

#[test]
fn select_and_clamp_pass_what_they_chose() {
    let pred = Literal::pred([4], &[true, false, false, true]).unwrap();
    check("select", &[pred, floats(&[4], -1.0, 1.0), floats(&[4], 0.0, 3.0)], |b, v| {
        Ok(vec![b.select(v[0], v[1], v[2])?])
    });
    // Below, between, above; and bounds in the wrong order, where the maximum holds.
    let x = f64s(&[4], &[-2.0, 0.3, 2.0, 0.0]);
    let low = f64s(&[4], &[-1.0, -1.0, -1.0, 1.0]);
    let high = f64s(&[4], &[1.0, 1.0, 1.0, 0.5]);
    check("clamp", &[low, x, high], |b, v| Ok(vec![b.clamp(v[0], v[1], v[2])?]));
}

#[test]
fn conversions_between_floats_convert_the_cotangent_back() {
    // Exact in f32, and linear: differences of the f64 function x + 1.
    let gradients = values(
        &[f64s(&[2], &[0.5, 2.0])],
        gradients_of(|b, v| {
            let narrow = b.convert(v[0], DType::F32)?;
            let wide = b.convert(narrow, DType::F64)?;
            Ok(vec![b.square(wide)?])
        }),
    );
    let weights = numbers(2, -1.0, 1.5);
    assert_close(&gradients[0], &[2.0 * 0.5 * weights[0], 2.0 * 2.0 * weights[1]], 1e-6);
}

#[test]
fn nothing_flows_through_integers_and_stopped_values() {
    check_twice("cut", &[floats(&[3], 0.1, 0.4)], |b, v| {
        let bits = b.bitcast_convert(v[0], DType::S64)?;
        let bits = b.and(bits, bits)?;
        let same = b.bitcast_convert(bits, DType::F64)?;
        let same = b.floor(same)?;
        let whole = b.convert(v[0], DType::S32)?;
        let whole = b.convert(whole, DType::F64)?;
        let sum = b.add(same, whole)?;
        let y = b.sin(v[0])?;
        Ok(vec![b.add(sum, y)?])
    });
    let stopped = values(
        &[f64s(&[], &[3.0])],
        gradients_of(|b, v| {
            let held = b.stop_gradient(v[0])?;
            let y = b.mul(held, v[0])?;
            Ok(vec![y])
        }),
    );
    assert_close(&stopped[0], &[3.0 * numbers(1, -1.0, 1.5)[0]], 1e-12);
}

pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "found {found:?}, expected {expected:?}");
    }
}

/// The gradients of the plain sum of the result.
pub fn slopes(inputs: &[Literal], op: Op) -> Vec<Vec<f64>> {
    values(inputs, |b, v| {
        let y = b.one(op.clone(), v)?;
        let loss = b.sum_all(y)?;
        let wrt: Vec<Value> = v.iter().copied().filter(|v| b.dtype(*v).is_float()).collect();
        switchyard::grad::gradients(b, loss, &wrt)
    })
}

#[test]
fn the_absolute_value_has_slope_zero_at_zero() {
    assert_eq!(slopes(&[f64s(&[3], &[-1.0, 0.0, 2.0])], Op::Unary(UnaryOp::Abs)), [[-1.0, 0.0, 1.0]]);
}

#[test]
fn ties_of_max_and_min_share_evenly() {
    let inputs = [f64s(&[3], &[1.0, 2.0, 3.0]), f64s(&[3], &[2.0, 2.0, 2.0])];
    assert_eq!(slopes(&inputs, Op::Binary(BinaryOp::Max)), [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]);
    assert_eq!(slopes(&inputs, Op::Binary(BinaryOp::Min)), [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]);
}

#[test]
fn powers_at_zero_have_no_nan() {
    // 0^2, 0^1, 0^0, (-2)^3: slopes of the base 0, 1, 0, 3 * 4; the exponent has none there.
    let inputs = [f64s(&[4], &[0.0, 0.0, 0.0, -2.0]), f64s(&[4], &[2.0, 1.0, 0.0, 3.0])];
    assert_eq!(slopes(&inputs, Op::Binary(BinaryOp::Pow)), [[0.0, 1.0, 0.0, 12.0], [0.0; 4]]);
}

#[test]
fn a_clamped_value_at_its_bound_has_slope_zero() {
    let inputs = [f64s(&[3], &[0.0; 3]), f64s(&[3], &[0.0, 0.5, 1.0]), f64s(&[3], &[1.0; 3])];
    assert_eq!(slopes(&inputs, Op::Clamp)[1], [0.0, 1.0, 0.0]);
}
