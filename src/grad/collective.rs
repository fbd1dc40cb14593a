//! Operations between replicas. A cotangent is the derivative of the sum over all replicas of what is differentiated,
//! so each rule is the transpose of the operation seen as one linear map over all replicas.

use super::rule::{Pulled, Site};
use crate::ir::{Op, Reducer, ReplicaGroups};

const ONLY_ADD: &str = "only `add` can be differentiated; stop the gradient before it if none is meant";

pub(super) fn all_reduce(site: &mut Site, op: &Op, reducer: Reducer, groups: &ReplicaGroups) -> Pulled {
    if reducer != Reducer::Add {
        return Err(site.no_derivative(op, ONLY_ADD));
    }
    let op = Op::AllReduce { reducer, groups: groups.clone() };
    site.linear(|b, g| b.one(op, &[g]))
}

pub(super) fn all_gather(site: &mut Site, dim: usize, groups: &ReplicaGroups) -> Pulled {
    let op = Op::ReduceScatter { dim, reducer: Reducer::Add, groups: groups.clone() };
    site.linear(|b, g| b.one(op, &[g]))
}

pub(super) fn reduce_scatter(
    site: &mut Site,
    op: &Op,
    dim: usize,
    (reducer, groups): (Reducer, &ReplicaGroups),
) -> Pulled {
    if reducer != Reducer::Add {
        return Err(site.no_derivative(op, ONLY_ADD));
    }
    let op = Op::AllGather { dim, groups: groups.clone() };
    site.linear(|b, g| b.one(op, &[g]))
}

pub(super) fn all_to_all(
    site: &mut Site,
    split_dim: usize,
    concat_dim: usize,
    groups: &ReplicaGroups,
) -> Pulled {
    let op = Op::AllToAll { split_dim: concat_dim, concat_dim: split_dim, groups: groups.clone() };
    site.linear(|b, g| b.one(op, &[g]))
}

pub(super) fn permute(site: &mut Site, pairs: &[(usize, usize)]) -> Pulled {
    let pairs = pairs.iter().map(|&(source, target)| (target, source)).collect();
    site.linear(|b, g| b.one(Op::CollectivePermute { pairs }, &[g]))
}
