//! The collectives of a program on the links of a torus.

use super::chip::Torus;
use super::topology::Topology;
use crate::inspect::CollectiveRow;
use std::collections::BTreeSet;

/// Seconds in the collectives of one row, all groups at once, every dimension longer than 2 closed to a ring.
///
/// Rings along each dimension that a group spans, both directions at once, move what [`CollectiveRow::ring_bytes`] counts; in
/// a line the way back takes the other direction. An exchange of all with all loads each link of a ring with an eighth, and the
/// middle of a line with a quarter, of what its devices hold; the busiest dimension takes longest.
pub fn seconds(topology: &Topology, torus: &Torus, row: &CollectiveRow) -> f64 {
    let devices = row.group_size.unwrap_or(topology.num_devices() as u64).max(1) as f64;
    if devices < 2.0 {
        return 0.0;
    }
    let link = torus.link_bytes_per_s;
    let spans = spans(topology, row, devices);
    let rings = link * spans.iter().fold(0.0, |sum, span| sum + span.rings());
    let rest = (devices - 1.0) / devices;
    match row.opcode.as_str() {
        "all-to-all" => row.input_bytes as f64 * spans.iter().fold(0.0, |n, s| s.crossing().max(n)) / link,
        "collective-permute" | "collective-broadcast" => row.input_bytes as f64 / link,
        "all-reduce" => 2.0 * row.input_bytes as f64 * rest / rings,
        "all-gather" => row.output_bytes as f64 * rest / rings,
        _ => row.input_bytes as f64 * rest / rings,
    }
}

/// How a group of devices lies along one dimension of the torus.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    /// Places of the dimension that have members.
    places: f64,
    /// From one to the next.
    apart: f64,
    /// Whether they go all the way round a ring, not along a line.
    round: bool,
}

impl Span {
    /// Rings at once, each with all of a link: groups that lie within one another share theirs.
    fn rings(self) -> f64 {
        if self.round { 2.0 / self.apart } else { 1.0 / self.apart }
    }

    /// Bytes on the busiest link of an exchange of all with all, over what one device holds.
    fn crossing(self) -> f64 {
        self.places * self.apart / if self.round { 8.0 } else { 4.0 }
    }
}

/// The dimensions that the first group spans; one ring where the groups are not listed. Devices are numbered along the first
/// dimension first.
fn spans(topology: &Topology, row: &CollectiveRow, devices: f64) -> Vec<Span> {
    let mut stride = topology.chip.devices as u64;
    let mut spans = vec![];
    for &size in &topology.dims {
        let places: BTreeSet<u64> = row.group.iter().map(|id| id / stride % size as u64).collect();
        let apart = places.iter().zip(places.iter().skip(1)).map(|(a, b)| b - a).min();
        if let Some(apart) = apart {
            let round = size > 2 && places.len() as u64 * apart == size as u64;
            spans.push(Span { places: places.len() as f64, apart: apart as f64, round });
        }
        stride *= size as u64;
    }
    if spans.is_empty() { vec![Span { places: devices, apart: 1.0, round: true }] } else { spans }
}

#[cfg(test)]
mod tests {
    use super::super::model::collective_seconds;
    use super::*;

    fn row(opcode: &str, group_size: u64, bytes: u64) -> CollectiveRow {
        CollectiveRow {
            opcode: opcode.into(),
            group_size: Some(group_size),
            stride: None,
            group: vec![],
            instructions: 1,
            executions: 1,
            input_bytes: bytes,
            output_bytes: bytes,
            ring_bytes: None,
        }
    }

    #[test]
    fn collectives_take_the_time_of_their_links() {
        // v5e: 50 GB/s in each direction of each link; a ring uses both directions.
        let topology: Topology = "v5e:4x4".parse().unwrap();
        let seconds = |opcode, n| collective_seconds(&topology, &row(opcode, n, 1_000_000_000));
        assert_eq!(seconds("all-reduce", 4), 2.0 * 0.75 / 100.0);
        assert_eq!(seconds("reduce-scatter", 4), 0.75 / 100.0);
        assert_eq!(seconds("all-gather", 4), 0.75 / 100.0);
        assert_eq!(seconds("all-to-all", 4), 0.5 / 50.0);
        assert_eq!(seconds("collective-permute", 4), 1.0 / 50.0);
        assert_eq!(seconds("all-reduce", 1), 0.0);
    }

    #[test]
    fn a_group_uses_the_links_of_every_dimension_that_it_spans() {
        // v5p: 100 GB/s in each direction of each link.
        let topology: Topology = "v5p:4x4x8".parse().unwrap();
        let seconds = |opcode, group: Vec<u64>| {
            let row = CollectiveRow { group, ..row(opcode, 0, 1_000_000_000) };
            let row = CollectiveRow { group_size: Some(row.group.len() as u64), ..row };
            collective_seconds(&topology, &row) * 100.0
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        // All 128: three dimensions at once; the exchange crosses the longest ring of 8.
        near(seconds("all-reduce", (0..128).collect()), 2.0 * 127.0 / 128.0 / 6.0);
        near(seconds("all-to-all", (0..128).collect()), 1.0);
        // A ring of 4 along the first dimension, one of 8 along the last.
        near(seconds("all-to-all", (0..4).collect()), 0.5);
        near(seconds("all-gather", (0..128).step_by(16).collect()), 7.0 / 8.0 / 2.0);
        // Two of four neighbours: a line whose middle link carries half of what each holds.
        near(seconds("all-to-all", vec![0, 1]), 0.5);
        // Every second device along a ring of 4: two such groups share its links.
        near(seconds("all-reduce", vec![0, 2]), 1.0);
        near(seconds("all-to-all", vec![0, 2]), 0.5);
        near(seconds("all-reduce", vec![0, 1]), 1.0);
        // A ring of 4 beside a line of 2.
        near(seconds("all-reduce", (0..8).collect()), 2.0 * 7.0 / 8.0 / 3.0);
    }
}
