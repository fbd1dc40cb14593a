//! Operations between replicas.

use super::function::Inst;
use super::node::{Target, longs};
use crate::hlo::{ReplicaGroup, SourceTarget, shape_of};
use crate::ir::{Reducer, TensorType};

fn replica_groups(groups: &[Vec<usize>]) -> Vec<ReplicaGroup> {
    groups.iter().map(|g| ReplicaGroup { replica_ids: longs(g) }).collect()
}

pub(super) fn all_reduce(
    t: &mut Target,
    x: &Inst,
    ty: &TensorType,
    reducer: Reducer,
    groups: &[Vec<usize>],
) -> Inst {
    let combine = t.module.reducer(Some(reducer), ty.dtype, 1);
    t.emit("all-reduce", shape_of(ty), &[x], |p| {
        p.replica_groups = replica_groups(groups);
        p.called_computation_ids = vec![combine];
    })
}

pub(super) fn all_gather(
    t: &mut Target,
    x: &Inst,
    ty: &TensorType,
    dim: usize,
    groups: &[Vec<usize>],
) -> Inst {
    t.emit("all-gather", shape_of(ty), &[x], |p| {
        p.dimensions = vec![dim as i64];
        p.replica_groups = replica_groups(groups);
    })
}

pub(super) fn reduce_scatter(
    t: &mut Target,
    x: &Inst,
    ty: &TensorType,
    (dim, reducer): (usize, Reducer),
    groups: &[Vec<usize>],
) -> Inst {
    let combine = t.module.reducer(Some(reducer), ty.dtype, 1);
    t.emit("reduce-scatter", shape_of(ty), &[x], |p| {
        p.dimensions = vec![dim as i64];
        p.replica_groups = replica_groups(groups);
        p.called_computation_ids = vec![combine];
    })
}

/// HLO's array form splits and joins one axis. Another axis to join along takes a reshape that makes the pieces an axis of
/// their own, and a transpose that moves it. Only the last of these has the shape of the result, and its name.
pub(super) fn all_to_all(
    t: &mut Target,
    x: &Inst,
    ty: &TensorType,
    (split, concat): (usize, usize),
    groups: &[Vec<usize>],
) -> Inst {
    let exchange = |t: &mut Target, x: &Inst, ty: &TensorType, dim: usize| {
        t.emit("all-to-all", shape_of(ty), &[x], |p| {
            p.dimensions = vec![dim as i64];
            p.replica_groups = replica_groups(groups);
        })
    };
    if split == concat {
        return exchange(t, x, ty, split);
    }
    let pieces = groups.first().map_or(1, Vec::len);
    // The operand with the pieces as an axis before `split`.
    let mut shape = ty.shape.clone();
    shape[concat] /= pieces;
    shape.insert(split, pieces);
    let split_ty = TensorType::new(ty.dtype, shape.clone());
    let scope = t.f.scope.clone();
    t.f.scope = format!("{scope}/pieces").into();
    let apart = t.f.reshape(t.module, x, &split_ty);
    let exchanged = exchange(t, &apart, &split_ty, split);
    // The pieces move before `concat`, whose axis is one further where it stands after `split`.
    let mut order: Vec<usize> = (0..shape.len()).filter(|&d| d != split).collect();
    order.insert(concat, split);
    let moved = TensorType::new(ty.dtype, order.iter().map(|&d| shape[d]).collect::<Vec<_>>());
    let moved = t.emit("transpose", shape_of(&moved), &[&exchanged], |p| p.dimensions = longs(&order));
    t.f.scope = scope;
    t.f.reshape(t.module, &moved, ty)
}

pub(super) fn permute(t: &mut Target, x: &Inst, ty: &TensorType, pairs: &[(usize, usize)]) -> Inst {
    t.emit("collective-permute", shape_of(ty), &[x], |p| {
        let pair = |&(source, target): &(usize, usize)| SourceTarget {
            source: source as i64,
            target: target as i64,
        };
        p.source_target_pairs = pairs.iter().map(pair).collect();
    })
}
