//! Nodes, loop carries and subgraph results that nothing needs are dropped.

use super::rebuild::Rebuild;
use crate::ir::graph::{Graph, Node, Value};
use crate::ir::op::{Call, Derivative, Op, Scan};
use std::collections::HashMap;
use std::sync::Arc;

/// The graph without what no output needs. Inputs all stay, with their indices.
///
/// Subgraphs shrink too: unused outputs of calls and branches, stacked results, consts, elements and carries of scans,
/// values that are sorted along. A barrier stays whole, since its operands order its results.
pub fn prune(graph: &Graph) -> Graph {
    let all = vec![true; graph.inputs().len()];
    Pruner::default().cut(graph, graph.outputs(), &all)
}

/// What stays of a node: the operation, and positions among operands and results.
struct Kept {
    op: Op,
    operands: Vec<usize>,
    results: Vec<usize>,
}

/// A subgraph by its address, with the outputs that are needed and the inputs that stay. The graph that is rewritten keeps
/// the addresses alive.
type CutKey = (*const Graph, Vec<bool>, Vec<bool>);

#[derive(Default)]
struct Pruner {
    cuts: HashMap<CutKey, Arc<Graph>>,
    /// Which inputs some outputs of a subgraph need.
    needs: HashMap<(*const Graph, Vec<bool>), Vec<bool>>,
}

impl Pruner {
    /// `graph` with outputs `outputs` and those inputs that `inputs` marks.
    fn cut(&mut self, graph: &Graph, outputs: &[Value], inputs: &[bool]) -> Graph {
        let mut live = Live::new(graph);
        live.mark(outputs);
        let kept = self.sweep(graph, &mut live);
        let mut to = Rebuild::new(graph);
        let mut num_inputs = 0;
        for (node, kept) in graph.nodes().iter().zip(kept) {
            match (&node.op, kept) {
                (Op::Parameter { index, ty }, _) => {
                    if inputs[*index] {
                        to.put(node, Op::Parameter { index: num_inputs, ty: ty.clone() }, vec![]);
                        num_inputs += 1;
                    }
                }
                (_, Some(kept)) => {
                    let operands = kept.operands.iter().map(|&i| to.get(node.operands[i])).collect();
                    let results: Vec<Value> = kept.results.iter().map(|&i| node.results[i]).collect();
                    to.put_as(kept.op, operands, &results, node.scope.clone());
                }
                (_, None) => {}
            }
        }
        let outputs = to.get_all(outputs);
        to.finish_with(outputs)
    }

    /// Marks what live values are computed from, last node first; tells what stays of each node.
    fn sweep(&mut self, graph: &Graph, live: &mut Live) -> Vec<Option<Kept>> {
        let mut kept: Vec<Option<Kept>> = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes().iter().rev() {
            let results: Vec<bool> = node.results.iter().map(|&v| live.has(v)).collect();
            if !results.contains(&true) {
                kept.push(None);
                continue;
            }
            let keep = self.keep(node, &results);
            keep.operands.iter().for_each(|&i| live.mark(&[node.operands[i]]));
            kept.push(Some(keep));
        }
        kept.reverse();
        kept
    }

    fn keep(&mut self, node: &Node, results: &[bool]) -> Kept {
        match &node.op {
            Op::Scan(scan) => self.keep_scan(node, scan, results),
            Op::Call(call) if matches!(call.derivative, Derivative::Body(_)) => {
                let inputs = self.needed(&call.body, results);
                let body = self.subgraph(&call.body, results, &inputs);
                let op = Op::Call(Call { body, ..call.clone() });
                Kept { op, operands: positions(&inputs), results: positions(results) }
            }
            Op::Conditional { branches } => self.keep_conditional(branches, results),
            Op::Sort { dim, comparator, stable } => self.keep_sort(*dim, comparator, *stable, results),
            op => {
                let op = op.map_subgraphs(&mut |g| self.unshrunk(g));
                Kept {
                    op,
                    operands: (0..node.operands.len()).collect(),
                    results: (0..results.len()).collect(),
                }
            }
        }
    }

    /// A carry stays if its last value is used, or if an iteration computes something from it that stays.
    fn keep_scan(&mut self, node: &Node, scan: &Scan, results: &[bool]) -> Kept {
        let mut outputs = results.to_vec();
        let carries = scan.num_consts..scan.num_consts + scan.num_carry;
        let inputs = loop {
            let inputs = self.needed(&scan.body, &outputs);
            let mut grown = false;
            for (output, &input) in outputs.iter_mut().zip(&inputs[carries.clone()]) {
                grown |= input && !*output;
                *output |= input;
            }
            if !grown {
                break inputs;
            }
        };
        // A carry that is used only after the loop still has a place in it.
        let mut inputs = inputs;
        inputs[carries].iter_mut().zip(&outputs).for_each(|(input, &output)| *input |= output);
        let body = self.subgraph(&scan.body, &outputs, &inputs);
        let num_consts = count(&inputs[..scan.num_consts]);
        let num_carry = count(&outputs[..scan.num_carry]);
        let op = Op::Scan(Scan { body, num_consts, num_carry, ..scan.clone() });
        debug_assert_eq!(node.operands.len(), inputs.len());
        Kept { op, operands: positions(&inputs), results: positions(&outputs) }
    }

    fn keep_conditional(&mut self, branches: &[Arc<Graph>], results: &[bool]) -> Kept {
        let needed: Vec<Vec<bool>> = branches.iter().map(|branch| self.needed(branch, results)).collect();
        let num_inputs = needed.first().map_or(0, Vec::len);
        let inputs: Vec<bool> = (0..num_inputs).map(|i| needed.iter().any(|n| n[i])).collect();
        let branches = branches.iter().map(|branch| self.subgraph(branch, results, &inputs)).collect();
        let operands = [0].into_iter().chain(positions(&inputs).into_iter().map(|i| i + 1)).collect();
        Kept { op: Op::Conditional { branches }, operands, results: positions(results) }
    }

    /// An operand stays if its result is used or the comparator looks at it.
    fn keep_sort(&mut self, dim: usize, comparator: &Arc<Graph>, stable: bool, results: &[bool]) -> Kept {
        let needed = self.needed(comparator, &[true]);
        let rows = results.iter().zip(needed.chunks(2));
        let kept: Vec<bool> = rows.map(|(&used, pair)| used || pair.contains(&true)).collect();
        let inputs: Vec<bool> = kept.iter().flat_map(|&k| [k, k]).collect();
        let comparator = self.subgraph(comparator, &[true], &inputs);
        let op = Op::Sort { dim, comparator, stable };
        Kept { op, operands: positions(&kept), results: positions(&kept) }
    }

    /// Which inputs of `graph` the marked outputs are computed from.
    fn needed(&mut self, graph: &Arc<Graph>, outputs: &[bool]) -> Vec<bool> {
        let key = (Arc::as_ptr(graph), outputs.to_vec());
        if let Some(done) = self.needs.get(&key) {
            return done.clone();
        }
        let mut live = Live::new(graph);
        live.mark(&marked(graph.outputs(), outputs));
        self.sweep(graph, &mut live);
        let needed: Vec<bool> = graph.inputs().iter().map(|&v| live.has(v)).collect();
        self.needs.insert(key, needed.clone());
        needed
    }

    /// `graph` with the marked outputs and inputs only; the same one where nothing changes.
    fn subgraph(&mut self, graph: &Arc<Graph>, outputs: &[bool], inputs: &[bool]) -> Arc<Graph> {
        let key = (Arc::as_ptr(graph), outputs.to_vec(), inputs.to_vec());
        if let Some(done) = self.cuts.get(&key) {
            return done.clone();
        }
        let cut = self.cut(graph, &marked(graph.outputs(), outputs), inputs);
        let cut = if cut == **graph { graph.clone() } else { Arc::new(cut) };
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
    fn new(graph: &Graph) -> Self {
        Self(vec![false; graph.num_values()])
    }

    fn mark(&mut self, values: &[Value]) {
        values.iter().for_each(|v| self.0[v.index()] = true);
    }

    fn has(&self, value: Value) -> bool {
        self.0[value.index()]
    }
}

fn marked(values: &[Value], marks: &[bool]) -> Vec<Value> {
    values.iter().zip(marks).filter(|(_, mark)| **mark).map(|(&v, _)| v).collect()
}

fn positions(marks: &[bool]) -> Vec<usize> {
    marks.iter().enumerate().filter(|(_, mark)| **mark).map(|(i, _)| i).collect()
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
