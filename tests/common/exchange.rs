//! Random operations between replicas.

use super::actions::{self, Action};
use super::sketch::Sketch;
use switchyard::ir::*;

/// The actions of this file.
pub const ALL: &[Action] = &[all_reduce, all_gather, reduce_scatter, all_to_all, collective_permute, ids];

/// All replicas in random groups of one random size.
fn groups(s: &mut Sketch) -> ReplicaGroups {
    let sizes: Vec<usize> = (1..=s.replicas).filter(|n| s.replicas.is_multiple_of(*n)).collect();
    // Mostly the largest.
    let size = if s.dice.chance(60) { s.replicas } else { s.dice.pick(&sizes) };
    let replicas = s.dice.shuffled((0..s.replicas).collect());
    replicas.chunks(size).map(<[usize]>::to_vec).collect()
}

/// A value with an axis that divides into `parts`, and that axis. XLA divides by the size of the axis, so it is not 0.
fn divisible(s: &mut Sketch, parts: usize, fits: impl Fn(&TensorType) -> bool) -> (usize, usize) {
    let divides = |ty: &TensorType| {
        (0..ty.rank()).filter(|&d| ty.shape[d] > 0 && ty.shape[d].is_multiple_of(parts)).collect::<Vec<_>>()
    };
    let x = s.any(|ty| fits(ty) && ty.elements() <= 60 && !divides(ty).is_empty());
    let dim = s.dice.pick(&divides(&s.known[x].ty));
    (x, dim)
}

/// XLA's CPU collectives know `and` and `or` of truth values only.
fn reducer(s: &mut Sketch, x: usize) -> Reducer {
    let dtype = s.known[x].ty.dtype;
    loop {
        let reducer = actions::reducer(&mut s.dice, dtype);
        if dtype == DType::Pred || !matches!(reducer, Reducer::And | Reducer::Or) {
            return reducer;
        }
    }
}

pub fn all_reduce(s: &mut Sketch) {
    let groups = groups(s);
    let x = s.any(|_| true);
    let reducer = reducer(s, x);
    s.apply(Op::AllReduce { reducer, groups }, &[x]);
}

pub fn all_gather(s: &mut Sketch) {
    let groups = groups(s);
    let (x, dim) = divisible(s, 1, |_| true);
    s.apply(Op::AllGather { dim, groups }, &[x]);
}

pub fn reduce_scatter(s: &mut Sketch) {
    let groups = groups(s);
    let (x, dim) = divisible(s, groups[0].len(), |_| true);
    let reducer = reducer(s, x);
    s.apply(Op::ReduceScatter { dim, reducer, groups }, &[x]);
}

pub fn all_to_all(s: &mut Sketch) {
    let groups = groups(s);
    let (x, split_dim) = divisible(s, groups[0].len(), |_| true);
    let concat_dim = s.dice.below(s.known[x].ty.rank());
    if s.known[x].ty.shape[concat_dim] == 0 {
        return;
    }
    s.apply(Op::AllToAll { split_dim, concat_dim, groups }, &[x]);
}

pub fn collective_permute(s: &mut Sketch) {
    let x = s.any(|_| true);
    let sources = s.dice.shuffled((0..s.replicas).collect());
    let targets = s.dice.shuffled((0..s.replicas).collect());
    let count = s.dice.below(s.replicas + 1);
    let pairs = sources.into_iter().zip(targets).take(count).collect();
    s.apply(Op::CollectivePermute { pairs }, &[x]);
}

pub fn ids(s: &mut Sketch) {
    let op = s.dice.pick(&[Op::ReplicaId, Op::PartitionId]);
    s.apply(op, &[]);
}
