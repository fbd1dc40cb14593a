//! Random graphs over all operations: what inference, evaluation, passes and XLA say of them agrees.
//!
//! `PROPERTY_SEED` and `PROPERTY_GRAPHS` choose other graphs, or more.

mod common;

use common::actions;
use common::sketch::{Case, listing};
use std::collections::BTreeSet;
use switchyard::eval::evaluate;
use switchyard::hlo;
use switchyard::ir::{self, BinaryOp, Graph, UnaryOp};
use switchyard::lower::lower;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The random graphs of this run, for one replica.
fn cases() -> impl Iterator<Item = Case> {
    let first = setting("PROPERTY_SEED", 0);
    let count = setting("PROPERTY_GRAPHS", 2000);
    (first..first + count).map(|seed| actions::grown(seed, 1, actions::ALL))
}

#[test]
fn a_graph_has_the_values_of_its_operations() {
    for case in cases() {
        let outputs = evaluate(&case.graph, &case.inputs[0]);
        let outputs = outputs.unwrap_or_else(|error| panic!("seed {}: {error}", case.seed));
        let types: Vec<_> = outputs.iter().map(|x| x.ty().clone()).collect();
        assert_eq!(types, case.graph.output_types(), "seed {}", case.seed);
        assert_outputs(&case, &case.graph, "evaluation");
    }
}

/// The graph, which may be a transformed one, still has the outputs of the case.
fn assert_outputs(case: &Case, graph: &Graph, what: &str) {
    let outputs = evaluate(graph, &case.inputs[0]);
    let outputs = outputs.unwrap_or_else(|error| panic!("seed {}, {what}: {error}", case.seed));
    for (known, found) in case.outputs.iter().zip(&outputs) {
        if let Some(difference) = common::compare::difference(&known.rows[0], found, 0.0) {
            let (before, after) = (listing(&case.graph), listing(graph));
            panic!("seed {}, {what}, {}: {difference}\n{before}\n{after}", case.seed, known.value);
        }
    }
}

#[test]
fn passes_keep_values_and_validity() {
    type Pass = fn(&Graph) -> Graph;
    let passes: [(&str, Pass); 4] = [
        ("prune", ir::prune),
        ("simplify", ir::simplify),
        ("inline_calls", ir::inline_calls),
        ("optimize", ir::optimize),
    ];
    for case in cases() {
        for (name, pass) in passes {
            let graph = pass(&case.graph);
            ir::verify(&graph).unwrap_or_else(|error| panic!("seed {}, {name}: {error}", case.seed));
            assert_outputs(&case, &graph, name);
            assert!(pass(&graph) == graph, "seed {}: {name} has not settled", case.seed);
        }
    }
}

#[test]
fn modules_pass_through_bytes_and_text() {
    for case in cases().step_by(4) {
        let module = lower("test", &case.graph, &[], &[]);
        hlo::check(&module).unwrap_or_else(|error| panic!("seed {}: {error}", case.seed));
        assert_eq!(hlo::decode(&hlo::encode(&module)).unwrap(), module, "seed {}", case.seed);
        let text = hlo::print(&module);
        let parsed = hlo::parse(&text).unwrap_or_else(|error| panic!("seed {}: {error}\n{text}", case.seed));
        assert_eq!(hlo::print(&parsed), text, "seed {}", case.seed);
    }
}

#[test]
fn every_operation_appears_among_the_graphs() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        seen.extend(case.graph.nodes().iter().map(|node| node.op.name()));
    }
    let elementwise =
        UnaryOp::ALL.iter().map(|op| op.opcode()).chain(BinaryOp::ALL.iter().map(|op| op.opcode()));
    let missing: Vec<&str> =
        elementwise.chain(OTHERS.iter().copied()).filter(|op| !seen.contains(op)).collect();
    assert!(missing.is_empty(), "no graph has {missing:?}");
}

const OTHERS: [&str; 38] = [
    "parameter",
    "constant",
    "iota",
    "compare",
    "select",
    "clamp",
    "convert",
    "bitcast_convert",
    "stop_gradient",
    "broadcast_in_dim",
    "reshape",
    "transpose",
    "reverse",
    "slice",
    "pad",
    "concatenate",
    "dot_general",
    "reduce",
    "cumsum",
    "gather",
    "scatter",
    "dynamic_slice",
    "dynamic_update_slice",
    "sort",
    "rng_bit_generator",
    "optimization_barrier",
    "while",
    "scan",
    "conditional",
    "call",
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "collective_permute",
    "replica_id",
    "partition_id",
    "stop_gradient",
];

/// Graphs per compiled module: compilation costs more per module than per operation.
#[cfg(feature = "cpu")]
const PER_MODULE: usize = 8;

/// Has XLA translate plainly: ten thousand small kernels run once each. Other test programs use its defaults.
#[cfg(feature = "cpu")]
fn compile_fast() {
    let flags = std::env::var("XLA_FLAGS").unwrap_or_default();
    let plain = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false";
    // SAFETY: XLA has not started, and nothing else here reads the environment from C.
    unsafe { std::env::set_var("XLA_FLAGS", format!("{flags} {plain}")) };
}

#[cfg(feature = "cpu")]
#[test]
fn xla_accepts_the_graphs_and_computes_the_same_values() {
    compile_fast();
    let backend = switchyard::runtime::cpu::open(1).unwrap();
    let cases: Vec<Case> = cases().collect();
    if let [case] = &cases[..] {
        // XLA may end the process, so this comes first.
        eprintln!("{}", listing(&case.graph));
    }
    let modules = cases.chunks(PER_MODULE);
    let wrong: Vec<String> =
        modules.flat_map(|cases| common::xla_cpu::disagreements(&backend, cases)).take(5).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
