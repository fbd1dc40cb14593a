//! `aot`: compiles for a topology that need not be there, and reports what the compiler made of it.

use super::{Devices, Needs, common};
use crate::aot::{self, Options, Topology};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub const NEEDS: Needs = Needs::Nothing;
const DOES_NOT_FIT: u8 = 1;
/// Where an artifact keeps what a compiler made of it.
const FOLDER: &str = "aot";

/// Compile for TPUs or GPUs that are not here: does it fit, memory, FLOPs, estimated time
#[derive(clap::Args)]
#[command(
    after_help = "TPUs: v4:2x2x1, v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x1 and larger ones, by libtpu (`scripts/setup.sh \
                  --with-libtpu`). GPUs: a100-40:1, a100:4, h100:8, h200:8, b200:2x8 (two hosts of eight) and the like, by XLA's \
                  CUDA compiler (`scripts/setup.sh --with-cuda-compiler`). Neither needs the device. No figure is measured on one.\n\n\
                  Exit status: 0 when the program fits, 1 when it does not or cannot be compiled."
)]
pub struct Args {
    #[command(flatten)]
    source: common::SourceArgs,
    /// Chips to compile for, such as v5e:4x4 or h100:8
    #[arg(long, visible_alias = "target", value_name = "KIND:AxB")]
    topology: Topology,
    /// The program
    #[arg(long, default_value = "train_step", value_name = "NAME")]
    program: String,
    /// Folder for the executable, the optimized HLO and the report; `aot` in an artifact by default
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    compiler: CompilerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Who compiles, and for how long.
#[derive(clap::Args)]
pub struct CompilerArgs {
    /// The plugin that compiles; by default libtpu or XLA's CUDA plugin, where it is found
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,
    /// Seconds that the compiler gets
    #[arg(long, default_value_t = 3600, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl CompilerArgs {
    pub fn options(self, topology: Topology) -> anyhow::Result<Options> {
        let plugin = match self.plugin {
            Some(path) => path,
            None => aot::compiler(topology.chip)?,
        };
        let program =
            std::env::current_exe().context("this program cannot be found, to be started as a child")?;
        Ok(Options { program, plugin, topology, limit: Duration::from_secs(self.timeout) })
    }
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let options = args.compiler.options(args.topology)?;
    let artifact = args.source.artifact_for(Some(options.topology.chip.target()))?;
    common::note(format_args!("compiling {} for {} ...", args.program, options.topology));
    let out = args.out.or_else(|| Some(args.source.folder()?.join(FOLDER)));
    let report = aot::compile(&artifact, &args.program, &options, out.as_deref())?;
    match args.json {
        true => common::say(serde_json::to_string_pretty(&report)?)?,
        false => common::say(aot::render(&report).trim_end())?,
    }
    Ok(ExitCode::from(if report.fits { 0 } else { DOES_NOT_FIT }))
}

/// Compile one module for a topology, in a process of its own
#[derive(clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    task: aot::Task,
}

pub fn run_worker(args: WorkerArgs, _: &Devices) -> anyhow::Result<ExitCode> {
    aot::work(&args.task).context("the outcome cannot be written")?;
    Ok(ExitCode::SUCCESS)
}
