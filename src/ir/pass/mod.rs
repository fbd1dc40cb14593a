//! Rewrites of whole graphs. Every pass is linear in the number of nodes, keeps all inputs in place, and keeps scopes and
//! names of axes.
//!
//! | file | subject |
//! | --- | --- |
//! | `prune` | nodes, loop carries and subgraph results that nothing needs |
//! | `inline` | calls are replaced by their bodies |
//! | `fuse` | loops over rows that another loop makes become part of it |
//! | `simplify`, `peephole` | the walk over all nodes, which computes equal operations once / local identities: `x + 0`, `reshape(reshape(x))` |
//! | `join` | products over several dimensions become products over one |
//! | `rebuild` | what the passes share: a copy of a graph with values renamed, subgraphs visited once |

mod fuse;
mod inline;
mod join;
mod peephole;
mod prune;
mod rebuild;
mod simplify;

pub use fuse::fuse_scans;
pub use inline::inline_calls;
use inline::inline_tidied;
pub use join::join_contractions;
pub use prune::prune;
pub(crate) use rebuild::{Address, shared_bodies};
pub use simplify::simplify;

use super::graph::Graph;
use prune::Pruner;
use simplify::Simplifier;

/// Rounds of [`optimize`], of which the second is rare: the walk is done after one unless pruning makes subgraphs equal.
const MAX_ROUNDS: usize = 4;

/// The graph that lowering takes: calls inlined, scans fused, then pruned and simplified until nothing changes.
///
/// Differentiate first: derivatives of calls and stopped gradients are gone afterwards.
pub fn optimize(graph: &Graph) -> Graph {
    // They know the subgraphs that they have seen: what has settled is not visited again.
    let (mut simplifier, mut pruner) = (Simplifier::default(), Pruner::default());
    let inlined = inline_tidied(graph, &mut |body| pruner.prune(&simplifier.simplify(body)));
    let mut current = pruner.prune(&fuse_scans(inlined));
    for _ in 0..MAX_ROUNDS {
        current = pruner.prune(&simplifier.simplify(&current));
        debug_assert!(super::verify(&current).is_ok(), "internal: {:?}", super::verify(&current));
        if !pruner.shrank {
            break;
        }
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Builder, ScanInputs};
    use crate::eval::evaluate;
    use crate::ir::{DType, Literal, RematPolicy, TensorType, verify};
    use std::sync::Arc;

    #[test]
    fn optimize_inlines_simplifies_shares_and_prunes() {
        let ty = TensorType::new(DType::F32, [4]);
        let inner = Builder::graph(std::slice::from_ref(&ty), |b, x| {
            let same = b.add_scalar(x[0], 0.0)?;
            Ok(vec![b.exp(same)?, b.log(same)?])
        });
        let inner = Arc::new(inner.unwrap());
        let graph = Builder::graph(&[ty], |b, x| {
            let one = b.call_graph("a", inner.clone(), RematPolicy::SaveAll, x)?;
            let two = b.call_graph("b", inner.clone(), RematPolicy::SaveAll, x)?;
            Ok(vec![b.mul(one[0], two[0])?])
        });
        // exp(x) once, and its square: both logs and the zero are gone.
        let graph = optimize(&graph.unwrap());
        let names: Vec<&str> = graph.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(names, ["parameter", "exponential", "multiply"]);
        assert_eq!(graph.nodes()[2].operands[0], graph.nodes()[2].operands[1]);
    }

    #[test]
    fn a_hundred_thousand_nodes_and_deep_chains_pass() {
        let ty = TensorType::new(DType::F32, [4]);
        let graph = Builder::graph(&[ty], |b, x| {
            let (mut live, mut dead) = (x[0], x[0]);
            for _ in 0..50_000 {
                live = b.exp(live)?;
                dead = b.log(dead)?;
            }
            Ok(vec![live])
        });
        let graph = graph.unwrap();
        assert_eq!(optimize(&graph).nodes().len(), 50_001);
    }

    #[test]
    fn passes_reach_into_the_body_of_a_scan() {
        let ty = TensorType::new(DType::F32, [4]);
        let graph = Builder::graph(&[ty], |b, x| {
            let inputs = ScanInputs { carry: x, length: 3, ..Default::default() };
            let (carry, _) = b.scan(inputs, |b, _, carry, _| {
                let (a, c) = (b.exp(carry[0])?, b.exp(carry[0])?);
                b.log(a)?;
                let sum = b.add(a, c)?;
                Ok((vec![b.mul_scalar(sum, 1.0)?], vec![]))
            })?;
            Ok(carry)
        });
        let graph = optimize(&graph.unwrap());
        verify(&graph).unwrap();
        let body = graph.nodes()[1].op.subgraphs()[0].1.clone();
        let names: Vec<&str> = body.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(names, ["parameter", "exponential", "add"]);
    }

    #[test]
    fn passes_keep_the_value_of_nested_programs() {
        let row = TensorType::new(DType::F32, [3]);
        let graph = Builder::graph(&[row.clone(), row.clone(), TensorType::scalar(DType::S32)], |b, x| {
            let inner = b.subgraph(&[row.clone(), row.clone()], |b, x| {
                let sorted = b.sort_by_key(x[0], &[x[1], x[0]], 0, true)?;
                Ok(vec![sorted[1], b.exp(x[1])?])
            });
            let inner = Arc::new(inner?);
            let called = b.call_graph("inner", inner.clone(), RematPolicy::SaveNothing, &x[..2])?;
            let chosen = b.conditional(x[2], vec![inner.clone(), inner], &x[..2])?;
            let stacked = b.stack(&[called[0], chosen[0]])?;
            let inputs =
                ScanInputs { consts: &x[1..2], carry: &[x[0], x[1]], xs: &[stacked], ..Default::default() };
            let (carry, ys) = b.scan(inputs, |b, consts, carry, xs| {
                let sum = b.add(carry[0], xs[0])?;
                let other = b.mul(carry[1], consts[0])?;
                Ok((vec![sum, other], vec![other, sum]))
            })?;
            Ok(vec![carry[0], ys[1]])
        });
        let graph = graph.unwrap();
        let row = |x: [f32; 3]| Literal::new([3], &x).unwrap();
        let inputs = [row([2.0, 3.0, 1.0]), row([10.0, 20.0, 30.0]), Literal::scalar(1i32)];
        // Sorted by the first row, descending: 20, 10, 30; added twice to 2, 3, 1.
        for graph in [optimize(&graph), graph] {
            let found = evaluate(&graph, &inputs).unwrap();
            assert_eq!(found[0].to_f64(), [42.0, 23.0, 61.0]);
            assert_eq!(found[1].to_f64(), [22.0, 13.0, 31.0, 42.0, 23.0, 61.0]);
        }
    }
}
