//! `generate`: text from a checkpoint, greedy or sampled.

use super::{Devices, Needs, common};
use crate::config::RunConfig;
use crate::data::Tokenizer;
use crate::train::{Generator, Sampling, Session};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;

/// Generate text from a prompt, greedily or sampled
#[derive(clap::Args)]
#[command(
    after_help = "A model trained on span corruption fills the sentinels of the prompt, as in 'the <extra_id_0> sat on': its \
                  answer names each sentinel and then the text for it. A causal model continues the prompt."
)]
pub struct Args {
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Checkpoint file, or run folder (its newest checkpoint is taken)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// The prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Sampling temperature; 0 takes the most probable token
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f64,
    /// Sample among the k most probable tokens only; 0 is all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Seed of sampling
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Most tokens to generate; as many as fit by default
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    device: common::DeviceArgs,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.device.needs()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let config = fewest_rows(args.config.load()?)?;
    let checkpoint = common::open_checkpoint(&args.checkpoint)?;
    let tokenizer = Tokenizer::open(&config.data.tokenizer, config.model.vocab_size as u32)?;
    let prompt = tokenizer.encode_prompt(&args.prompt)?;
    let artifact = common::compile(&config, &["prefill".into(), "decode_step".into()])?;
    let wanted = parameters(&artifact)?;
    let mut session = Session::new(args.device.open(devices, artifact.manifest.num_replicas)?, artifact);
    common::restore(&mut session, &checkpoint, &wanted)?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, seed: args.seed };
    let mut generator = Generator::new(session, &[prompt], tokenizer.eos(), sampling)?;
    common::note("compiling prefill and decode_step ...");
    let limit = args.max_tokens.unwrap_or(usize::MAX);
    for tokens in generator.run(limit)? {
        common::say(tokenizer.decode(&tokens))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The same model for one sequence on each device that has rows of its own.
fn fewest_rows(mut config: RunConfig) -> anyhow::Result<RunConfig> {
    config.batch.sequences = config.mesh.batch_parts();
    config.batch.accumulation = 1;
    let rows = config.batch.sequences;
    config.resolved().with_context(|| format!("the configuration does not allow a batch of {rows} sequences"))
}

/// Both programs take all parameters.
fn parameters(artifact: &crate::artifact::Artifact) -> anyhow::Result<Vec<String>> {
    let (spec, _) = artifact.program("decode_step").context("internal: decode_step was not compiled")?;
    Ok(spec.state_taken())
}
