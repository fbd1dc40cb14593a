//! Which values can carry a gradient at all.

use super::elementwise;
use crate::ir::{Call, Derivative, Graph, Op, Scan, Value};

/// The float values that depend on the seeds in a differentiable way, seeds included.
pub(super) fn values(graph: &Graph, seeds: Vec<bool>) -> Vec<bool> {
    let mut active = seeds;
    for node in graph.nodes() {
        let operands: Vec<bool> = node.operands.iter().map(|v| active[v.index()]).collect();
        if !operands.contains(&true) {
            continue;
        }
        for (result, flows) in node.results.iter().zip(flow(&node.op, &operands, node.results.len())) {
            active[result.index()] |= flows && graph.ty(*result).dtype.is_float();
        }
    }
    active
}

/// As [`values`], seeded by inputs.
pub(super) fn from_inputs(graph: &Graph, inputs: &[bool]) -> Vec<bool> {
    let mut seeds = vec![false; graph.num_values()];
    for (v, &active) in graph.inputs().iter().zip(inputs) {
        seeds[v.index()] = active && graph.ty(*v).dtype.is_float();
    }
    values(graph, seeds)
}

/// Whether each of `list` is marked.
pub(super) fn pick(marks: &[bool], list: &[Value]) -> Vec<bool> {
    list.iter().map(|v| marks[v.index()]).collect()
}

/// The active inputs of a loop body: a carry is active once it is anywhere in the loop.
pub(super) fn scan_inputs(scan: &Scan, operands: &[bool]) -> Vec<bool> {
    let mut inputs = operands.to_vec();
    loop {
        let active = from_inputs(&scan.body, &inputs);
        let before = inputs.clone();
        for (i, v) in scan.body.outputs().iter().take(scan.num_carry).enumerate() {
            inputs[scan.num_consts + i] |= active[v.index()];
        }
        if inputs == before {
            return inputs;
        }
    }
}

/// The active values that a cotangent of the seeds may reach: none is missing, some may be too many.
pub(super) fn reached(graph: &Graph, active: &[bool], seeds: &[Value]) -> Vec<bool> {
    let mut reached = vec![false; graph.num_values()];
    seeds.iter().for_each(|v| reached[v.index()] = active[v.index()]);
    for node in graph.nodes().iter().rev() {
        if node.results.iter().any(|v| reached[v.index()]) {
            node.operands.iter().for_each(|v| reached[v.index()] |= active[v.index()]);
        }
    }
    reached
}

/// Which results depend on the active operands.
fn flow(op: &Op, operands: &[bool], num_results: usize) -> Vec<bool> {
    match op {
        Op::Scan(scan) => body_flow(&scan.body, &scan_inputs(scan, operands)),
        Op::Call(Call { body, derivative: Derivative::Body(_), .. }) => body_flow(body, operands),
        Op::Conditional { branches } => {
            let mut results = vec![false; num_results];
            for branch in branches {
                let flows = body_flow(branch, operands.get(1..).unwrap_or_default());
                results.iter_mut().zip(flows).for_each(|(r, f)| *r |= f);
            }
            results
        }
        Op::Sort { .. } | Op::OptimizationBarrier => operands.to_vec(),
        _ => vec![passes(op); num_results],
    }
}

fn body_flow(body: &Graph, inputs: &[bool]) -> Vec<bool> {
    pick(&from_inputs(body, inputs), body.outputs())
}

/// Whether a float result depends on the float operands other than piecewise constantly.
fn passes(op: &Op) -> bool {
    match op {
        Op::Unary(op) => elementwise::unary_passes(*op),
        Op::Binary(op) => elementwise::binary_passes(*op),
        Op::Parameter { .. }
        | Op::Constant(_)
        | Op::Iota { .. }
        | Op::Compare(_)
        | Op::BitcastConvert(_)
        | Op::StopGradient
        | Op::RngBitGenerator { .. }
        | Op::ReplicaId
        | Op::PartitionId => false,
        Op::Select
        | Op::Clamp
        | Op::Convert(_)
        | Op::BroadcastInDim { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Reverse { .. }
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Concatenate { .. }
        | Op::DotGeneral { .. }
        | Op::Reduce { .. }
        | Op::CumSum { .. }
        | Op::Gather(_)
        | Op::Scatter { .. }
        | Op::DynamicSlice { .. }
        | Op::DynamicUpdateSlice
        | Op::Sort { .. }
        | Op::OptimizationBarrier
        | Op::While { .. }
        | Op::Scan(_)
        | Op::Conditional { .. }
        | Op::Call(_)
        | Op::AllReduce { .. }
        | Op::AllGather { .. }
        | Op::ReduceScatter { .. }
        | Op::AllToAll { .. }
        | Op::CollectivePermute { .. } => true,
    }
}
