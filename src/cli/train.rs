//! `train`: text to a checkpoint.

use super::{Devices, Needs, common};
use crate::train::{self, Options};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub const NEEDS: Needs = Needs::Device;
/// What a shell reports for a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Train on text. Ctrl-C ends the run after the step at hand and saves it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: common::SourceArgs,
    /// Text files, JSON lines files and folders to learn from.
    #[arg(long, num_args = 1.., required = true, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Steps of the whole run.
    #[arg(long)]
    steps: u64,
    /// Folder of the run: checkpoints, metrics, artifact, picture.
    #[arg(long)]
    out: PathBuf,
    /// Go on from the newest checkpoint of the folder.
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 1000, value_name = "STEPS")]
    checkpoint_every: u64,
    /// Newest checkpoints to keep.
    #[arg(long, default_value_t = 3, value_name = "N")]
    keep_checkpoints: usize,
    /// Steps between evaluations on held-out text.
    #[arg(long, default_value_t = 100, value_name = "STEPS")]
    eval_every: u64,
    /// Most batches of an evaluation.
    #[arg(long, default_value_t = 8, value_name = "N")]
    eval_batches: usize,
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = args.source.artifact()?;
    let options = Options {
        data: args.data,
        steps: args.steps,
        out: args.out,
        resume: args.resume,
        checkpoint_every: args.checkpoint_every,
        keep_checkpoints: args.keep_checkpoints,
        eval_every: args.eval_every,
        eval_batches: args.eval_batches,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst)).context("no handler for Ctrl-C")?;
    let outcome = train::train(devices.open(1)?, artifact, &options, &stop)?;
    println!("{}", outcome.summary);
    println!("checkpoint {} (state {})", outcome.checkpoint.display(), outcome.state_digest);
    if outcome.interrupted {
        println!("stopped at step {} of {}; go on with --resume", outcome.step, options.steps);
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}
