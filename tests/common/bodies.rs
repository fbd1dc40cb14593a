//! Random subgraphs. Floats stay in their type and no step has a slope above one, so that errors do not grow in loops.

use super::dice::Dice;
use std::sync::Arc;
use switchyard::build::{BuildError, Builder, ScanInputs};
use switchyard::ir::*;

/// A graph from these types to those: a few random steps, then a value of each result type.
pub fn body(dice: &mut Dice, inputs: &[TensorType], results: &[TensorType], depth: usize) -> Graph {
    let built = Builder::graph(inputs, |b, values| steps(b, dice, values, results, depth));
    built.unwrap_or_else(|error| panic!("{error}"))
}

/// Appends random steps to a body; returns a value of each result type.
pub fn steps(
    b: &mut Builder,
    dice: &mut Dice,
    values: &[Value],
    results: &[TensorType],
    depth: usize,
) -> Result<Vec<Value>, BuildError> {
    let mut pool = values.to_vec();
    for _ in 0..dice.below(5) {
        if pool.is_empty() {
            break;
        }
        let x = dice.pick(&pool);
        let y =
            if depth < 2 && dice.chance(15) { nested(b, dice, x, depth)? } else { step(b, dice, x, &pool)? };
        pool.push(y);
    }
    results.iter().map(|ty| value_of(b, dice, &pool, ty)).collect()
}

/// The latest values are the likeliest, so that steps are used.
fn value_of(b: &mut Builder, dice: &mut Dice, pool: &[Value], ty: &TensorType) -> Result<Value, BuildError> {
    let fitting: Vec<Value> = pool.iter().copied().filter(|&v| b.ty(v) == ty).collect();
    match fitting.last() {
        Some(&last) if dice.chance(70) => Ok(last),
        Some(_) => Ok(dice.pick(&fitting)),
        None => b.full(ty, 1.0),
    }
}

/// One step from `x` to a value of the same type.
fn step(b: &mut Builder, dice: &mut Dice, x: Value, pool: &[Value]) -> Result<Value, BuildError> {
    let ty = b.ty(x).clone();
    let partners: Vec<Value> = pool.iter().copied().filter(|&v| *b.ty(v) == ty).collect();
    let y = dice.pick(&partners);
    if ty.rank() > 0 && dice.chance(10) {
        let dim = dice.below(ty.rank());
        return b.reverse(x, &[dim]);
    }
    match ty.dtype.domain() {
        Domain::Bool => match dice.below(4) {
            0 => b.not(x),
            1 => b.and(x, y),
            2 => b.or(x, y),
            _ => b.xor(x, y),
        },
        Domain::Signed | Domain::Unsigned => {
            let op = dice.pick(&[
                BinaryOp::Add,
                BinaryOp::Sub,
                BinaryOp::Mul,
                BinaryOp::Max,
                BinaryOp::Min,
                BinaryOp::Xor,
                BinaryOp::Div,
                BinaryOp::Rem,
            ]);
            b.one(Op::Binary(op), &[x, y])
        }
        Domain::Float => float_step(b, dice, x, y),
    }
}

fn float_step(b: &mut Builder, dice: &mut Dice, x: Value, y: Value) -> Result<Value, BuildError> {
    match dice.below(8) {
        0 => b.tanh(x),
        1 => b.logistic(x),
        2 => b.sin(x),
        3 => b.max(x, y),
        4 => b.neg(x),
        5 => {
            let (s, t) = (b.tanh(x)?, b.logistic(y)?);
            b.mul(s, t)
        }
        6 => b.abs(x),
        _ => {
            let sum = b.add(x, y)?;
            b.mul_scalar(sum, 0.5)
        }
    }
}

/// A call, a conditional or a scan inside a body, again to a value of the same type.
fn nested(b: &mut Builder, dice: &mut Dice, x: Value, depth: usize) -> Result<Value, BuildError> {
    let ty = [b.ty(x).clone()];
    match dice.below(3) {
        0 => {
            let inner = Arc::new(body(dice, &ty, &ty, depth + 1));
            Ok(b.call_graph("inner", inner, RematPolicy::SaveAll, &[x])?[0])
        }
        1 => {
            let branches =
                vec![body(dice, &ty, &ty, depth + 1).into(), body(dice, &ty, &ty, depth + 1).into()];
            let index = b.constant(Literal::scalar(dice.below(3) as i32 - 1))?;
            Ok(b.conditional(index, branches, &[x])?[0])
        }
        _ => {
            let carry = [x];
            let inputs = ScanInputs { carry: &carry, length: dice.below(3), ..Default::default() };
            let (carry, _) = b.scan(inputs, |b, _, c, _| Ok((steps(b, dice, c, &ty, depth + 1)?, vec![])))?;
            Ok(carry[0])
        }
    }
}
