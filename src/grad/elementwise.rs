//! Operations that work element by element.
//!
//! At kinks `abs` has slope 0 (PyTorch; JAX has 1), `max` and `min` give half to each side of a tie (JAX). `x^y` has no slope by `y`
//! where x is not positive, and none by `x` at `0^0`, where JAX has NaN.

use super::rule::{Pulled, Site};
use crate::build::{BuildError, Builder};
use crate::ir::{BinaryOp, Direction, UnaryOp, Value};

type Built = Result<Value, BuildError>;

/// The rule of a unary operation. `g` is the cotangent, `x` the operand, `y` the result.
enum Unary {
    Rule(fn(&mut Builder, g: Value, x: Value, y: Value) -> Built),
    /// Piecewise constant, or not of floats.
    Zero,
}

fn unary_rule(op: UnaryOp) -> Unary {
    use Unary::{Rule, Zero};
    match op {
        UnaryOp::Neg => Rule(|b, g, _, _| b.neg(g)),
        UnaryOp::Abs => Rule(|b, g, x, _| {
            let sign = b.sign(x)?;
            b.mul(g, sign)
        }),
        UnaryOp::Exp => Rule(|b, g, _, y| b.mul(g, y)),
        UnaryOp::Expm1 => Rule(|b, g, _, y| {
            let exp = b.add_scalar(y, 1.0)?;
            b.mul(g, exp)
        }),
        UnaryOp::Log => Rule(|b, g, x, _| b.div(g, x)),
        UnaryOp::Log1p => Rule(|b, g, x, _| {
            let x = b.add_scalar(x, 1.0)?;
            b.div(g, x)
        }),
        UnaryOp::Tanh => Rule(|b, g, _, y| {
            let yy = b.square(y)?;
            let slope = one_minus(b, yy)?;
            b.mul(g, slope)
        }),
        UnaryOp::Logistic => Rule(|b, g, _, y| {
            let rest = one_minus(b, y)?;
            let slope = b.mul(y, rest)?;
            b.mul(g, slope)
        }),
        UnaryOp::Sqrt => Rule(|b, g, _, y| {
            let half = b.mul_scalar(g, 0.5)?;
            b.div(half, y)
        }),
        UnaryOp::Rsqrt => Rule(|b, g, _, y| {
            let yy = b.square(y)?;
            let yyy = b.mul(yy, y)?;
            let slope = b.mul_scalar(yyy, -0.5)?;
            b.mul(g, slope)
        }),
        UnaryOp::Sin => Rule(|b, g, x, _| {
            let cos = b.cos(x)?;
            b.mul(g, cos)
        }),
        UnaryOp::Cos => Rule(|b, g, x, _| {
            let sin = b.sin(x)?;
            let slope = b.neg(sin)?;
            b.mul(g, slope)
        }),
        UnaryOp::Erf => Rule(|b, g, x, _| {
            let xx = b.square(x)?;
            let exponent = b.neg(xx)?;
            let bell = b.exp(exponent)?;
            let slope = b.mul_scalar(bell, std::f64::consts::FRAC_2_SQRT_PI)?;
            b.mul(g, slope)
        }),
        UnaryOp::Sign
        | UnaryOp::Floor
        | UnaryOp::Ceil
        | UnaryOp::RoundNearestEven
        | UnaryOp::IsFinite
        | UnaryOp::Not => Zero,
    }
}

/// The operands and the result of a binary operation, and its cotangent.
#[derive(Clone, Copy)]
struct Pair {
    g: Value,
    x: Value,
    y: Value,
    z: Value,
}

/// The rules of a binary operation, for the left and the right operand.
enum Binary {
    Rules(fn(&mut Builder, Pair) -> Built, fn(&mut Builder, Pair) -> Built),
    /// Not of floats.
    Zero,
}

fn binary_rule(op: BinaryOp) -> Binary {
    use Binary::{Rules, Zero};
    match op {
        BinaryOp::Add => Rules(|_, p| Ok(p.g), |_, p| Ok(p.g)),
        BinaryOp::Sub => Rules(|_, p| Ok(p.g), |b, p| b.neg(p.g)),
        BinaryOp::Mul => Rules(|b, p| b.mul(p.g, p.y), |b, p| b.mul(p.g, p.x)),
        BinaryOp::Div => Rules(
            |b, p| b.div(p.g, p.y),
            |b, p| {
                let share = b.div(p.g, p.y)?;
                let minus = b.neg(share)?;
                b.mul(minus, p.z)
            },
        ),
        BinaryOp::Rem => Rules(|_, p| Ok(p.g), rem_rhs),
        BinaryOp::Max => Rules(
            |b, p| where_chosen(b, p.g, Direction::Gt, (p.x, p.y)),
            |b, p| where_chosen(b, p.g, Direction::Gt, (p.y, p.x)),
        ),
        BinaryOp::Min => Rules(
            |b, p| where_chosen(b, p.g, Direction::Lt, (p.x, p.y)),
            |b, p| where_chosen(b, p.g, Direction::Lt, (p.y, p.x)),
        ),
        BinaryOp::Pow => Rules(pow_base, pow_exponent),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::ShiftLeft | BinaryOp::ShiftRight => Zero,
    }
}

/// `g` where `this` is chosen over `other`, half of it where they tie.
fn where_chosen(b: &mut Builder, g: Value, direction: Direction, (this, other): (Value, Value)) -> Built {
    let chosen = b.compare(direction, this, other)?;
    let tie = b.compare(Direction::Eq, this, other)?;
    let half = b.mul_scalar(g, 0.5)?;
    let shared = b.mask(tie, half, 0.0)?;
    b.select(chosen, g, shared)
}

/// `x - y * trunc(x / y)` falls by the truncated quotient.
fn rem_rhs(b: &mut Builder, p: Pair) -> Built {
    let quotient = b.div(p.x, p.y)?;
    let sign = b.sign(quotient)?;
    let size = b.abs(quotient)?;
    let size = b.floor(size)?;
    let truncated = b.mul(sign, size)?;
    let slope = b.neg(truncated)?;
    b.mul(p.g, slope)
}

/// `y * x^(y - 1)`; 0 where y is 0, also at x = 0.
fn pow_base(b: &mut Builder, p: Pair) -> Built {
    let constant = b.compare_scalar(Direction::Eq, p.y, 0.0)?;
    let lower = b.add_scalar(p.y, -1.0)?;
    let one = b.full_like(lower, 1.0)?;
    let lower = b.select(constant, one, lower)?;
    let power = b.pow(p.x, lower)?;
    let slope = b.mul(p.y, power)?;
    b.mul(p.g, slope)
}

/// `log(x) * x^y`; 0 where the base is not positive, so that no NaN arises from the logarithm.
fn pow_exponent(b: &mut Builder, p: Pair) -> Built {
    let positive = b.compare_scalar(Direction::Gt, p.x, 0.0)?;
    let base = b.mask(positive, p.x, 1.0)?;
    let log = b.log(base)?;
    let slope = b.mul(log, p.z)?;
    let slope = b.mask(positive, slope, 0.0)?;
    b.mul(p.g, slope)
}

fn one_minus(b: &mut Builder, x: Value) -> Built {
    let one = b.full_like(x, 1.0)?;
    b.sub(one, x)
}

pub(super) fn unary_passes(op: UnaryOp) -> bool {
    matches!(unary_rule(op), Unary::Rule(_))
}

pub(super) fn binary_passes(op: BinaryOp) -> bool {
    matches!(binary_rule(op), Binary::Rules(..))
}

pub(super) fn unary(site: &mut Site, op: UnaryOp) -> Pulled {
    let (g, x, y) = (site.cotangent()?, site.operands[0], site.results[0]);
    match unary_rule(op) {
        Unary::Rule(rule) => Ok(vec![site.when(0, |b| rule(b, g, x, y))?]),
        Unary::Zero => Ok(vec![None]),
    }
}

pub(super) fn binary(site: &mut Site, op: BinaryOp) -> Pulled {
    let pair = Pair { g: site.cotangent()?, x: site.operands[0], y: site.operands[1], z: site.results[0] };
    match binary_rule(op) {
        Binary::Rules(lhs, rhs) => Ok(vec![site.when(0, |b| lhs(b, pair))?, site.when(1, |b| rhs(b, pair))?]),
        Binary::Zero => Ok(vec![None; 2]),
    }
}

pub(super) fn select(site: &mut Site) -> Pulled {
    let (g, pred) = (site.cotangent()?, site.operands[0]);
    let on_true = site.when(1, |b| b.mask(pred, g, 0.0))?;
    let on_false = site.when(2, |b| {
        let zeros = b.full_like(g, 0.0)?;
        b.select(pred, zeros, g)
    })?;
    Ok(vec![None, on_true, on_false])
}

/// Strictly between the bounds the operand has the cotangent, else the bound that holds it.
pub(super) fn clamp(site: &mut Site) -> Pulled {
    let g = site.cotangent()?;
    let (min, x, max) = (site.operands[0], site.operands[1], site.operands[2]);
    let for_min = site.when(0, |b| {
        let below = b.compare(Direction::Lt, x, min)?;
        let open = b.compare(Direction::Lt, min, max)?;
        let held = b.and(below, open)?;
        b.mask(held, g, 0.0)
    })?;
    let for_x = site.when(1, |b| {
        let above = b.compare(Direction::Gt, x, min)?;
        let below = b.compare(Direction::Lt, x, max)?;
        let free = b.and(above, below)?;
        b.mask(free, g, 0.0)
    })?;
    let for_max = site.when(2, |b| {
        let raised = b.max(x, min)?;
        let held = b.compare(Direction::Gt, raised, max)?;
        b.mask(held, g, 0.0)
    })?;
    Ok(vec![for_min, for_x, for_max])
}

/// Between floats: converted back.
pub(super) fn convert(site: &mut Site) -> Pulled {
    let dtype = site.b.dtype(site.operands[0]);
    site.linear(|b, g| b.convert(g, dtype))
}
