//! Calls are replaced by their bodies.

use super::rebuild::{Address, Memo, Rebuild, shared_bodies};
use crate::ir::graph::Graph;
use crate::ir::op::Op;
use crate::ir::scope::Moved;

/// The graph without calls and stopped gradients, in subgraphs too; inner nodes keep their scopes, below those of
/// a backward pass where the call is part of one.
///
/// Custom derivatives are lost with the calls: differentiate first.
pub fn inline_calls(graph: &Graph) -> Graph {
    inline_tidied(graph, &mut Graph::clone)
}

/// The same; what several calls have in common is tidied before it is copied.
pub(super) fn inline_tidied(graph: &Graph, tidy: &mut dyn FnMut(&Graph) -> Graph) -> Graph {
    inline(graph, &mut Memo::default(), tidy)
}

fn inline(graph: &Graph, memo: &mut Memo, tidy: &mut dyn FnMut(&Graph) -> Graph) -> Graph {
    let shared = shared_bodies(graph);
    let (mut to, mut moved) = (Rebuild::new(graph), Moved::default());
    for node in graph.nodes() {
        let operands = to.get_all(&node.operands);
        match &node.op {
            Op::StopGradient => to.alias(node.results[0], operands[0]),
            Op::Call(call) => {
                let is_shared = shared.contains(&Address(call.body.clone()));
                let body = memo.visit(&call.body, &mut |g, memo| {
                    let body = inline(g, memo, tidy);
                    if is_shared { tidy(&body) } else { body }
                });
                let outputs =
                    to.out.append_renamed(&body, &operands, &mut |path| moved.to(&node.scope, path));
                node.results.iter().zip(outputs).for_each(|(&result, output)| to.alias(result, output));
            }
            op => {
                let op = op.map_subgraphs(&mut |g| memo.visit(g, &mut |g, memo| inline(g, memo, tidy)));
                to.put(node, op, operands);
            }
        }
    }
    to.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Builder;
    use crate::ir::{DType, RematPolicy, TensorType, verify};
    use std::sync::Arc;

    #[test]
    fn nested_calls_become_their_nodes_in_their_scopes() {
        let ty = TensorType::new(DType::F32, [2]);
        let leaf = Builder::new()
            .scoped("leaf", |b| b.subgraph(std::slice::from_ref(&ty), |b, x| Ok(vec![b.exp(x[0])?, x[0]])));
        let leaf = Arc::new(leaf.unwrap());
        let middle = Builder::graph(std::slice::from_ref(&ty), |b, x| {
            let y = b.call_graph("leaf", leaf.clone(), RematPolicy::SaveAll, x)?;
            let y = b.add(y[0], y[1])?;
            Ok(vec![b.stop_gradient(y)?])
        });
        let middle = Arc::new(middle.unwrap());
        let graph = Builder::graph(&[ty], |b, x| {
            let y = b.call_graph("middle", middle.clone(), RematPolicy::SaveAll, x)?;
            Ok(vec![b.name(y[0], "result", &["tokens"])])
        });
        let graph = inline_calls(&graph.unwrap());
        verify(&graph).unwrap();
        let nodes: Vec<(&str, &str)> = graph.nodes().iter().map(|n| (n.op.name(), &*n.scope)).collect();
        // The result of the outer call was named, so the node that computes it is.
        assert_eq!(nodes, [("parameter", ""), ("exponential", "leaf"), ("add", "result")]);
        assert_eq!(graph.axes(graph.outputs()[0]), Some(&["tokens"][..]));
    }

    #[test]
    fn calls_inside_branches_are_inlined() {
        let ty = TensorType::new(DType::F32, []);
        let leaf =
            Arc::new(Builder::graph(std::slice::from_ref(&ty), |b, x| Ok(vec![b.exp(x[0])?])).unwrap());
        let branch = Builder::graph(std::slice::from_ref(&ty), |b, x| {
            b.call_graph("leaf", leaf.clone(), RematPolicy::SaveAll, x)
        });
        let branch = Arc::new(branch.unwrap());
        let graph = Builder::graph(&[TensorType::scalar(DType::S32), ty], |b, x| {
            b.conditional(x[0], vec![branch.clone(), branch.clone()], &x[1..])
        });
        let graph = inline_calls(&graph.unwrap());
        verify(&graph).unwrap();
        for (_, branch) in graph.nodes()[2].op.subgraphs() {
            assert_eq!(branch.nodes()[1].op.name(), "exponential");
        }
    }
}
