//! The training step beside its matrix products, for the configurations that fit two cores: one row for each `switchyard bench`.
//!
//! `cargo bench --bench step -- demo` measures one of them.

use anyhow::{Context, ensure};
use serde_json::Value;
use std::process::Command;

const CONFIGS: [&str; 2] = ["demo", "small"];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` runs benches too; they measure nothing there.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let named: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    println!("config  products GFLOP  peak GFLOP/s  step s (min, max)      step / products  compile s");
    for name in if named.is_empty() { CONFIGS.to_vec() } else { named } {
        row(name)?;
    }
    Ok(())
}

fn row(name: &str) -> anyhow::Result<()> {
    let path = format!("graphs/{name}.json");
    let output = Command::new(env!("CARGO_BIN_EXE_switchyard")).args(["bench", &path, "--json"]).output()?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let cost: Value = serde_json::from_slice(&output.stdout)?;
    let number = |pointer: &str| cost.pointer(pointer).and_then(Value::as_f64).context("a figure is missing");
    println!(
        "{name:<7} {:>14.1} {:>13.1}  {:.3} ({:.3}, {:.3}) {:>17.2} {:>10.1}",
        number("/flops/dot")? / 1e9,
        number("/peak_flops_per_second")? / 1e9,
        number("/step/median")?,
        number("/step/min")?,
        number("/step/max")?,
        number("/step_over_products")?,
        number("/compile_seconds")?,
    );
    Ok(())
}
