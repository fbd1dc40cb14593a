//! Random valid operations: elementwise, data movement, products and reductions. Every function appends at most one.

use super::dice::Dice;
use super::sketch::Sketch;
use super::{exchange, indexing, looping, values};
use switchyard::ir::*;

/// A way to append an operation.
pub type Action = fn(&mut Sketch);

/// One action per operation of the IR, elementwise families as a whole and a little more often.
pub const ALL: &[Action] = &[
    unary,
    unary,
    binary,
    binary,
    compare,
    select,
    clamp,
    convert,
    bitcast_convert,
    stop_gradient,
    iota,
    constant,
    broadcast_in_dim,
    reshape,
    transpose,
    reverse,
    slice,
    pad,
    concatenate,
    dot_general,
    dot_general,
    reduce,
    cumsum,
    optimization_barrier,
    indexing::gather,
    indexing::scatter,
    indexing::dynamic_slice,
    indexing::dynamic_update_slice,
    looping::sort,
    looping::while_loop,
    looping::scan,
    looping::conditional,
    looping::call,
    looping::rng_bit_generator,
    exchange::all_reduce,
    exchange::all_gather,
    exchange::reduce_scatter,
    exchange::all_to_all,
    exchange::collective_permute,
    exchange::ids,
];

/// A graph of 1 to 12 operations by random actions of this list.
pub fn grown(seed: u64, replicas: usize, actions: &[Action]) -> super::sketch::Case {
    let mut sketch = Sketch::new(seed, replicas);
    for _ in 0..1 + sketch.dice.below(12) {
        let action = sketch.dice.pick(actions);
        action(&mut sketch);
    }
    sketch.finish()
}

fn unary(s: &mut Sketch) {
    let op = s.dice.pick(UnaryOp::ALL);
    let signed = |ty: &TensorType| op != UnaryOp::Sign || ty.dtype.domain() != Domain::Unsigned;
    let x = s.any(|ty| op.accepts().contains(ty.dtype) && signed(ty));
    s.apply(Op::Unary(op), &[x]);
}

fn binary(s: &mut Sketch) {
    let op = s.dice.pick(BinaryOp::ALL);
    let shift = matches!(op, BinaryOp::ShiftLeft | BinaryOp::ShiftRight);
    let x = s.any(|ty| op.accepts().contains(ty.dtype) && !(shift && ty.dtype == DType::Pred));
    let y = if shift && s.dice.chance(80) {
        let ty = s.ty(x);
        s.position_input(&ty, -1, 8 * ty.dtype.size_bytes() as i64 + 1)
    } else {
        s.of_type(&s.ty(x))
    };
    s.apply(Op::Binary(op), &[x, y]);
}

fn compare(s: &mut Sketch) {
    let direction = s.dice.pick(&Direction::ALL);
    let x = s.any(|_| true);
    let y = s.of_type(&s.ty(x));
    s.apply(Op::Compare(direction), &[x, y]);
}

fn select(s: &mut Sketch) {
    let x = s.any(|_| true);
    let y = s.of_type(&s.ty(x));
    let pred = s.of_type(&s.ty(x).with_dtype(DType::Pred));
    s.apply(Op::Select, &[pred, x, y]);
}

fn clamp(s: &mut Sketch) {
    let x = s.any(|ty| ty.dtype != DType::Pred);
    let (low, high) = (s.of_type(&s.ty(x)), s.of_type(&s.ty(x)));
    s.apply(Op::Clamp, &[low, x, high]);
}

fn convert(s: &mut Sketch) {
    let x = s.any(|_| true);
    let dtype = values::dtype(&mut s.dice);
    s.apply(Op::Convert(dtype), &[x]);
}

fn bitcast_convert(s: &mut Sketch) {
    let x = s.any(|ty| ty.dtype != DType::Pred);
    let known = &s.known[x];
    // Bits of NaN and of zeros with a sign are not compared.
    if known.ty.dtype.is_float() && !(known.exact() && known.finite && known.least > 0.0) {
        return;
    }
    let size = known.ty.dtype.size_bytes();
    let same: Vec<DType> =
        DType::ALL.into_iter().filter(|d| *d != DType::Pred && d.size_bytes() == size).collect();
    let dtype = s.dice.pick(&same);
    s.apply(Op::BitcastConvert(dtype), &[x]);
}

fn stop_gradient(s: &mut Sketch) {
    let x = s.any(|_| true);
    s.apply(Op::StopGradient, &[x]);
}

fn iota(s: &mut Sketch) {
    let rank = 1 + s.dice.below(4);
    let ty = TensorType::new(values::dtype(&mut s.dice), values::shape(&mut s.dice, rank));
    let dim = s.dice.below(rank);
    if ty.dtype != DType::Pred {
        s.apply(Op::Iota { ty, dim }, &[]);
    }
}

fn constant(s: &mut Sketch) {
    let ty = values::tensor_type(&mut s.dice);
    let literal = values::literal(&mut s.dice, &ty);
    s.apply(Op::Constant(literal), &[]);
}

fn broadcast_in_dim(s: &mut Sketch) {
    let x = s.any(|ty| ty.elements() <= 30);
    let mut shape = s.ty(x).shape;
    let mut dims: Vec<usize> = (0..shape.len()).collect();
    while shape.len() < 5 && s.dice.chance(60) {
        let at = s.dice.below(shape.len() + 1);
        shape.insert(at, 1 + s.dice.below(3));
        dims.iter_mut().filter(|d| **d >= at).for_each(|d| *d += 1);
    }
    s.apply(Op::BroadcastInDim { shape, dims }, &[x]);
}

fn reshape(s: &mut Sketch) {
    let x = s.any(|_| true);
    let mut left = s.ty(x).elements();
    let mut shape = vec![];
    if left == 0 {
        shape = s.dice.shuffled(s.ty(x).shape);
    }
    while left > 1 && shape.len() < 4 {
        let divisors: Vec<usize> = (1..=left).filter(|d| left.is_multiple_of(*d)).collect();
        let size = s.dice.pick(&divisors);
        shape.push(size);
        left /= size;
    }
    if left > 1 {
        shape.push(left);
    }
    s.apply(Op::Reshape { shape }, &[x]);
}

fn transpose(s: &mut Sketch) {
    let x = s.any(|_| true);
    let permutation = s.dice.shuffled((0..s.known[x].ty.rank()).collect());
    s.apply(Op::Transpose { permutation }, &[x]);
}

fn reverse(s: &mut Sketch) {
    let x = s.any(|_| true);
    let rank = s.ty(x).rank();
    let dims = s.dice.subset(rank, rank);
    s.apply(Op::Reverse { dims }, &[x]);
}

fn slice(s: &mut Sketch) {
    let x = s.any(|_| true);
    let (mut starts, mut limits, mut strides) = (vec![], vec![], vec![]);
    for size in s.ty(x).shape {
        let start = s.dice.below(size + 1);
        starts.push(start);
        limits.push(start + s.dice.below(size - start + 1));
        strides.push(1 + s.dice.below(3));
    }
    s.apply(Op::Slice { starts, limits, strides }, &[x]);
}

fn pad(s: &mut Sketch) {
    let x = s.any(|ty| ty.elements() <= 60);
    let ty = s.ty(x);
    let (mut low, mut high, mut interior) = (vec![], vec![], vec![]);
    for &size in &ty.shape {
        let gap = s.dice.below(3) * s.dice.below(2);
        let spread = (size + size.saturating_sub(1) * gap) as i64;
        let l = s.dice.between(-2, 2).max(-spread);
        low.push(l);
        high.push(s.dice.between(-2, 2).max(-(spread + l)));
        interior.push(gap);
    }
    let value = s.of_type(&TensorType::scalar(ty.dtype));
    s.apply(Op::Pad { low, high, interior }, &[x, value]);
}

fn concatenate(s: &mut Sketch) {
    let x = s.any(|ty| ty.rank() > 0 && ty.elements() <= 100);
    let ty = s.ty(x);
    let dim = s.dice.below(ty.rank());
    let mut operands = vec![x];
    while operands.len() < 4 && s.dice.chance(60) {
        let mut other = ty.clone();
        other.shape[dim] = values::size(&mut s.dice);
        operands.push(s.of_type(&other));
    }
    let operands = s.dice.shuffled(operands);
    s.apply(Op::Concatenate { dim }, &operands);
}

fn dot_general(s: &mut Sketch) {
    let lhs = s.any(|ty| ty.dtype != DType::Pred && s_small(ty));
    let ty = s.ty(lhs);
    let axes = s.dice.shuffled((0..ty.rank()).collect());
    let num_batch = s.dice.below(axes.len().min(2) + 1);
    let num_contracting = s.dice.below((axes.len() - num_batch).min(2) + 1);
    let lhs_batch = axes[..num_batch].to_vec();
    let lhs_contracting = axes[num_batch..num_batch + num_contracting].to_vec();

    // The axes of the right operand: those of the left in any order, and up to two of its own.
    let shared = num_batch + num_contracting;
    let own = s.dice.below(5 - shared.max(2)).min(2);
    let places = s.dice.shuffled((0..shared + own).collect());
    let mut shape: Vec<usize> = (0..shared + own).map(|_| 1 + s.dice.below(4)).collect();
    axes[..shared].iter().zip(&places).for_each(|(&axis, &place)| shape[place] = ty.shape[axis]);
    let rhs = s.of_type(&TensorType::new(ty.dtype, shape));
    let dims = DotDims {
        lhs_batch,
        lhs_contracting,
        rhs_batch: places[..num_batch].to_vec(),
        rhs_contracting: places[num_batch..shared].to_vec(),
    };
    let precision = s.dice.pick(&[Precision::Default, Precision::High, Precision::Highest]);
    let result = wider(&mut s.dice, ty.dtype);
    s.apply(Op::DotGeneral { dims, precision, result }, &[lhs, rhs]);
}

fn s_small(ty: &TensorType) -> bool {
    ty.elements() <= 60
}

/// Mostly the same type, else a wider one to accumulate in.
fn wider(dice: &mut Dice, dtype: DType) -> DType {
    if dice.chance(70) {
        return dtype;
    }
    match dtype {
        DType::Bf16 | DType::F16 => DType::F32,
        DType::S8 => DType::S32,
        DType::U8 => DType::U32,
        other => other,
    }
}

/// A reduction that takes this type.
pub fn reducer(dice: &mut Dice, dtype: DType) -> Reducer {
    let fitting: Vec<Reducer> =
        Reducer::ALL.into_iter().filter(|r| r.binary().accepts().contains(dtype)).collect();
    dice.pick(&fitting)
}

fn reduce(s: &mut Sketch) {
    let x = s.any(|_| true);
    let ty = s.ty(x);
    let reducer = reducer(&mut s.dice, ty.dtype);
    let dims = s.dice.subset(ty.rank(), ty.rank());
    let mut operands = vec![x];
    if s.dice.chance(30) {
        operands.push(s.any(|other| *other == ty));
    }
    s.apply(Op::Reduce { dims, reducer }, &operands);
}

fn cumsum(s: &mut Sketch) {
    let x = s.any(|ty| ty.rank() > 0 && ty.dtype != DType::Pred);
    let dim = s.dice.below(s.known[x].ty.rank());
    let (exclusive, reverse) = (s.dice.chance(50), s.dice.chance(50));
    s.apply(Op::CumSum { dim, exclusive, reverse }, &[x]);
}

fn optimization_barrier(s: &mut Sketch) {
    let mut operands = vec![];
    while operands.len() < 3 && (operands.is_empty() || s.dice.chance(50)) {
        operands.push(s.any(|_| true));
    }
    // All results get the error of the worst operand, so integers must not stand beside inexact floats.
    s.apply(Op::OptimizationBarrier, &operands);
}
