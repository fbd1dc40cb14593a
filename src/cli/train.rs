//! `train`: text to a checkpoint.

use super::{Devices, Needs, common};
use crate::artifact::Artifact;
use crate::config::{RunConfig, Schedule, Target};
use crate::train::{self, Initial, Options, Teacher};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell reports for a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Train on text; checkpoints, metrics and a picture come into one folder
#[derive(clap::Args)]
#[command(
    after_help = "Ctrl-C ends the run after the step at hand and saves it (exit status 130); --resume goes on from there, bit \
                  for bit. A second Ctrl-C ends it at once; then the last checkpoint counts."
)]
pub struct Args {
    #[command(flatten)]
    source: common::SourceArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// How a run goes.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Text files, JSON lines files and folders to learn from
    #[arg(long, num_args = 1.., required = true, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Text to evaluate on; by default a share of the data, data.held_out, is kept for that
    #[arg(long, num_args = 1.., value_name = "PATH")]
    held_out: Vec<PathBuf>,
    /// Start from the parameters of a checkpoint or run folder, with a new optimizer
    #[arg(long, value_name = "PATH", conflicts_with = "resume")]
    pub init_from: Option<PathBuf>,
    /// Number of the first step, where a schedule is to go on from that of the checkpoint
    #[arg(long, default_value_t = 0, value_name = "N", requires = "init_from")]
    init_step: u64,
    /// Steps of the whole run; by default the total_steps of a cosine schedule
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the newest checkpoint of the folder
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// Newest checkpoints to keep
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = common::at_least_one)]
    keep_checkpoints: usize,
    /// Steps between evaluations on held-out text
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: u64,
    /// Most batches of an evaluation
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = common::at_least_one)]
    eval_batches: usize,
    #[command(flatten)]
    device: common::DeviceArgs,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.run.needs()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = args.source.artifact_for(args.run.target())?;
    args.run.run(devices, artifact, None)
}

impl RunArgs {
    /// The compiler of the device that was named.
    pub fn target(&self) -> Option<Target> {
        self.device.target()
    }

    pub fn needs(&self) -> Needs {
        self.device.needs()
    }

    fn options(self, config: &RunConfig, teacher: Option<Teacher>) -> anyhow::Result<Options> {
        let steps = self.steps.or_else(|| total_steps(config));
        let initial = |path: PathBuf| -> anyhow::Result<Initial> {
            let checkpoint = common::open_tensors(&path)?.path().to_path_buf();
            Ok(Initial { checkpoint, step: self.init_step })
        };
        Ok(Options {
            data: self.data,
            held_out: self.held_out,
            initial: self.init_from.map(initial).transpose()?,
            teacher,
            steps: steps.context("give --steps: this schedule does not say how many")?,
            out: self.out,
            resume: self.resume,
            checkpoint_every: self.checkpoint_every,
            keep_checkpoints: self.keep_checkpoints,
            eval_every: self.eval_every,
            eval_batches: self.eval_batches,
        })
    }

    /// Trains the model of an artifact.
    pub fn run(
        self,
        devices: &Devices,
        artifact: Artifact,
        teacher: Option<Teacher>,
    ) -> anyhow::Result<ExitCode> {
        let device = self.device.clone();
        let options = self.options(&artifact.manifest.config, teacher)?;
        train(&device, devices, artifact, &options)
    }
}

fn train(
    device: &common::DeviceArgs,
    devices: &Devices,
    artifact: Artifact,
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || interrupt(&asked)).context("no handler for Ctrl-C")?;
    let backend = device.open(devices, artifact.manifest.num_replicas)?;
    let outcome = train::train(backend, artifact, options, &stop)?;
    common::say(&outcome.summary)?;
    common::say(format_args!(
        "checkpoint {} (state {})",
        outcome.checkpoint.display(),
        outcome.state_digest
    ))?;
    if outcome.interrupted {
        let (step, steps) = (outcome.step, options.steps);
        common::say(format_args!("stopped at step {step} of {steps}; go on with --resume"))?;
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the run to end; asked a second time, ends the process. Checkpoints appear whole or not at all, so none is lost.
fn interrupt(stop: &AtomicBool) {
    if stop.swap(true, Ordering::SeqCst) {
        // SAFETY: ends the process at once, without the exit handlers of libraries whose threads are still at work.
        unsafe { libc::_exit(INTERRUPTED.into()) }
    }
    common::note("stopping after the step at hand ...");
}

/// The steps that the schedule is made for.
fn total_steps(config: &RunConfig) -> Option<u64> {
    match config.schedule {
        Schedule::Cosine { total_steps, .. } => Some(total_steps),
        Schedule::InverseSquareRoot { .. } | Schedule::Constant { .. } => None,
    }
}
