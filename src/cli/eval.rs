//! `eval`: the loss of a checkpoint on held-out text.

use super::{Devices, Needs, common};
use crate::data::Corpus;
use crate::train::{self, Session};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Device;

/// Measure the loss of a checkpoint on held-out text
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: common::SourceArgs,
    /// Checkpoint file, or run folder (its newest checkpoint is taken)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// The data of the run: its held-out share is measured
    #[arg(long, num_args = 1.., required = true, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Most batches
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = common::at_least_one)]
    batches: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = args.source.artifact()?;
    let (spec, _) = artifact.program("eval_step").context("the artifact has no program eval_step")?;
    let wanted: Vec<String> = spec.state_inputs().map(|port| port.name.clone()).collect();
    let checkpoint = common::open_checkpoint(&args.checkpoint)?;
    let config = &artifact.manifest.config;
    let corpus = Corpus::open(&train::data_spec(config, &args.data, config.batch.sequences))?;
    let mut session = Session::new(devices.open(1)?, artifact);
    common::restore(&mut session, &checkpoint, &wanted)?;
    common::prepare(&mut session, "eval_step")?;
    let loss = train::held_out(&mut session, &corpus, args.batches)?;
    if args.json {
        let value = serde_json::json!({
            "step": checkpoint.meta().step, "cross_entropy": loss.cross_entropy, "accuracy": loss.accuracy,
            "tokens": loss.tokens, "batches": loss.batches,
        });
        common::say(value)?;
    } else {
        common::say(format_args!(
            "step {}: {:.4} nats/token, accuracy {:.1} %, {} tokens in {} batches",
            checkpoint.meta().step,
            loss.cross_entropy,
            100.0 * loss.accuracy,
            loss.tokens,
            loss.batches
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
