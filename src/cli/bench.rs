//! `bench`: what a training step costs here.

use super::{Devices, Needs, common};
use crate::checkpoint;
use crate::measure::{self, Emission, MeasureError, StepCost, Turns};
use crate::report::{Summary, bytes_text};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure a training step: emission, XLA's compiler, step time beside its matrix products, memory
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Steps to time, after two that are not counted
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = common::at_least_one)]
    steps: usize,
    /// Measure the emission alone, which needs no device
    #[arg(long)]
    emission: bool,
    /// Measure the kinds of layers too, each cut out of the step and run alone
    #[arg(long, conflicts_with_all = ["emission", "turns"])]
    parts: bool,
    /// Run a step for each line of standard input and answer with a line of JSON: for measuring in turns with another program
    #[arg(long, conflicts_with_all = ["emission", "steps"])]
    turns: bool,
    /// Safetensors file with the batch of every step; by default random tokens
    #[arg(long, value_name = "FILE", requires = "turns")]
    inputs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: common::DeviceArgs,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.device.needs_if_any()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let config = args.config.load_for(args.device.target())?;
    if args.emission {
        let emission = measure::emission(&config, "train_step", args.steps)?;
        let mut table = Summary::default();
        emission_rows(&mut table, &emission);
        return print(args.json, &emission, &table);
    }
    let replicas = config.mesh.num_replicas();
    let open = || args.device.open(devices, replicas).map_err(|e| MeasureError::Device(e.into()));
    if args.turns {
        let batch = args.inputs.as_deref().map(checkpoint::read_tensors).transpose()?;
        return take_turns(Turns::new(open, &config, batch)?);
    }
    let cost = measure::step(open, &config, args.steps, args.parts)?;
    print(args.json, &cost, &table(&cost))
}

fn take_turns(mut turns: Turns) -> anyhow::Result<ExitCode> {
    common::say(serde_json::to_string(&turns.start())?)?;
    for line in std::io::stdin().lines() {
        line?;
        common::say(serde_json::to_string(&turns.turn()?)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(json: bool, value: &impl serde::Serialize, table: &Summary) -> anyhow::Result<ExitCode> {
    match json {
        true => common::say(serde_json::to_string_pretty(value)?)?,
        false => common::say(table.render())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn emission_rows(table: &mut Summary, emission: &Emission) {
    let seconds = &emission.seconds;
    table.row("emission", format!("{:.1} ms (best {:.1})", 1e3 * seconds.median, 1e3 * seconds.min));
    table.row("module", bytes_text(emission.module_bytes as u64));
    table.row("instructions", emission.instructions.to_string());
}

fn table(cost: &StepCost) -> Summary {
    let mut table = Summary::default();
    table.row("configuration", &cost.config).row("platform", &cost.platform);
    table.row("parameters", cost.parameters.to_string());
    emission_rows(&mut table, &cost.emission);
    let step = &cost.step;
    table
        .row("XLA compile", format!("{:.1} s", cost.compile_seconds))
        .row(format!("step, median of {}", step.runs), format!("{:.4} s", step.median))
        .row("step, min and max", format!("{:.4} s, {:.4} s", step.min, step.max))
        .row("tokens/s", format!("{:.0}", cost.tokens_per_second))
        .row("products", format!("{:.2} GFLOP", cost.flops.dot as f64 / 1e9))
        .row("other operations", format!("{:.2} GFLOP", (cost.flops.total() - cost.flops.dot) as f64 / 1e9))
        .row("peak of a large product", format!("{:.1} GFLOP/s", cost.peak_flops_per_second / 1e9))
        .row("share of the peak", format!("{:.1} %", 100.0 * cost.share_of_peak))
        .row("step / its products", format!("{:.2}", cost.step_over_products))
        .row("training state", bytes_text(cost.state_bytes));
    if let Some(peak) = cost.peak_process_bytes {
        let ratio = peak as f64 / cost.state_bytes.max(1) as f64;
        table.row("peak memory of the process", format!("{} ({ratio:.2} x state)", bytes_text(peak)));
    }
    if let Some(memory) = &cost.memory {
        let step = memory.state + memory.temporaries;
        let rows = [
            ("  in steps: libraries and client", bytes_text(memory.runtime)),
            ("  in steps: programs, left by the compiler", bytes_text(memory.programs)),
            ("  in steps: state", bytes_text(memory.state)),
            ("  in steps: activations, gradients", bytes_text(memory.temporaries)),
            (
                "state and what steps add",
                format!("{} ({:.2} x state)", bytes_text(step), memory.step_over_state()),
            ),
        ];
        rows.into_iter().for_each(|(name, value)| {
            table.row(name, value);
        });
    }
    if let Some(needed) = &cost.needed {
        table
            .row("has to be there: kept with rematerialisation", bytes_text(needed.kept))
            .row("has to be there: one run of blocks, computed again", bytes_text(needed.recomputed))
            .row("has to be there: largest result of a product", bytes_text(needed.product));
    }
    if let (Some(memory), Some(needed)) = (&cost.memory, &cost.needed) {
        let ratio = memory.step_over_needed(needed);
        table.row("state and what steps add / state and what has to be there", format!("{ratio:.2}"));
    }
    for part in &cost.parts {
        let share = 100.0 * part.seconds / step.median;
        table.row(
            format!("{}, alone", part.kind),
            format!("{:.4} s ({share:.1} % of the step)", part.seconds),
        );
    }
    table
}
