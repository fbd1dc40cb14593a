//! `generate`: text from a checkpoint, greedy or sampled.

use super::{Devices, Needs, common};
use crate::config::{Architecture, RunConfig};
use crate::data::Tokenizer;
use crate::train::{self, Generator, Sampling, Session};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Device;

/// Generate text from a prompt.
///
/// A model trained on span corruption fills the sentinels of the prompt: `the <extra_id_0> sat on`. A causal model continues it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Checkpoint file, or run folder (its newest checkpoint is taken).
    #[arg(long)]
    checkpoint: PathBuf,
    /// The prompt.
    #[arg(long)]
    prompt: String,
    /// Sampling temperature; 0 takes the most probable token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample among the k most probable tokens only; 0 is all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Seed of sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most tokens to generate; the target length by default.
    #[arg(long)]
    max_tokens: Option<usize>,
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let config = one_row(args.config.load()?)?;
    let checkpoint = common::open_checkpoint(&args.checkpoint)?;
    let tokenizer = Tokenizer::open(&train::tokenizer_spec(&config), config.model.vocab_size as u32)?;
    let prompt = tokenizer.encode_prompt(&args.prompt)?;
    let artifact = common::compile(&config, &["next_token".into()])?;
    let wanted = parameters(&artifact)?;
    let mut session = Session::new(devices.open(1)?, artifact);
    common::restore(&mut session, &checkpoint, &wanted)?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, seed: args.seed };
    let mut generator = Generator::new(session, &prompt, tokenizer.eos(), sampling)?;
    let limit = args.max_tokens.unwrap_or(usize::MAX);
    let tokens = generator.run(limit)?;
    println!("{}", tokenizer.decode(&tokens));
    Ok(ExitCode::SUCCESS)
}

/// The same model for one sequence.
fn one_row(mut config: RunConfig) -> anyhow::Result<RunConfig> {
    config.batch.sequences = 1;
    config.batch.accumulation = 1;
    if config.model.architecture == Architecture::DecoderOnly {
        config.batch.input_length = 0;
    }
    config.resolved().context("the configuration does not allow a batch of one sequence")
}

fn parameters(artifact: &crate::artifact::Artifact) -> anyhow::Result<Vec<String>> {
    let (spec, _) = artifact.program("next_token").context("internal: next_token was not compiled")?;
    Ok(spec.state_inputs().map(|port| port.name.clone()).collect())
}
