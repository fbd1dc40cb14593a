//! `upcycle`: a dense checkpoint to a sparse one.

use super::{Devices, Needs, common};
use crate::checkpoint::{self, Meta};
use crate::train::Upcycled;
use std::path::PathBuf;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;

/// Make a sparse checkpoint from a dense one: every expert is a copy of the dense network of its layer
#[derive(clap::Args)]
#[command(
    after_help = "All other weights are copied, routers start from the seed. The checkpoint holds parameters only: go on with \
                  train --init-from. What does not fit is listed, and nothing is written."
)]
pub struct Args {
    /// The dense model: run folder, checkpoint, or other safetensors file
    #[arg(value_name = "CHECKPOINT")]
    dense: PathBuf,
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Folder to write the checkpoint into
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let dense = common::open_tensors(&args.dense)?;
    let upcycled = Upcycled::new(&config, &dense)?;
    let params = upcycled.params();
    let meta = Meta { step: 0, seed: config.seed, config_digest: config.digest(), ..Meta::default() };
    let saved = checkpoint::save(&args.out, &meta, &params, |index| upcycled.value(index))?;
    common::say(format_args!("{} tensors written to {}", params.len(), saved.path.display()))?;
    Ok(ExitCode::SUCCESS)
}
