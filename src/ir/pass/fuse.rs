//! A loop over rows that another loop makes becomes part of that loop.

use super::rebuild::Rebuild;
use crate::ir::graph::{Graph, Node, Value};
use crate::ir::op::{Op, Scan};
use crate::ir::types::TensorType;
use std::collections::HashMap;
use std::sync::Arc;

/// The graph in which each scan takes up those that only map rows of its stacked results: without a carry, of the same
/// length, and without another need of its results. A map has no order, so a scan that runs backwards takes it too.
///
/// A stack that nobody else reads is gone after [`super::prune`]: each row lasts for one iteration.
pub fn fuse_scans(graph: Graph) -> Graph {
    let mut current = graph;
    let mut at = 0;
    while let Some((source, maps)) = next(&current, at) {
        current = fused(&current, source, &maps);
        at = source;
    }
    current
}

/// The first scan from node `at` on that can take up others, and those.
fn next(graph: &Graph, at: usize) -> Option<(usize, Vec<usize>)> {
    (at..graph.nodes().len()).find_map(|source| {
        let maps = maps_of(graph, source);
        (!maps.is_empty()).then_some((source, maps))
    })
}

fn as_scan(node: &Node) -> Option<&Scan> {
    match &node.op {
        Op::Scan(scan) => Some(scan),
        _ => None,
    }
}

/// The scans that the one at `source` can take up.
fn maps_of(graph: &Graph, source: usize) -> Vec<usize> {
    let Some(scan) = as_scan(&graph.nodes()[source]) else { return vec![] };
    let rows = &graph.nodes()[source].results[scan.num_carry..];
    let maps: Vec<usize> = (source + 1..graph.nodes().len())
        .filter(|&at| reads_rows(&graph.nodes()[at], scan.length, rows))
        .collect();
    if maps.is_empty() {
        return maps;
    }
    let late = dependents(graph, source);
    let is_free = |&at: &usize| {
        let node = &graph.nodes()[at];
        let consts = as_scan(node).map_or(0, |map| map.num_consts);
        let mut operands = node.operands.iter().enumerate();
        operands.all(|(i, v)| !late[v.index()] || (i >= consts && rows.contains(v)))
    };
    maps.into_iter().filter(is_free).collect()
}

/// Whether a node maps some of these stacks row by row.
fn reads_rows(node: &Node, length: usize, rows: &[Value]) -> bool {
    as_scan(node).is_some_and(|map| {
        let xs = &node.operands[map.num_consts + map.num_carry..];
        map.num_carry == 0 && map.length == length && xs.iter().any(|x| rows.contains(x))
    })
}

/// The values that are computed from results of node `source`.
fn dependents(graph: &Graph, source: usize) -> Vec<bool> {
    let mut late = vec![false; graph.num_values()];
    graph.nodes()[source].results.iter().for_each(|v| late[v.index()] = true);
    for node in &graph.nodes()[source + 1..] {
        if node.operands.iter().any(|v| late[v.index()]) {
            node.results.iter().for_each(|v| late[v.index()] = true);
        }
    }
    late
}

/// The nodes between `source` and its maps that the maps need beside its rows.
fn needed(graph: &Graph, source: usize, maps: &[usize]) -> Vec<bool> {
    let rows = &graph.nodes()[source].results;
    let mut needed = vec![false; graph.nodes().len()];
    let mark = |needed: &mut Vec<bool>, node: &Node| {
        node.operands.iter().filter(|v| !rows.contains(v)).for_each(|&v| needed[graph.node_index(v)] = true);
    };
    maps.iter().for_each(|&map| mark(&mut needed, &graph.nodes()[map]));
    for at in (source + 1..graph.nodes().len()).rev() {
        if needed[at] {
            mark(&mut needed, &graph.nodes()[at]);
        }
    }
    needed[..=source].fill(false);
    needed
}

/// The scan at `source` with `maps` in it, behind what they need.
fn fused(graph: &Graph, source: usize, maps: &[usize]) -> Graph {
    let early = needed(graph, source, maps);
    let mut to = Rebuild::new(graph);
    let (before, rest) = graph.nodes().split_at(source);
    let copy = |to: &mut Rebuild, node: &Node| {
        let operands = to.get_all(&node.operands);
        to.put(node, node.op.clone(), operands);
    };
    before.iter().for_each(|node| copy(&mut to, node));
    let rest = || rest.iter().enumerate().map(|(i, node)| (source + i, node));
    rest().filter(|(at, _)| early[*at]).for_each(|(_, node)| copy(&mut to, node));
    let nodes: Vec<&Node> = [&[source], maps].concat().iter().map(|&at| &graph.nodes()[at]).collect();
    let (op, operands) = joined(&nodes);
    let results: Vec<Value> = nodes.iter().flat_map(|node| node.results.clone()).collect();
    let operands = to.get_all(&operands);
    to.put_as(op, operands, &results, nodes[0].scope.clone());
    let taken = |at: usize| at == source || early[at] || maps.contains(&at);
    rest().filter(|(at, _)| !taken(*at)).for_each(|(_, node)| copy(&mut to, node));
    to.finish()
}

/// The body of a scan in the making, and the operands of the scan.
#[derive(Default)]
struct Body {
    graph: Graph,
    operands: Vec<Value>,
}

/// Inputs of the body by the operands that they stand for.
type Known = HashMap<Value, Value>;

impl Body {
    fn input(&mut self, (&operand, ty): (&Value, &TensorType)) -> Value {
        let index = self.operands.len();
        self.operands.push(operand);
        self.graph.push(Op::Parameter { index, ty: ty.clone() }, vec![], vec![ty.clone()], "".into())[0]
    }

    /// One input for each operand that has none yet.
    fn share<'a>(&mut self, known: &mut Known, operands: impl Iterator<Item = (&'a Value, &'a TensorType)>) {
        for (operand, ty) in operands {
            known.entry(*operand).or_insert_with(|| self.input((operand, ty)));
        }
    }
}

/// One scan of the first node and the maps after it: the operation and its operands.
fn joined(nodes: &[&Node]) -> (Op, Vec<Value>) {
    let scans: Vec<(&Node, &Scan)> = nodes.iter().filter_map(|&node| Some((node, as_scan(node)?))).collect();
    let (node, scan) = scans[0];
    let rows = &node.results[scan.num_carry..];
    let types: Vec<Vec<TensorType>> = scans.iter().map(|(_, scan)| scan.body.input_types()).collect();
    let typed = |i: usize| scans[i].0.operands.iter().zip(&types[i]);

    let (mut body, mut consts, mut xs) = (Body::default(), Known::new(), Known::new());
    for (i, (_, scan)) in scans.iter().enumerate() {
        body.share(&mut consts, typed(i).take(scan.num_consts));
    }
    let num_consts = body.operands.len();
    // Two carries may start from one value, so each has its own.
    let carry: Vec<Value> =
        typed(0).skip(scan.num_consts).take(scan.num_carry).map(|operand| body.input(operand)).collect();
    for (i, (_, scan)) in scans.iter().enumerate() {
        let own = typed(i).skip(scan.num_consts + scan.num_carry);
        body.share(&mut xs, own.filter(|(operand, _)| !rows.contains(operand)));
    }

    let mut outputs: Vec<Value> = vec![];
    for (i, (node, scan)) in scans.iter().enumerate() {
        let (fixed, stacks) = node.operands.split_at(scan.num_consts + scan.num_carry);
        let carry = if i == 0 { &carry[..] } else { &[] };
        let mut inputs: Vec<Value> = fixed[..scan.num_consts].iter().map(|v| consts[v]).collect();
        inputs.extend(carry);
        inputs.extend(stacks.iter().map(|v| xs[v]));
        let made = body.graph.append(&scan.body, &inputs);
        if i == 0 {
            xs.extend(rows.iter().copied().zip(made[scan.num_carry..].iter().copied()));
        }
        outputs.extend(made);
    }
    body.graph.set_outputs(outputs);
    (Op::Scan(Scan { body: Arc::new(body.graph), num_consts, ..scan.clone() }), body.operands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Builder, ScanInputs};
    use crate::eval::evaluate;
    use crate::ir::pass::prune;
    use crate::ir::{DType, Literal, verify};

    /// Running sums of `x[3, 2]` and their squares; then `ys * weights * scale` row by row, where `scale` is what `scale_of` makes.
    fn two_loops(scale_of: impl Fn(&mut Builder, Value, &[Value]) -> Value, reads_rows_later: bool) -> Graph {
        let row = TensorType::new(DType::F32, [2]);
        let stack = TensorType::new(DType::F32, [3, 2]);
        let inputs = [stack.clone(), stack, row, TensorType::scalar(DType::F32)];
        let graph = Builder::graph(&inputs, |b, x| {
            let sums = ScanInputs { carry: &x[2..3], xs: &x[..1], ..Default::default() };
            let (carry, ys) = b.scan(sums, |b, _, carry, xs| {
                let sum = b.add(carry[0], xs[0])?;
                Ok((vec![sum], vec![b.mul(sum, sum)?]))
            })?;
            let first = b.sum_all(carry[0])?;
            let scale = scale_of(b, x[3], &[first]);
            let map = ScanInputs { consts: &[scale], xs: &[x[1], ys[0]], ..Default::default() };
            let (_, ys2) = b.scan(map, |b, consts, _, xs| {
                let product = b.mul(xs[0], xs[1])?;
                Ok((vec![], vec![b.scale(product, consts[0])?]))
            })?;
            let twice = b.scan(ScanInputs { xs: &ys2, ..Default::default() }, |b, _, _, xs| {
                Ok((vec![], vec![b.add(xs[0], xs[0])?]))
            })?;
            let mut outputs = vec![first, twice.1[0]];
            outputs.extend(reads_rows_later.then_some(ys[0]));
            Ok(outputs)
        });
        graph.unwrap()
    }

    fn scans(graph: &Graph) -> usize {
        graph.nodes().iter().filter(|node| as_scan(node).is_some()).count()
    }

    #[track_caller]
    fn same_values(graph: &Graph, other: &Graph) {
        let stack = |data: [f32; 6]| Literal::new([3, 2], &data).unwrap();
        let inputs = [
            stack([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            stack([0.5, -1.0, 2.0, 0.25, -3.0, 1.5]),
            Literal::new([2], &[0.5f32, -0.5]).unwrap(),
            Literal::scalar(3f32),
        ];
        verify(other).unwrap();
        assert_eq!(evaluate(graph, &inputs).unwrap(), evaluate(other, &inputs).unwrap());
    }

    #[test]
    fn chains_of_maps_join_the_loop_that_makes_their_rows() {
        // The scale is computed after the first loop, from what was there before it.
        let graph = two_loops(|b, scale, _| b.exp(scale).unwrap(), false);
        let fused = prune(&fuse_scans(graph.clone()));
        assert_eq!((scans(&graph), scans(&fused)), (3, 1));
        same_values(&graph, &fused);
        // No stack is left but the last.
        let node = fused.nodes().iter().find(|node| as_scan(node).is_some()).unwrap();
        assert_eq!(fused.types(&node.results).iter().filter(|ty| ty.rank() == 2).count(), 1);
    }

    #[test]
    fn rows_that_others_read_stay_stacked() {
        let graph = two_loops(|b, scale, _| b.exp(scale).unwrap(), true);
        let fused = prune(&fuse_scans(graph.clone()));
        assert_eq!(scans(&fused), 1);
        same_values(&graph, &fused);
    }

    #[test]
    fn a_map_that_waits_for_the_loop_stays_behind_it() {
        let graph = two_loops(|_, _, results| results[0], false);
        let fused = fuse_scans(graph.clone());
        // The last two loops join all the same.
        assert_eq!(scans(&fused), 2);
        same_values(&graph, &fused);
    }
}
