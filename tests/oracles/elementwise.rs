//! Operations element by element, with the special points where a convention is claimed.

use super::case::{Built, Case, f64s, floats, numbers};
use switchyard::build::Builder;
use switchyard::ir::*;

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for &op in UnaryOp::ALL.iter().filter(|op| **op != UnaryOp::Not) {
        let (low, high) = match op {
            UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt => (0.1, 9.0),
            UnaryOp::Log1p => (-0.9, 9.0),
            _ => (-3.0, 3.0),
        };
        cases.push(unary(op, "", floats(&[3, 5], low, high)));
    }
    cases.extend([
        unary(UnaryOp::Abs, "/at zero", f64s(&[3], &[0.0, -0.0, 1.0])),
        unary(UnaryOp::Sign, "/at zero", f64s(&[3], &[0.0, -2.0, 1.0])),
        unary(UnaryOp::Tanh, "/far out", f64s(&[4], &[-30.0, -15.0, 15.0, 400.0])),
        unary(UnaryOp::Logistic, "/far out", f64s(&[4], &[-700.0, -40.0, 30.0, 400.0])),
        unary(UnaryOp::Expm1, "/near zero", f64s(&[4], &[-1e-12, 0.0, 1e-12, 1e-3])),
        unary(UnaryOp::Log1p, "/near zero", f64s(&[4], &[-1e-12, 0.0, 1e-12, 1e-3])),
        unary(UnaryOp::Erf, "/far out", f64s(&[4], &[-6.0, -1e-9, 5.0, 30.0])),
        unary(UnaryOp::Sqrt, "/at zero", f64s(&[2], &[0.0, 4.0])).infinite(),
        unary(UnaryOp::Log, "/at zero", f64s(&[2], &[0.0, 4.0])).infinite(),
    ]);
    cases.extend(binaries());
    cases.extend(selections());
    cases.extend(conversions());
    cases
}

fn unary(op: UnaryOp, suffix: &str, x: Literal) -> Case {
    Case::new(format!("{}{suffix}", op.opcode()), [x], move |b, v| Ok(vec![b.one(Op::Unary(op), v)?]))
}

fn binary(op: BinaryOp, suffix: &str, x: &[f64], y: &[f64]) -> Case {
    let inputs = [f64s(&[x.len()], x), f64s(&[y.len()], y)];
    Case::new(format!("{}{suffix}", op.opcode()), inputs, move |b, v| Ok(vec![b.one(Op::Binary(op), v)?]))
}

fn binaries() -> Vec<Case> {
    let (x, y) = (numbers(12, -2.0, 3.0), numbers(14, -1.7, 2.0)[2..].to_vec());
    let positive = numbers(12, 0.2, 3.0);
    let ties = ([1.0, 2.0, 2.0, -1.0, 0.0, -0.0], [1.0, 3.0, 1.0, -1.0, -0.0, -0.0]);
    use BinaryOp::*;
    vec![
        binary(Add, "", &x, &y),
        binary(Sub, "", &x, &y),
        binary(Mul, "", &x, &y),
        binary(Div, "", &x, &y),
        binary(Rem, "", &x, &y),
        binary(Rem, "/signs", &[5.5, -5.5, 5.5, -5.5], &[2.0, 2.0, -2.0, -2.0]),
        binary(Max, "", &x, &y),
        binary(Max, "/ties", &ties.0, &ties.1),
        binary(Min, "", &x, &y),
        binary(Min, "/ties", &ties.0, &ties.1),
        binary(Pow, "", &positive, &y),
        // By the base alone: JAX has no slope by the exponent where the base is negative.
        Case::new("power/whole exponents", [f64s(&[4], &[-2.0, -2.0, 3.0, -1.5])], |b, v| {
            let exponents = b.constant(f64s(&[4], &[2.0, 3.0, -1.0, 0.0]))?;
            Ok(vec![b.pow(v[0], exponents)?])
        }),
        binary(Pow, "/base zero", &[0.0, 0.0], &[1.0, 2.0]),
        Case::new("multiply/one value twice", [floats(&[4], -1.0, 2.0)], |b, v| Ok(vec![b.mul(v[0], v[0])?])),
        Case::new("maximum/with itself", [floats(&[4], -1.0, 2.0)], |b, v| Ok(vec![b.max(v[0], v[0])?])),
    ]
}

fn selections() -> Vec<Case> {
    let pred = Literal::pred([2, 3], &[true, false, false, true, true, false]).unwrap();
    let select = |b: &mut Builder, v: &[Value]| -> Built { Ok(vec![b.select(v[0], v[1], v[2])?]) };
    let clamp = |b: &mut Builder, v: &[Value]| -> Built { Ok(vec![b.clamp(v[0], v[1], v[2])?]) };
    // Below, at the lower bound, inside, at the upper bound, above; then bounds that meet.
    let x = [-1.0, 0.0, 0.5, 2.0, 3.0, 1.0, 0.5, 2.0];
    let low = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
    let high = [2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0];
    let bounds = [f64s(&[8], &low), f64s(&[8], &x), f64s(&[8], &high)];
    vec![
        Case::new("select", [pred, floats(&[2, 3], -1.0, 1.0), floats(&[2, 3], 1.0, 2.0)], select),
        Case::new("clamp/bounds", bounds[..].to_vec(), clamp),
        Case::new("compare/cut", [floats(&[5], -1.0, 1.0)], |b, v| {
            let zero = b.full_like(v[0], 0.0)?;
            let positive = b.compare(Direction::Gt, v[0], zero)?;
            let square = b.square(v[0])?;
            Ok(vec![b.mask(positive, square, 0.0)?, positive])
        }),
        Case::new("stop_gradient", [floats(&[5], -1.0, 1.0)], |b, v| {
            let held = b.stop_gradient(v[0])?;
            Ok(vec![b.mul(v[0], held)?])
        }),
    ]
}

fn conversions() -> Vec<Case> {
    vec![
        // Exact in float32, so that both sides round alike.
        Case::new("convert/narrow and wide", [f64s(&[4], &[0.5, -1.25, 3.0, 0.0])], |b, v| {
            let narrow = b.convert(v[0], DType::F32)?;
            let narrow = b.mul(narrow, narrow)?;
            Ok(vec![b.convert(narrow, DType::F64)?])
        }),
        Case::new("convert/through integers", [f64s(&[3], &[0.5, -1.25, 3.75])], |b, v| {
            let whole = b.convert(v[0], DType::S32)?;
            let back = b.convert(whole, DType::F64)?;
            Ok(vec![b.mul(back, v[0])?, whole])
        }),
    ]
}
