//! The training step beside its matrix products, for the configurations that fit two cores.
//!
//! `cargo bench --bench step -- demo` measures one of them.

use switchyard::config::RunConfig;
use switchyard::measure::{self, MeasureError};
use switchyard::runtime::cpu;

const STEPS: usize = 9;
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
    let config = RunConfig::load(format!("graphs/{name}.json"))?;
    let open = || cpu::open_dyn(1).map_err(|e| MeasureError::Peak(e.into()));
    let cost = measure::step(open, &config, STEPS)?;
    println!(
        "{name:<7} {:>14.1} {:>13.1}  {:.3} ({:.3}, {:.3}) {:>17.2} {:>10.1}",
        cost.flops.dot as f64 / 1e9,
        cost.peak_flops_per_second / 1e9,
        cost.step.median,
        cost.step.min,
        cost.step.max,
        cost.step_over_products,
        cost.compile_seconds,
    );
    Ok(())
}
