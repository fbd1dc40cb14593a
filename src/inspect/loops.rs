//! Trip counts of `while` loops that count an integer up to a constant.

use super::graph::{Graph, Weight};
use super::report::LoopRow;
use crate::hlo::{HloInstructionProto, scalar_integer};
use std::collections::HashMap;

/// The loops of a module with the trips that follow from their text.
pub struct Loops {
    rows: Vec<(usize, i64, String, String, Option<u64>)>,
    trips: HashMap<(usize, i64), Option<u64>>,
}

/// Finds all loops.
pub fn loops(graph: &Graph) -> Loops {
    let mut out = Loops { rows: vec![], trips: HashMap::new() };
    for (c, computation) in graph.all() {
        for i in computation.instructions.iter().filter(|i| i.opcode == "while") {
            let trips = configured(i).or_else(|| derived(graph, c, i));
            out.rows.push((c, i.id, i.name.clone(), i.op_name().to_string(), trips));
            out.trips.insert((c, i.id), trips);
        }
    }
    out
}

impl Loops {
    /// How often a body (or, once more, a condition) runs per execution of the loop.
    pub fn trips(&self, computation: usize, id: i64, called: usize, graph: &Graph) -> u64 {
        let trips = self.trip_count(computation, id);
        let is_condition = graph
            .instruction(computation, id)
            .and_then(|i| i.called_computation_ids.get(1))
            .is_some_and(|&condition| graph.computation(condition) == Some(called));
        match trips {
            Some(n) if is_condition => n.saturating_add(1),
            Some(n) => n,
            None => 1,
        }
    }

    /// Trips of one execution of this loop, where they are known.
    pub fn trip_count(&self, computation: usize, id: i64) -> Option<u64> {
        self.trips.get(&(computation, id)).copied().flatten()
    }

    pub fn rows(&self, weights: &[Weight]) -> Vec<LoopRow> {
        let row = |(c, _, name, op_name, trip_count): &(usize, i64, String, String, Option<u64>)| LoopRow {
            name: name.clone(),
            op_name: op_name.clone(),
            trip_count: *trip_count,
            executions: weights.get(*c).map_or(0, |w| w.runs),
        };
        self.rows.iter().map(row).collect()
    }
}

/// What XLA itself has noted: `"known_trip_count":{"n":"5"}`.
fn configured(i: &HloInstructionProto) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_slice(&i.backend_config).ok()?;
    config.get("known_trip_count")?.get("n")?.as_str()?.parse().ok()
}

/// `while (i < N) i += step`, from the condition, the body and the first value.
fn derived(graph: &Graph, c: usize, i: &HloInstructionProto) -> Option<u64> {
    let [body, condition] = *i.called_computation_ids.as_slice() else { return None };
    let (body, condition) = (graph.computation(body)?, graph.computation(condition)?);
    let compare = graph.root(condition).filter(|r| r.opcode == "compare")?;
    let side = |n| Some(uncopied(graph, condition, graph.operand(condition, compare, n)?));
    let (lhs, rhs) = (side(0)?, side(1)?);
    let (slot, limit, direction) = match (carried(graph, condition, lhs), carried(graph, condition, rhs)) {
        (Some(slot), None) => (slot, constant(rhs)?, compare.comparison_direction.as_str()),
        (None, Some(slot)) => (slot, constant(lhs)?, mirrored(&compare.comparison_direction)),
        _ => return None,
    };
    let step = step(graph, body, slot)?;
    let start = constant(tuple_element(graph, c, graph.operand(c, i, 0)?, slot)?)?;
    let distance = match direction {
        "LT" => limit.checked_sub(start)?,
        "LE" => limit.checked_sub(start)?.checked_add(1)?,
        _ => return None,
    };
    (step > 0).then(|| u64::try_from(distance).unwrap_or(0).div_ceil(step as u64))
}

fn mirrored(direction: &str) -> &'static str {
    match direction {
        "GT" => "LT",
        "GE" => "LE",
        _ => "",
    }
}

/// The tuple index, if this is an element of the computation's parameter.
fn carried(graph: &Graph, c: usize, i: &HloInstructionProto) -> Option<i64> {
    let of = graph.operand(c, i, 0)?;
    (i.opcode == "get-tuple-element" && of.opcode == "parameter").then_some(i.tuple_index)
}

fn constant(i: &HloInstructionProto) -> Option<i64> {
    scalar_integer(i.literal.as_deref()?)
}

/// What the body adds to this element of its parameter.
fn step(graph: &Graph, body: usize, slot: i64) -> Option<i64> {
    let next = tuple_element(graph, body, graph.root(body)?, slot)?;
    if next.opcode != "add" {
        return None;
    }
    let side = |n| Some(uncopied(graph, body, graph.operand(body, next, n)?));
    let (lhs, rhs) = (side(0)?, side(1)?);
    let is_slot = |i| carried(graph, body, i) == Some(slot);
    match (is_slot(lhs), is_slot(rhs)) {
        (true, false) => constant(rhs),
        (false, true) => constant(lhs),
        _ => None,
    }
}

/// The instruction that makes this element of a tuple, seen through barriers and copies of the element.
fn tuple_element<'a>(
    graph: &Graph<'a>,
    c: usize,
    mut tuple: &'a HloInstructionProto,
    slot: i64,
) -> Option<&'a HloInstructionProto> {
    while tuple.opcode == "opt-barrier" || tuple.opcode == "copy" {
        tuple = graph.operand(c, tuple, 0)?;
    }
    if tuple.opcode != "tuple" {
        return None;
    }
    let element = graph.operand(c, tuple, usize::try_from(slot).ok()?)?;
    Some(uncopied(graph, c, element))
}

/// What a chain of copies copies: a compiler moves even counters between memories.
fn uncopied<'a>(graph: &Graph<'a>, c: usize, mut i: &'a HloInstructionProto) -> &'a HloInstructionProto {
    while matches!(i.opcode.as_str(), "copy" | "copy-start" | "copy-done")
        && let Some(of) = graph.operand(c, i, 0)
    {
        i = of;
    }
    i
}
