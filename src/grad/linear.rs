//! Products, reductions and prefix sums.

use super::rule::{Pulled, Site};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Direction, DotDims, Op, Precision, Reducer, Value};

type Built = Result<Value, BuildError>;

/// One operand of a product: its dimensions by role.
struct Side {
    value: Value,
    batch: Vec<usize>,
    contracting: Vec<usize>,
    free: Vec<usize>,
}

impl Side {
    fn new(b: &Builder, value: Value, batch: &[usize], contracting: &[usize]) -> Self {
        let free = |d: &usize| !batch.contains(d) && !contracting.contains(d);
        let free = (0..b.ty(value).rank()).filter(free).collect();
        Self { value, batch: batch.into(), contracting: contracting.into(), free }
    }
}

/// Each side gets the cotangent times the other side. The cotangent is converted to the element type of the operands
/// first, so that a product of bfloat16 into float32 has a backward pass of bfloat16 products too.
pub(super) fn dot_general(site: &mut Site, dims: &DotDims, precision: Precision) -> Pulled {
    let g = site.cotangent()?;
    let lhs = Side::new(site.b, site.operands[0], &dims.lhs_batch, &dims.lhs_contracting);
    let rhs = Side::new(site.b, site.operands[1], &dims.rhs_batch, &dims.rhs_contracting);
    let g = site.b.convert(g, site.b.dtype(lhs.value))?;
    // The result has the batch, then the free lhs, then the free rhs dimensions.
    let (start, middle) = (lhs.batch.len(), lhs.batch.len() + lhs.free.len());
    let (of_lhs, of_rhs): (Vec<usize>, Vec<usize>) =
        ((start..middle).collect(), (middle..middle + rhs.free.len()).collect());
    Ok(vec![
        site.when(0, |b| transposed(b, (g, &of_rhs), &rhs, &lhs, precision))?,
        site.when(1, |b| transposed(b, (g, &of_lhs), &lhs, &rhs, precision))?,
    ])
}

/// The cotangent of `this`: `g` times `other`, summed over the free dimensions of `other`, found at `shared` in `g`.
fn transposed(
    b: &mut Builder,
    (g, shared): (Value, &[usize]),
    other: &Side,
    this: &Side,
    precision: Precision,
) -> Built {
    let batch: Vec<usize> = (0..other.batch.len()).collect();
    // Free dimensions of a product keep their order: the contracting ones come as they lie in `other`.
    let mut pairs: Vec<(usize, usize)> =
        other.contracting.iter().copied().zip(this.contracting.iter().copied()).collect();
    pairs.sort_unstable();
    let contracting: Vec<usize> = pairs.into_iter().map(|(_, dim)| dim).collect();
    let cotangent_first = [&this.batch[..], &this.free, &contracting].concat();
    let other_first = [&this.batch[..], &contracting, &this.free].concat();
    // The order that needs no transpose, where there is one.
    let swap = !cotangent_first.is_sorted() && other_first.is_sorted();
    let (lhs, rhs, order) = if swap {
        ((other.value, &other.batch, &other.free[..]), (g, &batch, shared), other_first)
    } else {
        ((g, &batch, shared), (other.value, &other.batch, &other.free[..]), cotangent_first)
    };
    let dims = DotDims {
        lhs_batch: lhs.1.clone(),
        rhs_batch: rhs.1.clone(),
        lhs_contracting: lhs.2.into(),
        rhs_contracting: rhs.2.into(),
    };
    let result = b.dtype(this.value);
    let product = b.one(Op::DotGeneral { dims, precision, result }, &[lhs.0, rhs.0])?;
    let mut permutation = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &dim)| permutation[dim] = i);
    b.transpose(product, &permutation)
}

pub(super) fn reduce(site: &mut Site, dims: &[usize], reducer: Reducer) -> Pulled {
    let count = site.operands.len();
    let one = |i: usize| {
        let (x, y) = (site.operands[i], site.results[i]);
        let Some(g) = site.cotangents[i] else { return Ok(None) };
        let shape = site.b.shape(x);
        site.when(i, |b| match reducer {
            Reducer::Add => b.unreduce(g, &shape, dims),
            Reducer::Mul => {
                let g = b.unreduce(g, &shape, dims)?;
                let others = product_of_others(b, x, dims)?;
                b.mul(g, others)
            }
            Reducer::Max | Reducer::Min => among_ties(b, g, (x, y), dims),
            // Not of floats.
            Reducer::And | Reducer::Or => b.full_like(x, 0.0),
        })
    };
    (0..count).map(one).collect()
}

/// The extreme elements share the cotangent evenly.
fn among_ties(b: &mut Builder, g: Value, (x, y): (Value, Value), dims: &[usize]) -> Built {
    let shape = b.shape(x);
    let wide = b.unreduce(y, &shape, dims)?;
    let hit = b.compare(Direction::Eq, x, wide)?;
    // Counts above 256 are not exact in 16-bit floats.
    let count_dtype = if b.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 };
    let ones = b.convert(hit, count_dtype)?;
    let count = b.sum(ones, dims)?;
    let count = b.convert(count, b.dtype(x))?;
    let share = b.div(g, count)?;
    let share = b.unreduce(share, &shape, dims)?;
    b.mask(hit, share, 0.0)
}

/// For each element the product of all others along `dims`: no division, so right with zeros too.
fn product_of_others(b: &mut Builder, x: Value, dims: &[usize]) -> Built {
    let shape = b.shape(x);
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
    let order = [&kept[..], dims].concat();
    let last = b.transpose(x, &order)?;
    let ordered = b.shape(last);
    let rows = kept.iter().map(|&d| shape[d]).product();
    let flat = b.reshape(last, &[rows, dims.iter().map(|&d| shape[d]).product()])?;
    let before = exclusive_product(b, flat, false)?;
    let after = exclusive_product(b, flat, true)?;
    let others = b.mul(before, after)?;
    let others = b.reshape(others, &ordered)?;
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
    b.transpose(others, &inverse)
}

/// `[rows, n]`: the product of the elements before each in its row (after it, in reverse), by doubling.
fn exclusive_product(b: &mut Builder, x: Value, reverse: bool) -> Built {
    let length = b.shape(x)[1];
    let one = b.scalar(b.dtype(x), 1.0)?;
    let shift = |b: &mut Builder, x: Value, by: usize| {
        let (low, high) = if reverse { (-(by as i64), by as i64) } else { (by as i64, -(by as i64)) };
        b.pad(x, one, &[0, low], &[0, high], &[0, 0])
    };
    if length == 0 {
        return Ok(x);
    }
    let mut product = shift(b, x, 1)?;
    let mut width = 1;
    while width < length {
        let earlier = shift(b, product, width)?;
        product = b.mul(product, earlier)?;
        width *= 2;
    }
    Ok(product)
}

/// Element j reached every sum from it on: the same sum from the other end.
pub(super) fn cumsum(site: &mut Site, dim: usize, exclusive: bool, reverse: bool) -> Pulled {
    site.linear(|b, g| b.cumsum(g, dim, exclusive, !reverse))
}
