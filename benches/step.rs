//! Training steps beside their matrix products, and how they grow with depth and experts: one row for each `switchyard bench`.
//!
//! `cargo bench --bench step -- depth` makes one of the tables.

use anyhow::{Context, ensure};
use serde_json::Value;
use std::process::Command;

/// A table: rows by label, each a configuration and what it changes.
struct Table {
    name: &'static str,
    rows: &'static [(&'static str, &'static str, &'static [&'static str])],
}

/// The size that peers are compared at.
const PEER_SIZE: [&str; 3] =
    ["model.num_encoder_layers=6", "model.num_decoder_layers=6", "batch.target_length=64"];

const TABLES: [Table; 4] = [
    Table {
        name: "step",
        rows: &[
            ("demo", "demo", &[]),
            ("small, 4+4 blocks", "small", &[]),
            ("small, 6+6 blocks", "small", &PEER_SIZE),
        ],
    },
    Table {
        name: "depth",
        rows: &[
            ("2+2 blocks", "demo", &["model.num_encoder_layers=2", "model.num_decoder_layers=2"]),
            ("12+12 blocks", "demo", &["model.num_encoder_layers=12", "model.num_decoder_layers=12"]),
        ],
    },
    Table {
        name: "experts",
        rows: &[
            ("8 experts", "demo", &["model.moe.num_experts=8"]),
            ("16 experts", "demo", &["model.moe.num_experts=16"]),
            ("32 experts", "demo", &["model.moe.num_experts=32"]),
            ("64 experts", "demo", &["model.moe.num_experts=64"]),
            ("128 experts", "demo", &["model.moe.num_experts=128"]),
            ("256 experts", "demo", &["model.moe.num_experts=256"]),
        ],
    },
    Table {
        name: "dense",
        rows: &[
            ("8 experts, one per token", "small", &PEER_SIZE),
            (
                "dense, equal FLOPs per token",
                "small",
                &[PEER_SIZE[0], PEER_SIZE[1], PEER_SIZE[2], "model.moe.num_experts=0"],
            ),
        ],
    },
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` runs benches too; they measure nothing there.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let named: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    for table in TABLES.iter().filter(|table| named.is_empty() || named.contains(&table.name)) {
        println!(
            "\n| {} | products GFLOP | peak GFLOP/s | step s (min, max) | step / products | tokens/s | emission ms | XLA compile s | peak memory / state |",
            table.name
        );
        println!("|{}", " --- |".repeat(9));
        table.rows.iter().try_for_each(|(label, config, changes)| row(label, config, changes))?;
    }
    Ok(())
}

fn row(label: &str, config: &str, changes: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["bench", &format!("graphs/{config}.json"), "--json", "--steps", "5"]);
    for change in changes {
        command.args(["--set", change]);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "{label}: {}", String::from_utf8_lossy(&output.stderr));
    let cost: Value = serde_json::from_slice(&output.stdout)?;
    let number = |pointer: &str| cost.pointer(pointer).and_then(Value::as_f64).context("a figure is missing");
    println!(
        "| {label} | {:.1} | {:.0} | {:.3} ({:.3}, {:.3}) | {:.2} | {:.0} | {:.0} | {:.1} | {:.2} |",
        number("/flops/dot")? / 1e9,
        number("/peak_flops_per_second")? / 1e9,
        number("/step/median")?,
        number("/step/min")?,
        number("/step/max")?,
        number("/step_over_products")?,
        number("/tokens_per_second")?,
        1e3 * number("/emission/seconds/median")?,
        number("/compile_seconds")?,
        number("/peak_process_bytes")? / number("/state_bytes")?,
    );
    Ok(())
}
