//! Cases for `make oracles`, which compares every derivative rule with JAX.
//!
//! A case is a graph with inputs and cotangents, our outputs and our vector-Jacobian products. Python rebuilds the graph
//! from its description with `jax.lax` alone and asks `jax.vjp` for the same. Without JAX the tests here show that every
//! case builds and evaluates, and that no rule lacks one.

mod case;
mod elementwise;
mod export;
mod moving;
mod nested;
mod replicas;

use case::{Case, Solved};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use switchyard::checkpoint::write_tensors;
use switchyard::ir::{BinaryOp, Op, UnaryOp};

/// The folder that `make oracles` names, where the cases go.
const FOLDER: &str = "SWITCHYARD_ORACLES";

fn cases() -> Vec<Case> {
    [elementwise::cases(), moving::cases(), nested::cases(), replicas::cases()].concat()
}

fn solve(case: &Case) -> Solved {
    case.solve().unwrap_or_else(|error| panic!("{}: {error:#}", case.name))
}

#[test]
fn every_case_has_one_finite_product_per_float_input() {
    for case in cases() {
        let solved = solve(&case);
        let floats = case.inputs[0].iter().filter(|x| x.ty().dtype.is_float()).count();
        for row in &solved.gradients {
            assert_eq!(row.len(), floats, "{}", case.name);
            let finite = row.iter().all(|g| g.to_f64().iter().all(|x| x.is_finite()));
            assert!(finite || case.infinite, "{}: {row:?}", case.name);
        }
    }
}

#[test]
fn names_are_unique() {
    let names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn every_differentiable_operation_has_a_case() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        export::operations(&solve(&case).graph, &mut seen);
    }
    let unary = UnaryOp::ALL.iter().map(|&op| Op::Unary(op)).filter(|op| *op != Op::Unary(UnaryOp::Not));
    let bits = [BinaryOp::And, BinaryOp::Or, BinaryOp::Xor, BinaryOp::ShiftLeft, BinaryOp::ShiftRight];
    let binary = BinaryOp::ALL.iter().filter(|op| !bits.contains(op)).map(|&op| Op::Binary(op));
    let elementwise = unary.chain(binary).map(|op| op.name());
    let others = [
        "select",
        "clamp",
        "convert",
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
        "optimization_barrier",
        "scan",
        "conditional",
        "call",
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
        "collective_permute",
    ];
    let missing: Vec<&str> = elementwise.chain(others).filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}; found {seen:?}");
}

#[test]
#[ignore = "writes files for Python: run `make oracles`"]
fn write_cases() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("the folder to write to"));
    let (mut tensors, mut index) = (vec![], vec![]);
    for case in cases() {
        let solved = solve(&case);
        let kinds = [
            ("input", &case.inputs),
            ("output", &solved.outputs),
            ("cotangent", &solved.cotangents),
            ("gradient", &solved.gradients),
        ];
        let mut counts = serde_json::Map::new();
        for (kind, rows) in kinds {
            counts.insert(kind.into(), rows[0].len().into());
            for (replica, row) in rows.iter().enumerate() {
                for (i, value) in row.iter().enumerate() {
                    tensors.push((format!("{}/{kind}/{replica}/{i}", case.name), value.clone()));
                }
            }
        }
        index.push(json!({
            "name": case.name,
            "rule": case.rule,
            "tolerance": case.tolerance,
            "replicas": case.inputs.len(),
            "counts": counts,
            "graph": export::graph(&solved.graph),
        }));
    }
    std::fs::write(folder.join("cases.json"), serde_json::to_string(&index).unwrap()).unwrap();
    write_tensors(&folder.join("cases.safetensors"), &tensors).unwrap();
    println!("{} cases written to {}", index.len(), folder.display());
}

#[test]
#[ignore = "writes files for Python: run `make oracles`"]
fn write_events() {
    use switchyard::report::{EventWriter, Record};
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("the folder to write to")).join("events");
    // Two writers as after a resume at step 3: what the first said of step 4 is forgotten.
    let mut first = EventWriter::create(&folder, 0).unwrap();
    for step in 1..=4 {
        first.scalars(step, [("loss", 10.0 / step as f64)]).unwrap();
    }
    drop(first);
    let mut second = EventWriter::create(&folder, 3).unwrap();
    let mut record = Record::new(4);
    record.push("loss", 7.5).push_layer("load", vec![0.25, 0.75, 0.5]);
    second.record(&record).unwrap();
}
