//! Copies of a part of a graph, without dead code.

use crate::build::BuildError;
use crate::ir::{Call, Derivative, Graph, Op, Scan, Value};
use std::sync::Arc;

/// The values that `outputs` need, `leaves` among them; what lies behind a leaf is not followed.
pub(super) fn live(graph: &Graph, leaves: &[Value], outputs: &[Value]) -> Vec<bool> {
    let is_leaf = marks(graph, leaves);
    let mut live = marks(graph, outputs);
    for node in graph.nodes().iter().rev() {
        if node.results.iter().any(|v| live[v.index()] && !is_leaf[v.index()]) {
            node.operands.iter().for_each(|v| live[v.index()] = true);
        }
    }
    live
}

/// A mark at each of `values`.
pub(super) fn marks(graph: &Graph, values: &[Value]) -> Vec<bool> {
    let mut marks = vec![false; graph.num_values()];
    values.iter().for_each(|v| marks[v.index()] = true);
    marks
}

/// The graph from `inputs` (any values, also unused ones) to `outputs`. `scope` names the copy of the node at a position.
pub(crate) fn extract(
    graph: &Graph,
    inputs: &[Value],
    outputs: &[Value],
    scope: impl Fn(usize) -> Arc<str>,
) -> Result<Graph, BuildError> {
    let live = live(graph, inputs, outputs);
    let mut copy = Graph::default();
    let mut map: Vec<Option<Value>> = vec![None; graph.num_values()];
    for (index, &input) in inputs.iter().enumerate() {
        let ty = graph.ty(input).clone();
        let parameter = Op::Parameter { index, ty: ty.clone() };
        map[input.index()] = copy.push(parameter, vec![], vec![ty], "".into()).first().copied();
    }
    let lost = |v: Value| BuildError::Invalid(format!("internal: {v} is cut off from the inputs"));
    for (index, node) in graph.nodes().iter().enumerate() {
        if !node.results.iter().any(|v| live[v.index()] && map[v.index()].is_none()) {
            continue;
        }
        if matches!(node.op, Op::Parameter { .. }) {
            return Err(lost(node.results[0]));
        }
        let operands = node.operands.iter().map(|v| map[v.index()].ok_or_else(|| lost(*v)));
        let operands: Vec<Value> = operands.collect::<Result<_, _>>()?;
        let (op, kept) = trim(&node.op, &node.results, &live)?;
        let first = copy.push_like(graph, &kept, op, operands, scope(index));
        for (old, new) in kept.iter().zip(first..) {
            map[old.index()].get_or_insert(Value(new));
        }
    }
    let outputs = outputs.iter().map(|v| map[v.index()].ok_or_else(|| lost(*v))).collect::<Result<_, _>>()?;
    copy.set_outputs(outputs);
    Ok(copy)
}

/// The operation without the results that nobody needs, where its body can leave them out; and the results it keeps.
fn trim(op: &Op, results: &[Value], live: &[bool]) -> Result<(Op, Vec<Value>), BuildError> {
    let (body, fixed) = match op {
        Op::Scan(scan) => (&scan.body, scan.num_carry),
        Op::Call(Call { body, derivative: Derivative::Body(_), .. }) => (body, 0),
        _ => return Ok((op.clone(), results.to_vec())),
    };
    let keeps: Vec<bool> = results.iter().enumerate().map(|(i, v)| i < fixed || live[v.index()]).collect();
    if !keeps.contains(&false) {
        return Ok((op.clone(), results.to_vec()));
    }
    let kept = |list: &[Value]| -> Vec<Value> {
        list.iter().zip(&keeps).filter(|(_, keep)| **keep).map(|(v, _)| *v).collect()
    };
    let scope = |index: usize| body.nodes()[index].scope.clone();
    let smaller = Arc::new(extract(body, body.inputs(), &kept(body.outputs()), scope)?);
    Ok((with_body(op, smaller), kept(results)))
}

/// The same scan or call of another body; other operations as they are.
pub(super) fn with_body(op: &Op, body: Arc<Graph>) -> Op {
    match op {
        Op::Scan(scan) => Op::Scan(Scan { body, ..scan.clone() }),
        Op::Call(call) => Op::Call(Call { body, ..call.clone() }),
        other => other.clone(),
    }
}
