//! Time of collectives among GPUs: links from each card to all others of its host, a network adapter of each to other hosts.

use super::card::Card;
use super::topology::Topology;
use crate::inspect::CollectiveRow;

/// Seconds in the collectives of one row, all groups at once.
///
/// Within a host a card sends to all others at once. Rings through several hosts cross the network as often as the group has
/// cards in a host, each time through another card's adapter; an exchange of all with all sends through the adapter what is
/// meant for other hosts.
pub fn seconds(topology: &Topology, card: &Card, row: &CollectiveRow) -> f64 {
    let devices = row.group_size.unwrap_or(topology.num_devices() as u64).max(1);
    if devices < 2 {
        return 0.0;
    }
    let (all, near) = (devices as f64, on_one_host(topology, row, devices) as f64);
    let (nvlink, adapter) = (card.nvlink_bytes_per_s, card.network_bytes_per_s);
    let alone = near == all;
    let ring = if alone { nvlink } else { nvlink.min(near * adapter) };
    let (input, output, rest) = (row.input_bytes as f64, row.output_bytes as f64, (all - 1.0) / all);
    match row.opcode.as_str() {
        "all-to-all" => {
            let (inside, outside) = (input * (near - 1.0) / all, input * (all - near) / all);
            (inside / nvlink).max(outside / adapter)
        }
        "collective-permute" | "collective-broadcast" => input / if alone { nvlink } else { adapter },
        "all-reduce" => 2.0 * input * rest / ring,
        "all-gather" => output * rest / ring,
        _ => input * rest / ring,
    }
}

/// Members of the first group that share a host with its first; neighbours in number where the groups are not listed.
fn on_one_host(topology: &Topology, row: &CollectiveRow, devices: u64) -> u64 {
    let cards = topology.dims.last().map_or(1, |&n| n as u64);
    match row.group.first() {
        Some(first) => row.group.iter().filter(|id| *id / cards == first / cards).count() as u64,
        None => devices.min(cards),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::collective_seconds;
    use super::*;

    /// One GB among the devices of a group.
    fn seconds(topology: &str, opcode: &str, group: impl IntoIterator<Item = u64>) -> f64 {
        let group: Vec<u64> = group.into_iter().collect();
        let row = CollectiveRow {
            opcode: opcode.into(),
            group_size: Some(group.len() as u64),
            stride: None,
            group,
            instructions: 1,
            executions: 1,
            input_bytes: 1_000_000_000,
            output_bytes: 1_000_000_000,
            ring_bytes: None,
        };
        collective_seconds(&topology.parse().unwrap(), &row)
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn within_a_host_a_card_sends_at_the_rate_of_its_links() {
        // h100: 450 GB/s in each direction.
        near(seconds("h100:8", "all-reduce", 0..8), 2.0 * 7.0 / 8.0 / 450.0);
        near(seconds("h100:8", "all-gather", 0..8), 7.0 / 8.0 / 450.0);
        near(seconds("h100:8", "reduce-scatter", 0..4), 3.0 / 4.0 / 450.0);
        near(seconds("h100:8", "all-to-all", 0..8), 7.0 / 8.0 / 450.0);
        near(seconds("h100:8", "all-reduce", 0..1), 0.0);
    }

    #[test]
    fn between_hosts_the_network_adapters_decide() {
        // a100: 300 GB/s within a host, 25 GB/s for each of its eight adapters: 200 GB/s together.
        near(seconds("a100:2x8", "all-reduce", 0..16), 2.0 * 15.0 / 16.0 / 200.0);
        near(seconds("a100:2x8", "all-to-all", 0..16), 8.0 / 16.0 / 25.0);
        near(seconds("a100:2x8", "all-gather", 8..16), 7.0 / 8.0 / 300.0);
        // Two of two hosts, four of two.
        near(seconds("a100:2x8", "all-reduce", [3, 11]), 1.0 / 25.0);
        near(seconds("a100:2x8", "all-gather", [0, 4, 8, 12]), 3.0 / 4.0 / 50.0);
        // b200: 900 GB/s within a host, eight times 50 GB/s between them.
        near(seconds("b200:2x8", "all-reduce", 0..16), 2.0 * 15.0 / 16.0 / 400.0);
    }
}
