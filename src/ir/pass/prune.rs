//! Nodes, loop carries and subgraph results that nothing needs are dropped.

use super::rebuild::{Address, Rebuild, changed};
use crate::ir::graph::{Graph, Node, Value};
use crate::ir::op::{Derivative, Op, Scan};
use std::collections::HashMap;
use std::sync::Arc;

/// The graph without what no output needs. Inputs all stay, with their indices.
///
/// Subgraphs shrink too: unused outputs of calls and branches, stacked results, consts, elements and carries of scans,
/// values that are sorted along. A barrier stays whole, since its operands order its results.
pub fn prune(graph: &Graph) -> Graph {
    Pruner::default().prune(graph)
}

/// Which operands and results stay of an operation with subgraphs.
struct Marks {
    operands: Vec<bool>,
    results: Vec<bool>,
}

/// A subgraph with the outputs that are needed and the inputs that stay.
type CutKey = (Address, Vec<bool>, Vec<bool>);

#[derive(Default)]
pub(super) struct Pruner {
    cuts: HashMap<CutKey, Arc<Graph>>,
    /// Which inputs some outputs of a subgraph need.
    needs: HashMap<(Address, Vec<bool>), Vec<bool>>,
    /// Whether the last graph had subgraphs that became smaller.
    pub shrank: bool,
}

impl Pruner {
    pub fn prune(&mut self, graph: &Graph) -> Graph {
        self.shrank = false;
        let all = vec![true; graph.inputs().len()];
        self.cut(graph, graph.outputs(), &all)
    }

    /// `graph` with outputs `outputs` and those inputs that `inputs` marks.
    fn cut(&mut self, graph: &Graph, outputs: &[Value], inputs: &[bool]) -> Graph {
        let live = self.live(graph, outputs);
        let mut to = Rebuild::new(graph);
        let mut num_inputs = 0;
        for node in graph.nodes() {
            if let Op::Parameter { index, ty } = &node.op {
                if inputs[*index] {
                    to.put(node, Op::Parameter { index: num_inputs, ty: ty.clone() }, vec![]);
                    num_inputs += 1;
                }
            } else if live.has_any(&node.results) {
                self.keep(&mut to, node, &live);
            }
        }
        let outputs = to.get_all(outputs);
        to.finish_with(outputs)
    }

    /// The values that `outputs` are computed from, found from the last node on.
    fn live(&mut self, graph: &Graph, outputs: &[Value]) -> Live {
        let mut live = Live(vec![false; graph.num_values()]);
        live.mark(outputs);
        for node in graph.nodes().iter().rev().filter(|node| !node.operands.is_empty()) {
            if live.has_any(&node.results) {
                match self.marks(node, &live) {
                    Some(marks) => live.mark(&marked(&node.operands, &marks.operands)),
                    None => live.mark(&node.operands),
                }
            }
        }
        live
    }

    /// Appends what stays of a live node.
    fn keep(&mut self, to: &mut Rebuild, node: &Node, live: &Live) {
        let Some(marks) = self.marks(node, live) else {
            let op = node.op.map_subgraphs(&mut |g| self.unshrunk(g));
            return to.put(node, op, to.get_all(&node.operands));
        };
        let op = self.shrunk(&node.op, &marks);
        let operands = to.get_all(&marked(&node.operands, &marks.operands));
        to.put_as(op, operands, &marked(&node.results, &marks.results), node.scope.clone());
    }

    /// What stays of a live node; `None` where that is all.
    fn marks(&mut self, node: &Node, live: &Live) -> Option<Marks> {
        let results = || node.results.iter().map(|&v| live.has(v)).collect::<Vec<bool>>();
        match &node.op {
            Op::Scan(scan) => Some(self.marks_of_scan(scan, results())),
            Op::Call(call) if matches!(call.derivative, Derivative::Body(_)) => {
                let results = results();
                Some(Marks { operands: self.needed(&call.body, &results), results })
            }
            Op::Conditional { branches } => {
                let results = results();
                let needed: Vec<Vec<bool>> = branches.iter().map(|b| self.needed(b, &results)).collect();
                let any = |i: usize| needed.iter().any(|n| n[i]);
                let index = [true].into_iter();
                Some(Marks {
                    operands: index.chain((0..node.operands.len() - 1).map(any)).collect(),
                    results,
                })
            }
            Op::Sort { comparator, .. } => {
                // An operand stays if its result is used or the comparator looks at it.
                let needed = self.needed(comparator, &[true]);
                let rows = results().into_iter().zip(needed.chunks(2));
                let kept: Vec<bool> = rows.map(|(used, pair)| used || pair.contains(&true)).collect();
                Some(Marks { operands: kept.clone(), results: kept })
            }
            _ => None,
        }
    }

    /// A carry stays if its last value is used, or if an iteration computes something from it that stays.
    fn marks_of_scan(&mut self, scan: &Scan, mut results: Vec<bool>) -> Marks {
        let carries = scan.num_consts..scan.num_consts + scan.num_carry;
        let mut operands = loop {
            let inputs = self.needed(&scan.body, &results);
            let mut grown = false;
            for (output, &input) in results.iter_mut().zip(&inputs[carries.clone()]) {
                grown |= input && !*output;
                *output |= input;
            }
            if !grown {
                break inputs;
            }
        };
        // A carry that is used only after the loop still has a place in it.
        operands[carries].iter_mut().zip(&results).for_each(|(input, &output)| *input |= output);
        Marks { operands, results }
    }

    /// The operation with what stays of its subgraphs.
    fn shrunk(&mut self, op: &Op, Marks { operands, results }: &Marks) -> Op {
        match op {
            Op::Scan(scan) => Op::Scan(Scan {
                body: self.subgraph(&scan.body, results, operands),
                num_consts: count(&operands[..scan.num_consts]),
                num_carry: count(&results[..scan.num_carry]),
                ..scan.clone()
            }),
            Op::Conditional { .. } => op.map_subgraphs(&mut |g| self.subgraph(g, results, &operands[1..])),
            Op::Sort { .. } => {
                let pairs: Vec<bool> = operands.iter().flat_map(|&kept| [kept, kept]).collect();
                op.map_subgraphs(&mut |g| self.subgraph(g, &[true], &pairs))
            }
            _ => op.map_subgraphs(&mut |g| self.subgraph(g, results, operands)),
        }
    }

    /// Which inputs of `graph` the marked outputs are computed from.
    fn needed(&mut self, graph: &Arc<Graph>, outputs: &[bool]) -> Vec<bool> {
        let key = (Address(graph.clone()), outputs.to_vec());
        if let Some(done) = self.needs.get(&key) {
            return done.clone();
        }
        let live = self.live(graph, &marked(graph.outputs(), outputs));
        let needed: Vec<bool> = graph.inputs().iter().map(|&v| live.has(v)).collect();
        self.needs.insert(key, needed.clone());
        needed
    }

    /// `graph` with the marked outputs and inputs only; the same one where nothing changes.
    fn subgraph(&mut self, graph: &Arc<Graph>, outputs: &[bool], inputs: &[bool]) -> Arc<Graph> {
        let key = (Address(graph.clone()), outputs.to_vec(), inputs.to_vec());
        if let Some(done) = self.cuts.get(&key) {
            self.shrank |= !Arc::ptr_eq(done, graph);
            return done.clone();
        }
        let cut = changed(graph, self.cut(graph, &marked(graph.outputs(), outputs), inputs));
        self.shrank |= !Arc::ptr_eq(&cut, graph);
        // Cut once, nothing is left to be cut.
        let whole = (Address(cut.clone()), vec![true; count(outputs)], vec![true; count(inputs)]);
        self.cuts.insert(whole, cut.clone());
        self.cuts.insert(key, cut.clone());
        cut
    }

    /// `graph` with all its inputs and outputs.
    fn unshrunk(&mut self, graph: &Arc<Graph>) -> Arc<Graph> {
        self.subgraph(graph, &vec![true; graph.outputs().len()], &vec![true; graph.inputs().len()])
    }
}

/// The values of a graph that something needs.
struct Live(Vec<bool>);

impl Live {
    fn mark(&mut self, values: &[Value]) {
        values.iter().for_each(|v| self.0[v.index()] = true);
    }

    fn has(&self, value: Value) -> bool {
        self.0[value.index()]
    }

    fn has_any(&self, values: &[Value]) -> bool {
        values.iter().any(|&v| self.has(v))
    }
}

fn marked(values: &[Value], marks: &[bool]) -> Vec<Value> {
    values.iter().zip(marks).filter(|(_, mark)| **mark).map(|(&v, _)| v).collect()
}

fn count(marks: &[bool]) -> usize {
    marks.iter().filter(|&&mark| mark).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Builder, ScanInputs};
    use crate::ir::{DType, RematPolicy, TensorType, verify};

    fn ty(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    fn names(graph: &Graph) -> Vec<&'static str> {
        graph.nodes().iter().map(|n| n.op.name()).collect()
    }

    #[test]
    fn dead_nodes_go_and_unused_inputs_stay() {
        let graph = Builder::graph(&[ty(&[1]), ty(&[2]), ty(&[3])], |b, x| {
            let dead = b.exp(x[0])?;
            b.log(dead)?;
            Ok(vec![b.exp(x[2])?])
        });
        let graph = prune(&graph.unwrap());
        verify(&graph).unwrap();
        assert_eq!(names(&graph), ["parameter", "parameter", "parameter", "exponential"]);
        assert_eq!(graph.input_types(), [ty(&[1]), ty(&[2]), ty(&[3])]);
    }

    #[test]
    fn a_scan_loses_what_neither_results_nor_other_carries_need() {
        // Carries: a feeds itself and b; b is the result; c feeds only itself. ys: one used, one not.
        let inputs = [ty(&[]), ty(&[]), ty(&[]), ty(&[]), ty(&[4]), ty(&[4])];
        let graph = Builder::graph(&inputs, |b, x| {
            let inputs = ScanInputs { consts: &x[..1], carry: &x[1..4], xs: &x[4..], ..Default::default() };
            let (carry, ys) = b.scan(inputs, |b, consts, carry, xs| {
                let a = b.exp(carry[0])?;
                let sum = b.add(carry[1], carry[0])?;
                let c = b.mul(carry[2], consts[0])?;
                let dead = b.log(xs[1])?;
                Ok((vec![a, sum, c], vec![dead, xs[0]]))
            })?;
            Ok(vec![carry[1], ys[1]])
        });
        let graph = prune(&graph.unwrap());
        verify(&graph).unwrap();
        let node = graph.nodes().last().unwrap();
        let Op::Scan(scan) = &node.op else { panic!("{}", node.op.name()) };
        assert_eq!((scan.num_consts, scan.num_carry), (0, 2));
        assert_eq!(node.operands, [graph.inputs()[1], graph.inputs()[2], graph.inputs()[4]]);
        assert_eq!(names(&scan.body), ["parameter", "parameter", "parameter", "exponential", "add"]);
        assert_eq!(graph.outputs(), [node.results[1], node.results[2]]);
    }

    #[test]
    fn a_carry_that_is_only_replaced_stays_where_its_last_value_is_used() {
        let graph = Builder::graph(&[ty(&[]), ty(&[4])], |b, x| {
            let inputs = ScanInputs { carry: &x[..1], xs: &x[1..], ..Default::default() };
            Ok(b.scan(inputs, |_, _, _, xs| Ok((xs.to_vec(), vec![])))?.0)
        });
        let graph = graph.unwrap();
        assert_eq!(prune(&graph), graph);
    }

    #[test]
    fn calls_and_branches_lose_outputs_and_inputs() {
        let inner = Builder::graph(&[ty(&[]), ty(&[])], |b, x| Ok(vec![b.exp(x[0])?, b.log(x[1])?]));
        let inner = Arc::new(inner.unwrap());
        let graph = Builder::graph(&[TensorType::scalar(DType::S32), ty(&[]), ty(&[])], |b, x| {
            let call = b.call_graph("inner", inner.clone(), RematPolicy::SaveAll, &x[1..])?;
            let choice = b.conditional(x[0], vec![inner.clone(), inner.clone()], &x[1..])?;
            Ok(vec![call[1], choice[0]])
        });
        let graph = prune(&graph.unwrap());
        verify(&graph).unwrap();
        let (call, choice) = (&graph.nodes()[3], &graph.nodes()[4]);
        assert_eq!(call.operands, [graph.inputs()[2]]);
        assert_eq!(choice.operands, [graph.inputs()[0], graph.inputs()[1]]);
        assert_eq!(names(call.op.subgraphs()[0].1), ["parameter", "log"]);
        assert_eq!(names(choice.op.subgraphs()[1].1), ["parameter", "exponential"]);
    }

    #[test]
    fn values_sorted_along_go_unless_used() {
        let graph = Builder::graph(&[ty(&[4]), ty(&[4]), ty(&[4])], |b, x| {
            Ok(vec![b.sort_by_key(x[0], &x[1..], 0, false)?[2]])
        });
        let graph = prune(&graph.unwrap());
        verify(&graph).unwrap();
        let sort = graph.nodes().last().unwrap();
        assert_eq!(sort.operands, [graph.inputs()[0], graph.inputs()[2]]);
        assert_eq!(graph.outputs(), [sort.results[1]]);
    }

    #[test]
    fn a_barrier_keeps_the_operands_it_waits_for() {
        let graph = Builder::graph(&[ty(&[4]), ty(&[4])], |b, x| {
            let late = b.exp(x[1])?;
            Ok(vec![b.optimization_barrier(&[x[0], late])?[0]])
        });
        let graph = graph.unwrap();
        assert_eq!(prune(&graph), graph);
    }
}
