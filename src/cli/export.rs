//! `export`: a checkpoint to a folder of Hugging Face `transformers`.

use super::{Devices, Needs, common};
use crate::artifact::Artifact;
use crate::config::RunConfig;
use crate::convert::{self, ConvertError, Float, Options};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;

/// Export a checkpoint to a folder that Hugging Face transformers loads
#[derive(clap::Args)]
pub struct Args {
    /// Folder written by `import`, run folder, or checkpoint file
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Folder to write
    #[arg(short, long, value_name = "HF_DIR")]
    out: PathBuf,
    /// Configuration file; by default the one beside the checkpoint
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Element type of all tensors; by default what each had when it was imported, else float32
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<Dtype>,
    /// Spread tensors over files of at most so many bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    shard_bytes: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    Float32,
    Bfloat16,
    Float16,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let checkpoint = common::open_checkpoint(&args.checkpoint)?;
    let config = match &args.config {
        Some(path) => RunConfig::load(path)?,
        None => config_beside(checkpoint.path())?,
    };
    let dtype = args.dtype.map(|dtype| match dtype {
        Dtype::Float32 => Float::F32,
        Dtype::Bfloat16 => Float::Bf16,
        Dtype::Float16 => Float::F16,
    });
    let options = Options { dtype, shard_bytes: args.shard_bytes };
    let made = match convert::export(&checkpoint, &config, &args.out, options) {
        Ok(made) => made,
        Err(error) => return common::refuse(error),
    };
    for difference in &made.differences {
        common::note(format_args!("note: {difference}"));
    }
    common::say(format_args!(
        "{}: {} tensors in {} file{}, {} bytes, written to {}",
        made.model_type,
        made.num_tensors,
        made.num_files,
        if made.num_files == 1 { "" } else { "s" },
        made.size_bytes,
        args.out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration that `import` wrote beside a checkpoint, or that of the run whose checkpoint it is.
fn config_beside(checkpoint: &Path) -> anyhow::Result<RunConfig> {
    let folder = checkpoint.parent().unwrap_or(Path::new("."));
    let file = folder.join("config.json");
    if file.is_file() {
        return Ok(RunConfig::load(file)?);
    }
    let artifacts = [folder.join("artifact"), folder.join("../artifact")];
    match artifacts.iter().find(|path| path.is_dir()) {
        Some(path) => Ok(Artifact::read(path)?.manifest.config),
        None => Err(ConvertError::NoConfig { path: folder.to_path_buf() }.into()),
    }
}
