//! Counts and lists of tensors.

use super::alias;
use super::graph::{Graph, Weight};
use super::report::{StaticShapes, TensorRow};
use crate::hlo::{HloInstructionProto, HloModuleProto, ShapeProto};
use std::collections::BTreeMap;

/// How many instructions with dynamic shapes are named.
const NAMED: usize = 10;

pub fn opcodes(module: &HloModuleProto) -> BTreeMap<String, usize> {
    let mut out: BTreeMap<String, usize> = BTreeMap::new();
    for i in module.computations.iter().flat_map(|c| &c.instructions) {
        *out.entry(i.opcode.clone()).or_default() += 1;
    }
    out
}

pub fn static_shapes(module: &HloModuleProto) -> StaticShapes {
    let mut out = StaticShapes { all_static: true, tensors: 0, dynamic: vec![] };
    for i in module.computations.iter().flat_map(|c| &c.instructions) {
        let Some(shape) = &i.shape else { continue };
        out.tensors += shape.leaves().len();
        if !shape.is_static() {
            out.all_static = false;
            if out.dynamic.len() < NAMED {
                out.dynamic.push(format!("{} {}", i.name, shape.brief()));
            }
        }
    }
    out
}

/// The parameters of the entry.
pub fn parameters(graph: &Graph) -> Vec<TensorRow> {
    let rows = alias::parameters(graph).into_iter().enumerate();
    rows.map(|(index, p)| row(index, p, graph.shape(p))).collect()
}

/// The elements of the result of the entry, or the result itself.
pub fn outputs(graph: &Graph) -> Vec<TensorRow> {
    let entry = graph.entry();
    let Some(root) = graph.root(entry) else { return vec![] };
    let shape = graph.shape(root);
    if !shape.is_tuple() {
        return vec![row(0, root, shape)];
    }
    let elements = shape.tuple_shapes.iter().enumerate();
    elements
        .map(|(index, shape)| {
            let source = (root.opcode == "tuple").then(|| graph.operand(entry, root, index)).flatten();
            row(index, source.unwrap_or(root), shape)
        })
        .collect()
}

/// The largest arrays that instructions compute, of computations whose values are in memory.
pub fn largest(graph: &Graph, weights: &[Weight], count: usize) -> Vec<TensorRow> {
    let views = ["parameter", "tuple", "get-tuple-element", "bitcast", "reshape", "while", "opt-barrier"];
    let mut found: Vec<(u64, &HloInstructionProto, &ShapeProto)> = vec![];
    for ((_, computation), weight) in graph.all().zip(weights) {
        for i in computation.instructions.iter().filter(|_| weight.in_memory > 0) {
            if !views.contains(&i.opcode.as_str()) {
                let leaves = i.shape.iter().flat_map(ShapeProto::leaves);
                found.extend(leaves.map(|s| (s.bytes(), i, s)));
            }
        }
    }
    found.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes)); // stable: equal sizes stay in program order
    found.iter().take(count).enumerate().map(|(n, (_, i, shape))| row(n, i, shape)).collect()
}

fn row(index: usize, i: &HloInstructionProto, shape: &ShapeProto) -> TensorRow {
    TensorRow {
        index,
        name: i.name.clone(),
        opcode: i.opcode.clone(),
        op_name: i.op_name().to_string(),
        shape: shape.brief(),
        bytes: shape.bytes(),
    }
}
