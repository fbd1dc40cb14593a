//! The examples run and find what they promise.
#![cfg(feature = "cpu")]

use std::path::Path;
use std::process::Command;

fn run(name: &str, arguments: &[&str]) -> String {
    // `cargo test` builds examples beside the binaries.
    let folder = Path::new(env!("CARGO_BIN_EXE_switchyard")).with_file_name("examples");
    let program = folder.join(name);
    let mut command = Command::new(&program);
    // Compile fast: the programs are tiny.
    command.args(arguments).env("XLA_FLAGS", "--xla_backend_optimization_level=0");
    let output =
        command.output().unwrap_or_else(|e| panic!("{}: {e}; run all of `cargo test`", program.display()));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_graph_built_by_hand_has_the_gradient_of_the_finite_difference() {
    assert_eq!(run("differentiate", &[]).matches("by finite difference").count(), 6);
}

#[test]
fn a_layer_of_ones_own_learns() {
    assert!(run("custom_layer", &[]).contains("after the last"));
}

#[test]
fn training_can_be_driven_from_the_library() {
    let printed = run("train_from_library", &[]);
    let losses: Vec<f64> =
        printed.lines().filter_map(|line| line.split_whitespace().nth(3)?.parse().ok()).collect();
    assert_eq!(losses.len(), 20, "{printed}");
    assert!(losses[19] < losses[0], "{printed}");
}
