//! Bytes that move between devices, by kind of collective.

use super::graph::{Graph, Weight};
use super::report::CollectiveRow;
use crate::hlo::HloInstructionProto;
use std::collections::BTreeMap;

const KINDS: [&str; 6] = [
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
];

/// One row for each kind and group, in the order of their names and sizes.
pub fn rows(graph: &Graph, weights: &[Weight]) -> Vec<CollectiveRow> {
    let mut rows: BTreeMap<(&str, Option<u64>, Vec<u64>), CollectiveRow> = BTreeMap::new();
    for ((c, computation), weight) in graph.all().zip(weights) {
        for i in &computation.instructions {
            let base = i.opcode.strip_suffix("-start").unwrap_or(&i.opcode);
            let Some(&kind) = KINDS.iter().find(|k| **k == base) else { continue };
            let (group_size, group) = (group_size(i), first_group(i));
            let key = (kind, group_size, group.clone());
            let row = rows.entry(key).or_insert_with(|| empty(kind, group_size, group));
            count(row, graph, c, i, weight.runs);
        }
    }
    rows.into_values().collect()
}

fn empty(kind: &str, group_size: Option<u64>, group: Vec<u64>) -> CollectiveRow {
    let stride = match group[..] {
        [first, second, ..] => Some(first.abs_diff(second)),
        _ => None,
    };
    CollectiveRow {
        opcode: kind.into(),
        group_size,
        stride,
        group,
        instructions: 0,
        executions: 0,
        input_bytes: 0,
        output_bytes: 0,
        ring_bytes: group_size.map(|_| 0),
    }
}

fn count(row: &mut CollectiveRow, graph: &Graph, c: usize, i: &HloInstructionProto, runs: u64) {
    let input =
        (0..i.operand_ids.len()).fold(0u64, |n, o| n.saturating_add(graph.operand_shape(c, i, o).bytes()));
    // The start of an asynchronous collective returns its operands too.
    let output = match i.opcode.ends_with("-start") && i.opcode != "all-reduce-start" {
        true => graph.shape(i).bytes().saturating_sub(input),
        false => graph.shape(i).bytes(),
    };
    row.instructions += 1;
    row.executions = row.executions.saturating_add(runs);
    row.input_bytes = row.input_bytes.saturating_add(input.saturating_mul(runs));
    row.output_bytes = row.output_bytes.saturating_add(output.saturating_mul(runs));
    if let (Some(sum), Some(size)) = (row.ring_bytes, row.group_size) {
        let sent = ring_bytes(&row.opcode, input, output, size).saturating_mul(runs);
        row.ring_bytes = Some(sum.saturating_add(sent));
    }
}

/// Bytes each of `size` devices sends in a ring: (n-1)/n of the whole, twice for an all-reduce.
fn ring_bytes(kind: &str, input: u64, output: u64, size: u64) -> u64 {
    let part = |bytes: u64| (u128::from(bytes) * u128::from(size - 1) / u128::from(size)) as u64;
    match kind {
        "all-reduce" => part(input).saturating_mul(2),
        "all-gather" => part(output),
        "reduce-scatter" | "all-to-all" => part(input),
        _ => input,
    }
}

/// The devices of the first group, where the instruction lists them.
fn first_group(i: &HloInstructionProto) -> Vec<u64> {
    let list = i.collective_device_list.as_deref();
    let groups = list.map_or(&i.replica_groups, |l| &l.replica_groups);
    let ids = groups.first().map_or(&[][..], |group| &group.replica_ids);
    ids.iter().filter_map(|&id| u64::try_from(id).ok()).collect()
}

/// Devices per group; a permute has no groups, its pairs count as two.
fn group_size(i: &HloInstructionProto) -> Option<u64> {
    if i.opcode.starts_with("collective-permute") {
        return Some(2);
    }
    let list = i.collective_device_list.as_deref();
    let iota =
        list.and_then(|l| l.iota_replica_group_list.as_ref()).or(i.iota_collective_device_list.as_deref());
    let size = match iota {
        Some(iota) => u64::try_from(iota.num_devices_per_group).ok(),
        None => {
            let groups = list.map_or(&i.replica_groups, |l| &l.replica_groups);
            groups.iter().map(|g| g.replica_ids.len() as u64).max()
        }
    };
    size.filter(|&n| n > 0)
}
