//! `import`: a folder of Hugging Face `transformers` to a configuration and a checkpoint.

use super::{Devices, Needs, common};
use crate::convert;
use std::path::PathBuf;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;

/// Import a Hugging Face checkpoint (T5, Switch Transformers, Mixtral, DeepSeek-V3): config.json and safetensors
#[derive(clap::Args)]
pub struct Args {
    /// Folder with config.json and model.safetensors, or its shards and their index
    #[arg(value_name = "HF_DIR")]
    source: PathBuf,
    /// Folder to write: config.json and a checkpoint of the parameters
    #[arg(short, long, value_name = "CKPT")]
    out: PathBuf,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let made = match convert::import(&args.source, &args.out) {
        Ok(made) => made,
        Err(error) => return common::refuse(error),
    };
    common::say(format_args!(
        "{}: {} tensors, {} parameters",
        made.config.name, made.num_tensors, made.num_parameters
    ))?;
    common::say(format_args!("configuration {}", made.config_path.display()))?;
    common::say(format_args!("checkpoint {}", made.checkpoint.path.display()))?;
    Ok(ExitCode::SUCCESS)
}
