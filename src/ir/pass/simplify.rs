//! The walk that applies local identities, and computes equal operations on equal operands once.

use super::peephole::{Simpler, simpler};
use super::rebuild::{Address, Rebuild, changed};
use crate::ir::graph::{Graph, Value};
use crate::ir::op::{BinaryOp, Derivative, Op, Scan};
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;
use std::sync::Arc;

/// The graph with operations that change nothing removed, chains of the same data movement joined, and equal operations on equal operands as
/// one node, in subgraphs too.
///
/// What became unused stays: see [`super::prune`]. `x + 0` counts as `x`, though it turns `-0` into `0`. An optimization barrier is never merged with another, and so no work behind two barriers is: recomputation stays. The
/// first node keeps its scope; a name given to a later one moves to it.
pub fn simplify(graph: &Graph) -> Graph {
    Simplifier::default().simplify(graph)
}

/// Rewritten subgraphs: found by address first, then one representative per content, so that equal ones share an address
/// and an operation that holds one is hashed in constant time.
#[derive(Default)]
pub(super) struct Simplifier {
    by_address: HashMap<Address, Arc<Graph>>,
    /// By what they look like from afar: that is hashed faster than their content.
    by_outline: HashMap<u64, Vec<Arc<Graph>>>,
}

impl Simplifier {
    fn visit(&mut self, graph: &Arc<Graph>) -> Arc<Graph> {
        let address = Address(graph.clone());
        if let Some(done) = self.by_address.get(&address) {
            return done.clone();
        }
        let next = changed(graph, self.simplify(graph));
        let representative = self.representative(next);
        self.by_address.insert(address, representative.clone());
        representative
    }

    /// The first graph that is equal to this one.
    fn representative(&mut self, graph: Arc<Graph>) -> Arc<Graph> {
        let similar = self.by_outline.entry(outline(&graph)).or_default();
        if let Some(equal) = similar.iter().find(|other| **other == graph) {
            return equal.clone();
        }
        similar.push(graph.clone());
        graph
    }

    pub fn simplify(&mut self, graph: &Graph) -> Graph {
        let mut to = Rebuild::new(graph);
        let mut seen = Seen(HashMap::with_capacity(graph.nodes().len()));
        for node in graph.nodes() {
            let operands = to.get_all(&node.operands);
            let (op, operands) = match simpler(&to.out, &node.op, &operands) {
                Some(Simpler::Value(value)) => {
                    to.alias(node.results[0], value);
                    continue;
                }
                Some(Simpler::Op(op, operand)) => (op, vec![operand]),
                None => (node.op.map_subgraphs(&mut |g| self.visit(g)), operands),
            };
            match seen.find_or_add(&to.out, &op, &operands) {
                Some(results) => node.results.iter().zip(results).for_each(|(&old, new)| to.alias(old, new)),
                None => to.put(node, op, operands),
            }
        }
        to.finish()
    }
}

/// A hash of the kinds of operations and of their operands: the same for equal graphs.
fn outline(graph: &Graph) -> u64 {
    let mut state = DefaultHasher::new();
    graph.outputs().hash(&mut state);
    for node in graph.nodes() {
        discriminant(&node.op).hash(&mut state);
        node.operands.hash(&mut state);
    }
    state.finish()
}

/// Positions of nodes by hash; candidates are compared in full.
struct Seen(HashMap<u64, Vec<usize>>);

impl Seen {
    /// The results of an equal node of `graph`; where there is none, the next node will be one.
    fn find_or_add(&mut self, graph: &Graph, op: &Op, operands: &[Value]) -> Option<Vec<Value>> {
        if matches!(op, Op::Parameter { .. } | Op::OptimizationBarrier) {
            return None;
        }
        let operands = ordered(op, operands);
        let candidates = self.0.entry(hash(op, &operands)).or_default();
        let equal = candidates
            .iter()
            .map(|&i| &graph.nodes()[i])
            .find(|other| ordered(&other.op, &other.operands) == operands && other.op == *op);
        match equal {
            Some(other) => Some(other.results.clone()),
            None => {
                candidates.push(graph.nodes().len());
                None
            }
        }
    }
}

/// The operands in an order of their own where their order does not matter.
fn ordered<'a>(op: &Op, operands: &'a [Value]) -> Cow<'a, [Value]> {
    use BinaryOp::{Add, And, Mul, Or, Xor};
    if !matches!(op, Op::Binary(Add | Mul | And | Or | Xor)) {
        return operands.into();
    }
    let mut operands = operands.to_vec();
    operands.sort_unstable();
    operands.into()
}

/// Subgraphs count by address: equal ones have been given the same.
fn hash(op: &Op, operands: &[Value]) -> u64 {
    let mut state = DefaultHasher::new();
    operands.hash(&mut state);
    let subgraphs = op.subgraphs();
    if subgraphs.is_empty() {
        op.hash(&mut state);
        return state.finish();
    }
    discriminant(op).hash(&mut state);
    subgraphs.iter().for_each(|(_, g)| Arc::as_ptr(g).hash(&mut state));
    match op {
        Op::Scan(Scan { length, num_consts, num_carry, reverse, .. }) => {
            (length, num_consts, num_carry, reverse).hash(&mut state);
        }
        Op::Call(call) => (&call.name, matches!(call.derivative, Derivative::Body(_))).hash(&mut state),
        _ => {}
    }
    state.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Builder, ScanInputs};
    use crate::ir::{DType, TensorType, verify};

    fn ty() -> TensorType {
        TensorType::new(DType::F32, [2])
    }

    fn names(graph: &Graph) -> Vec<&'static str> {
        graph.nodes().iter().map(|n| n.op.name()).collect()
    }

    #[test]
    fn sums_in_either_order_are_shared_and_differences_are_not() {
        let graph = Builder::graph(&[ty(), ty()], |b, x| {
            Ok(vec![b.add(x[0], x[1])?, b.add(x[1], x[0])?, b.sub(x[0], x[1])?, b.sub(x[1], x[0])?])
        });
        let graph = simplify(&graph.unwrap());
        verify(&graph).unwrap();
        assert_eq!(names(&graph)[2..], ["add", "subtract", "subtract"]);
        assert_eq!(graph.outputs()[0], graph.outputs()[1]);
    }

    #[test]
    fn constants_are_shared_by_value_and_type() {
        let graph = Builder::graph(&[], |b, _| {
            Ok(vec![b.scalar(DType::F32, 1.0)?, b.scalar(DType::F32, 1.0)?, b.scalar(DType::S32, 1.0)?])
        });
        assert_eq!(simplify(&graph.unwrap()).nodes().len(), 2);
    }

    #[test]
    fn barriers_keep_equal_work_apart() {
        let graph = Builder::graph(&[ty()], |b, x| {
            let (one, two) = (b.optimization_barrier(x)?, b.optimization_barrier(x)?);
            Ok(vec![b.exp(one[0])?, b.exp(two[0])?])
        });
        let graph = graph.unwrap();
        assert_eq!(simplify(&graph), graph);
    }

    #[test]
    fn equal_scans_with_bodies_of_their_own_are_one() {
        let graph = Builder::graph(&[ty()], |b, x| {
            let mut results = vec![];
            for _ in 0..2 {
                let inputs = ScanInputs { carry: x, length: 3, ..Default::default() };
                let (carry, _) = b.scan(inputs, |b, _, carry, _| Ok((vec![b.exp(carry[0])?], vec![])))?;
                results.extend(carry);
            }
            let inputs = ScanInputs { carry: x, length: 4, ..Default::default() };
            let (carry, _) = b.scan(inputs, |b, _, carry, _| Ok((vec![b.exp(carry[0])?], vec![])))?;
            results.extend(carry);
            Ok(results)
        });
        let graph = simplify(&graph.unwrap());
        verify(&graph).unwrap();
        assert_eq!(names(&graph), ["parameter", "scan", "scan"]);
        // The two that remain differ in length only; their bodies are one graph in memory.
        let bodies: Vec<_> = graph.nodes()[1..].iter().map(|n| Arc::as_ptr(n.op.subgraphs()[0].1)).collect();
        assert_eq!(bodies[0], bodies[1]);
    }

    #[test]
    fn the_name_of_a_merged_value_moves_to_the_one_that_stays() {
        let graph = Builder::graph(&[ty()], |b, x| {
            let (one, two) = (b.exp(x[0])?, b.exp(x[0])?);
            let two = b.name(two, "probs", &["tokens"]);
            Ok(vec![one, two])
        });
        let graph = simplify(&graph.unwrap());
        assert_eq!(&*graph.nodes()[1].scope, "probs");
        assert_eq!(graph.axes(graph.outputs()[0]), Some(&["tokens"][..]));
    }
}
