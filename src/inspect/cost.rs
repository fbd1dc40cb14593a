//! FLOPs and bytes of one execution, with XLA's conventions of counting.

use super::graph::{Graph, Use, Weight};
use super::report::{Flops, ScopeRow};
use super::scope::layer_kind;
use crate::hlo::HloInstructionProto;
use std::collections::BTreeMap;

/// The sums over a module.
pub struct Costs {
    pub flops: Flops,
    pub scopes: Vec<ScopeRow>,
    pub bytes_accessed: u64,
}

/// Counts every instruction as often as it runs.
pub fn costs(graph: &Graph, weights: &[Weight]) -> Costs {
    let mut flops = Flops::default();
    let mut bytes_accessed = 0u64;
    let mut scopes: BTreeMap<String, (Flops, Flops)> = BTreeMap::new();
    for ((c, computation), weight) in graph.all().zip(weights) {
        for i in computation.instructions.iter().filter(|_| weight.runs > 0) {
            let own = times(instruction_flops(graph, c, i), weight.runs);
            bytes_accessed = bytes_accessed
                .saturating_add(instruction_bytes(graph, c, i).saturating_mul(weight.in_memory));
            if own.total() > 0 {
                add(&mut flops, own);
                let (scope, backward) = layer_kind(i.op_name());
                let row = scopes.entry(scope).or_default();
                add(if backward { &mut row.1 } else { &mut row.0 }, own);
            }
        }
    }
    Costs { flops, scopes: scope_rows(scopes, flops), bytes_accessed }
}

fn scope_rows(scopes: BTreeMap<String, (Flops, Flops)>, all: Flops) -> Vec<ScopeRow> {
    let mut rows: Vec<ScopeRow> = scopes
        .into_iter()
        .map(|(scope, (forward, backward))| {
            let dot = forward.dot.saturating_add(backward.dot);
            ScopeRow { scope, forward, backward, dot_share: dot as f64 / (all.dot as f64).max(1.0) }
        })
        .collect();
    let most = |r: &ScopeRow| r.forward.total().saturating_add(r.backward.total());
    rows.sort_by(|a, b| most(b).cmp(&most(a)).then_with(|| a.scope.cmp(&b.scope)));
    rows
}

/// FLOPs of one run of one instruction; those of called computations are counted there.
fn instruction_flops(graph: &Graph, c: usize, i: &HloInstructionProto) -> Flops {
    let out = graph.shape(i).elements();
    let elementwise = |n: u64| Flops { elementwise: n, ..Default::default() };
    match i.opcode.as_str() {
        "dot" => Flops { dot: dot_flops(graph, c, i), ..Default::default() },
        opcode if TRANSCENDENTAL.contains(&opcode) => Flops { transcendental: out, ..Default::default() },
        opcode if ELEMENTWISE.contains(&opcode) => elementwise(out),
        "reduce" => {
            let results = graph.shape(i).leaves().first().map_or(0, |s| s.elements());
            let steps = graph.operand_shape(c, i, 0).elements().saturating_sub(results);
            times(applied(graph, i), steps)
        }
        "reduce-window" => {
            let sizes = i.window.as_deref().map(|w| w.dimensions.iter().map(|d| d.size.max(1) as u64));
            let window = sizes.map_or(1, |s| s.fold(1, u64::saturating_mul));
            times(applied(graph, i), out.saturating_mul(window - 1))
        }
        "map" => times(applied(graph, i), out),
        "scatter" => {
            let updates = i.operand_ids.len().saturating_sub(1);
            times(applied(graph, i), graph.operand_shape(c, i, updates).elements())
        }
        "sort" => {
            let operand = graph.operand_shape(c, i, 0);
            let dim = i.dimensions.first().and_then(|&d| operand.dimensions.get(usize::try_from(d).ok()?));
            let length = dim.map_or(1, |&d| u64::try_from(d).unwrap_or(1)).max(1);
            let levels = u64::from(length.next_power_of_two().trailing_zeros());
            elementwise(operand.elements().saturating_mul(levels))
        }
        "all-reduce" | "all-reduce-start" | "reduce-scatter" => times(applied(graph, i), out),
        _ => Flops::default(),
    }
}

/// Two per multiply-add: result elements times the sizes of the contracted dimensions.
pub fn dot_flops(graph: &Graph, c: usize, i: &HloInstructionProto) -> u64 {
    let lhs = graph.operand_shape(c, i, 0);
    let contracted = i.dot_dimension_numbers.as_deref().map(|d| d.lhs_contracting_dimensions.as_slice());
    let size = |&d: &i64| lhs.dimensions.get(usize::try_from(d).ok()?).and_then(|&n| u64::try_from(n).ok());
    let depth = contracted.unwrap_or_default().iter().filter_map(size).fold(1u64, u64::saturating_mul);
    graph.shape(i).elements().saturating_mul(depth).saturating_mul(2)
}

/// FLOPs of one application of the computation that is applied to elements.
fn applied(graph: &Graph, i: &HloInstructionProto) -> Flops {
    let mut sum = Flops::default();
    for (called, kind) in graph.calls(i) {
        let Some(computation) = graph.module.computations.get(called).filter(|_| kind == Use::PerElement)
        else {
            continue;
        };
        for inner in &computation.instructions {
            match inner.opcode.as_str() {
                o if TRANSCENDENTAL.contains(&o) => sum.transcendental = sum.transcendental.saturating_add(1),
                o if ELEMENTWISE.contains(&o) => sum.elementwise = sum.elementwise.saturating_add(1),
                _ => {}
            }
        }
    }
    sum
}

/// Bytes read and written by one run of one instruction, as if it were a kernel of its own.
fn instruction_bytes(graph: &Graph, c: usize, i: &HloInstructionProto) -> u64 {
    let out = graph.shape(i).bytes();
    let operand = |n: usize| graph.operand_shape(c, i, n).bytes();
    let twice = |n: u64| n.saturating_mul(2);
    match i.opcode.as_str() {
        "parameter" | "constant" | "tuple" | "get-tuple-element" | "bitcast" | "while" | "call"
        | "conditional" | "opt-barrier" | "after-all" | "partition-id" | "replica-id" => 0,
        "reshape" => 0, // a bitcast in the default layout
        "slice" | "dynamic-slice" => twice(out),
        "dynamic-update-slice" => twice(operand(1)),
        "gather" => twice(out).saturating_add(operand(1)),
        "scatter" => {
            let updates = i.operand_ids.len().saturating_sub(1);
            operand(updates).saturating_mul(3).saturating_add(operand(updates / 2))
        }
        _ => (0..i.operand_ids.len()).fold(out, |n, o| n.saturating_add(operand(o))),
    }
}

fn times(f: Flops, n: u64) -> Flops {
    Flops {
        dot: f.dot.saturating_mul(n),
        elementwise: f.elementwise.saturating_mul(n),
        transcendental: f.transcendental.saturating_mul(n),
    }
}

fn add(sum: &mut Flops, f: Flops) {
    sum.dot = sum.dot.saturating_add(f.dot);
    sum.elementwise = sum.elementwise.saturating_add(f.elementwise);
    sum.transcendental = sum.transcendental.saturating_add(f.transcendental);
}

/// Opcodes with one operation per element of the result.
pub const ELEMENTWISE: [&str; 29] = [
    "abs",
    "add",
    "and",
    "ceil",
    "clamp",
    "clz",
    "compare",
    "convert",
    "divide",
    "floor",
    "is-finite",
    "maximum",
    "minimum",
    "multiply",
    "negate",
    "not",
    "or",
    "popcnt",
    "remainder",
    "round-nearest-afz",
    "round-nearest-even",
    "reduce-precision",
    "select",
    "shift-left",
    "shift-right-arithmetic",
    "shift-right-logical",
    "sign",
    "subtract",
    "xor",
];

/// Opcodes that cost many operations per element.
pub const TRANSCENDENTAL: [&str; 16] = [
    "atan2",
    "cbrt",
    "cosine",
    "erf",
    "exponential",
    "exponential-minus-one",
    "log",
    "log-plus-one",
    "logistic",
    "power",
    "rsqrt",
    "sine",
    "sqrt",
    "tan",
    "tanh",
    "acos",
];
