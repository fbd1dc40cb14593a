//! Random graphs with collectives on virtual CPU devices: XLA computes on each what the evaluator does.
#![cfg(feature = "cpu")]

mod common;

use common::{actions, exchange, xla_cpu};
use switchyard::runtime::cpu;

const DEVICES: usize = 4;

/// A graph over two, three or four replicas, whose operations are collectives about half of the time.
fn case(seed: u64, replicas: usize) -> common::sketch::Case {
    let mixed: Vec<actions::Action> = [actions::ALL, &exchange::ALL.repeat(5)].concat();
    actions::grown(seed, replicas, &mixed)
}

#[test]
fn replicas_compute_the_same_values_through_xla() {
    let backend = cpu::open(DEVICES).unwrap();
    let mut wrong = vec![];
    for replicas in 2..=DEVICES {
        let cases: Vec<_> = (0..100).map(|i| case(1000 * replicas as u64 + i, replicas)).collect();
        wrong.extend(cases.chunks(5).flat_map(|cases| xla_cpu::disagreements(&backend, cases)).take(5));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
