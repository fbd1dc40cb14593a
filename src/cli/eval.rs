//! `eval`: the loss of a checkpoint on held-out text.

use super::{Devices, Needs, common};
use crate::config::{Objective, RunConfig};
use crate::data::{Corpus, DataSpec};
use crate::train::{self, GreedyMatch, HeldOutLoss, HeldOutText, Session};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::ExitCode;

/// Most batches of a share, if nothing else is asked for.
const SHARE_BATCHES: usize = 64;

/// Measure loss, token accuracy and exact match of a checkpoint on held-out text
#[derive(clap::Args)]
#[command(
    after_help = "Accuracy is the share of target tokens whose most probable prediction is right, given the true tokens before \
                  them; exact match the share of target sequences of which that is so for every token."
)]
pub struct Args {
    #[command(flatten)]
    source: common::SourceArgs,
    /// Checkpoint file, or run folder (its newest checkpoint is taken)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// The data of the run: its held-out share is measured
    #[arg(long, num_args = 1.., required_unless_present = "held_out", value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Text that was not trained on: all of it is measured
    #[arg(long, num_args = 1.., conflicts_with = "data", value_name = "PATH")]
    held_out: Vec<PathBuf>,
    /// Most batches; by default 64 of --data, all of --held-out
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    batches: Option<usize>,
    /// Let the model write the targets of pairs too, greedily, and count those that are right to the end
    #[arg(long)]
    greedy: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: common::DeviceArgs,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.device.needs()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = args.source.artifact()?;
    let (spec, _) = artifact.program("eval_step").context("the artifact has no program eval_step")?;
    let wanted = spec.state_taken();
    let checkpoint = common::open_checkpoint(&args.checkpoint)?;
    let (text, batches) = held_out_text(&artifact.manifest.config, &args)?;
    if args.greedy {
        can_generate(&artifact.manifest.config)?;
    }
    let rows = artifact.manifest.config.batch.sequences_per_microbatch();
    let mut session = Session::new(args.device.open(devices, artifact.manifest.num_replicas)?, artifact);
    common::restore(&mut session, &checkpoint, &wanted)?;
    common::prepare(&mut session, "eval_step")?;
    let loss = train::held_out(&mut session, &text, batches)?;
    let greedy = match args.greedy {
        true => Some(written(session, &text, batches.saturating_mul(rows))?),
        false => None,
    };
    let step = checkpoint.meta().step;
    match args.json {
        true => common::say(as_json(step, &loss, greedy))?,
        false => common::say(as_text(step, &loss, greedy))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what no targets can be generated for.
fn can_generate(config: &RunConfig) -> anyhow::Result<()> {
    if !matches!(config.data.objective, Objective::TextToText { .. }) {
        bail!("--greedy compares with the targets of pairs, and data.objective.kind is not text_to_text");
    }
    Ok(())
}

/// The targets that the model writes exactly, of at most so many pairs.
fn written(mut session: Session, text: &HeldOutText, most: usize) -> anyhow::Result<GreedyMatch> {
    for program in ["prefill", "decode_step"] {
        common::prepare(&mut session, program)?;
    }
    Ok(train::greedy_match(session, text, most)?)
}

/// What to measure on, and the most batches of it.
fn held_out_text(config: &RunConfig, args: &Args) -> anyhow::Result<(HeldOutText, usize)> {
    let paths = if args.held_out.is_empty() { &args.data } else { &args.held_out };
    let spec = train::data_spec(config, paths, config.batch.sequences);
    Ok(match args.held_out.is_empty() {
        true => (HeldOutText::Share(Corpus::open(&spec)?), args.batches.unwrap_or(SHARE_BATCHES)),
        false => {
            let corpus = Corpus::open(&DataSpec { held_out: 0.0, ..spec })?;
            (HeldOutText::Whole(corpus), args.batches.unwrap_or(usize::MAX))
        }
    })
}

fn as_json(step: u64, loss: &HeldOutLoss, greedy: Option<GreedyMatch>) -> serde_json::Value {
    let mut found = serde_json::json!({
        "step": step, "cross_entropy": loss.cross_entropy, "accuracy": loss.accuracy,
        "exact_match": loss.exact_match, "tokens": loss.tokens, "sequences": loss.sequences,
        "truncated_inputs": loss.truncated.inputs, "truncated_targets": loss.truncated.targets,
        "batches": loss.batches,
    });
    if let Some(greedy) = greedy {
        found["greedy_exact_match"] = greedy.share().into();
        found["greedy_pairs"] = greedy.pairs.into();
    }
    found
}

fn as_text(step: u64, loss: &HeldOutLoss, greedy: Option<GreedyMatch>) -> String {
    let HeldOutLoss { cross_entropy, tokens, sequences, batches, truncated, .. } = loss;
    let (accuracy, exact) = (100.0 * loss.accuracy, 100.0 * loss.exact_match);
    let mut text = format!(
        "step {step}: {cross_entropy:.4} nats/token, accuracy {accuracy:.1} %, exact match {exact:.1} %, {tokens} tokens of \
         {sequences} sequences in {batches} batches"
    );
    if let Some(greedy) = greedy {
        text += &format!("; {} of {} targets written greedily", greedy.exact, greedy.pairs);
    }
    if truncated.inputs + truncated.targets > 0 {
        text += &format!("; truncated: {} inputs, {} targets", truncated.inputs, truncated.targets);
    }
    text
}
