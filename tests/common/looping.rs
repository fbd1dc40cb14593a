//! Random operations with subgraphs, and random bits.

use super::bodies::{body, steps};
use super::sketch::Sketch;
use super::values;
use switchyard::build::Builder;
use switchyard::ir::*;

/// Sorts by the first operand, which is exact and without NaN.
pub fn sort(s: &mut Sketch) {
    let key = s.any(|ty| ty.rank() > 0);
    if !(s.known[key].exact() && s.known[key].finite) {
        return;
    }
    let ty = s.ty(key);
    let mut operands = vec![key];
    while operands.len() < 3 && s.dice.chance(50) {
        let dtype = values::dtype(&mut s.dice);
        operands.push(s.of_type(&ty.with_dtype(dtype)));
    }
    let direction = s.dice.pick(&[Direction::Lt, Direction::Gt]);
    let negate = ty.dtype.is_float() && s.dice.chance(30);
    let scalars: Vec<TensorType> =
        operands.iter().flat_map(|&x| vec![TensorType::scalar(s.known[x].ty.dtype); 2]).collect();
    let comparator = Builder::graph(&scalars, |b, v| {
        let (mut x, mut y) = (v[0], v[1]);
        if negate {
            (x, y) = (b.neg(x)?, b.neg(y)?);
        }
        Ok(vec![b.compare(direction, x, y)?])
    });
    let dim = s.dice.below(ty.rank());
    // Without a promise of stability equal keys may come in any order, which shows in the other operands.
    let stable = operands.len() > 1 || s.dice.chance(50);
    s.apply(Op::Sort { dim, comparator: comparator.unwrap().into(), stable }, &operands);
}

/// Up to `most` random operands.
fn operands(s: &mut Sketch, most: usize) -> Vec<usize> {
    let count = s.dice.below(most + 1);
    (0..count).map(|_| s.any(|ty| ty.elements() <= 60)).collect()
}

fn types(s: &Sketch, operands: &[usize]) -> Vec<TensorType> {
    operands.iter().map(|&x| s.ty(x)).collect()
}

/// Result types for a body: those of some operands, in any order.
fn some_types(s: &mut Sketch, from: &[TensorType]) -> Vec<TensorType> {
    let mut chosen = vec![];
    while chosen.len() < 3 && (chosen.is_empty() || s.dice.chance(50)) {
        let new = from.is_empty() || s.dice.chance(10);
        let rank = s.dice.below(3);
        let fresh = TensorType::new(values::dtype(&mut s.dice), values::shape(&mut s.dice, rank));
        chosen.push(if new { fresh } else { s.dice.pick(from) });
    }
    chosen
}

/// Counts up to a limit beside whatever else its state does.
pub fn while_loop(s: &mut Sketch) {
    let counter = s.position_input(&TensorType::scalar(DType::S32), -1, 3);
    let state = [&[counter], &operands(s, 3)[..]].concat();
    let types = types(s, &state);
    let limit = s.dice.below(4) as f64;
    let cond =
        Builder::graph(&types, |b, v| Ok(vec![b.compare_scalar(Direction::Lt, v[0], limit)?])).unwrap();
    let dice = &mut s.dice;
    let body = Builder::graph(&types, |b, v| {
        let next = b.add_scalar(v[0], 1.0)?;
        Ok([vec![next], steps(b, dice, &v[1..], &types[1..], 1)?].concat())
    });
    s.apply(Op::While { cond: cond.into(), body: body.unwrap().into() }, &state);
}

pub fn scan(s: &mut Sketch) {
    let length = s.dice.below(5);
    let (consts, carry) = (operands(s, 2), operands(s, 2));
    let num_xs = s.dice.below(3);
    let xs: Vec<usize> = (0..num_xs)
        .map(|_| {
            let rank = s.dice.below(3);
            let element = values::shape(&mut s.dice, rank);
            let dtype = values::dtype(&mut s.dice);
            s.of_type(&TensorType::new(dtype, [&[length][..], &element].concat()))
        })
        .collect();
    let element = |ty: TensorType| TensorType::new(ty.dtype, &ty.shape[1..]);
    let elements: Vec<TensorType> = types(s, &xs).into_iter().map(element).collect();
    let carry_types = types(s, &carry);
    let inputs = [types(s, &consts), carry_types.clone(), elements].concat();
    let ys = if s.dice.chance(70) { some_types(s, &inputs) } else { vec![] };
    let graph = body(&mut s.dice, &inputs, &[carry_types, ys].concat(), 0);
    let scan = Scan {
        body: graph.into(),
        length,
        num_consts: consts.len(),
        num_carry: carry.len(),
        reverse: s.dice.chance(50),
        remat: RematPolicy::SaveAll,
    };
    s.apply(Op::Scan(scan), &[consts, carry, xs].concat());
}

pub fn conditional(s: &mut Sketch) {
    let index = s.position_input(&TensorType::scalar(DType::S32), -1, 4);
    let operands = operands(s, 3);
    let inputs = types(s, &operands);
    let results = some_types(s, &inputs);
    let count = 1 + s.dice.below(3);
    let branches = (0..count).map(|_| body(&mut s.dice, &inputs, &results, 0).into()).collect();
    s.apply(Op::Conditional { branches }, &[&[index], &operands[..]].concat());
}

pub fn call(s: &mut Sketch) {
    let operands = operands(s, 3);
    let inputs = types(s, &operands);
    let results = some_types(s, &inputs);
    let graph = body(&mut s.dice, &inputs, &results, 0);
    let derivative = Derivative::Body(RematPolicy::SaveAll);
    s.apply(Op::Call(Call { name: "f".into(), body: graph.into(), derivative }), &operands);
}

pub fn rng_bit_generator(s: &mut Sketch) {
    let state = s.of_type(&TensorType::new(DType::U64, [2]));
    let rank = s.dice.below(5);
    let dtype = s.dice.pick(&[DType::U8, DType::U32, DType::U64]);
    let ty = TensorType::new(dtype, values::shape(&mut s.dice, rank));
    let algorithm = s.dice.pick(&[RngAlgorithm::ThreeFry, RngAlgorithm::Philox]);
    s.apply(Op::RngBitGenerator { algorithm, ty }, &[state]);
}
