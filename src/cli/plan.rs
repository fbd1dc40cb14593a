//! `plan`: ways to run a configuration on a topology, ranked.

use super::{Devices, Needs, aot as aot_command, common};
use crate::aot::{self, Axis, Candidate, Options, Search, Topology, Verdict};
use crate::inspect::{bytes_text, count_text};
use comfy_table::{Table, presets};
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;
const NOTHING_FITS: u8 = 1;

/// Rank ways to run a configuration on TPUs that are not here
#[derive(clap::Args)]
#[command(
    after_help = "Without --vary it tries model.remat and model.moe.dispatch. What cannot fit, or computes more than others at its very \
                  best, is not given to the compiler.\n\nExit status: 0 when something fits, 1 when nothing does."
)]
pub struct Args {
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Chips to plan for, such as v5e:4x4
    #[arg(long, value_name = "KIND:AxB")]
    topology: Topology,
    /// Values of a field to try, such as model.moe.capacity.train_factor=1.0,1.25 (may be given several times)
    #[arg(long = "vary", value_name = "KEY=A,B,..")]
    axes: Vec<Axis>,
    /// The program
    #[arg(long, default_value = "train_step", value_name = "NAME")]
    program: String,
    /// Ways that fit to get from the compiler; it is asked at most twice as often
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = common::at_least_one)]
    compile: usize,
    #[command(flatten)]
    compiler: aot_command::CompilerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let axes = if args.axes.is_empty() { default_axes() } else { args.axes };
    let search = Search { axes: &axes, program: &args.program, wanted: args.compile };
    let options: Options = args.compiler.options(args.topology)?;
    // A configuration that is wrong by itself is an error, not a row.
    args.config.load()?;
    let found =
        aot::plan(&search, &options, |settings| args.config.load_with(settings), |line| common::note(line));
    match args.json {
        true => common::say(serde_json::to_string_pretty(&found)?)?,
        false => common::say(table(&found))?,
    }
    let fits = found.iter().any(|candidate| candidate.verdict == Verdict::Fits);
    Ok(ExitCode::from(if fits { 0 } else { NOTHING_FITS }))
}

fn default_axes() -> Vec<Axis> {
    let axis = |key: &str, values: &[&str]| Axis {
        key: key.into(),
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    };
    vec![axis("model.remat", &["none", "dots", "full"]), axis("model.moe.dispatch", &["gather", "einsum"])]
}

fn table(found: &[Candidate]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "settings",
        "verdict",
        "dot FLOPs",
        "at least",
        "step (model)",
        "tokens/s (model)",
        "memory",
    ]);
    for candidate in found {
        let model = candidate.report.as_ref().and_then(|r| r.model.as_ref());
        let memory =
            candidate.report.as_ref().and_then(|r| r.compiler.as_ref()).map(|c| c.said.memory.total());
        let milliseconds = |s: f64| if s.is_finite() { format!("{:.2} ms", 1e3 * s) } else { String::new() };
        table.add_row([
            candidate.settings.join(" "),
            verdict(&candidate.verdict),
            candidate.graph.as_ref().map_or(String::new(), |g| count_text(g.flops.dot)),
            milliseconds(candidate.least_seconds),
            candidate.step_seconds().map_or(String::new(), milliseconds),
            model.map_or(String::new(), |m| count_text(m.tokens_per_second as u64)),
            memory.map_or(String::new(), bytes_text),
        ]);
    }
    table
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fits => "fits".into(),
        Verdict::TooLarge => "does not fit (compiler)".into(),
        Verdict::StateTooLarge => "state does not fit (graph)".into(),
        Verdict::NotCompiled => "not compiled".into(),
        Verdict::Refused(why) => format!("refused: {why}"),
    }
}
