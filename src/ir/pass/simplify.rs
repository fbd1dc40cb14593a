//! The walk that applies local identities.

use super::peephole::{Simpler, simpler};
use super::rebuild::{Memo, Rebuild};
use crate::ir::graph::Graph;

/// The graph with operations that change nothing removed and chains of the same data movement joined, in subgraphs too.
///
/// What became unused stays: see [`super::prune`]. `x + 0` counts as `x`, though it turns `-0` into `0`.
pub fn simplify(graph: &Graph) -> Graph {
    simplify_in(graph, &mut Memo::default())
}

pub(super) fn simplify_in(graph: &Graph, memo: &mut Memo) -> Graph {
    let mut to = Rebuild::new(graph);
    for node in graph.nodes() {
        let operands = to.get_all(&node.operands);
        match simpler(&to.out, &node.op, &operands) {
            Some(Simpler::Value(value)) => to.alias(node.results[0], value),
            Some(Simpler::Op(op, operand)) => to.put(node, op, vec![operand]),
            None => {
                let op = node.op.map_subgraphs(&mut |g| memo.visit(g, &mut simplify_in));
                to.put(node, op, operands);
            }
        }
    }
    to.finish()
}
