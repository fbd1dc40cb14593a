//! `distill`: a large model's predictions, a small model's checkpoint.

use super::train::RunArgs;
use super::{Devices, Needs, common};
use crate::artifact::Artifact;
use crate::config::{ModelConfig, RunConfig};
use crate::train::Teacher;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Train a student on text and on the predictions of a teacher, from whose weights it starts
#[derive(clap::Args)]
#[command(
    after_help = "The student starts from all weights of the teacher but experts and routers; a dense network whose layer has \
                  experts in the teacher starts anew. distillation.share, .temperature and .start_step of the configuration \
                  say how much it learns from whom (see docs/training.md). To resume, give RUN/artifact and the same teacher."
)]
pub struct Args {
    #[command(flatten)]
    source: common::SourceArgs,
    /// The teacher: run folder, checkpoint, or other safetensors file
    #[arg(long, value_name = "PATH")]
    teacher: PathBuf,
    /// Configuration or artifact of the teacher; by default that in its run folder
    #[arg(long, value_name = "CONFIG|ARTIFACT")]
    teacher_config: Option<PathBuf>,
    /// Start from random weights, not from the teacher's
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.run.needs()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = match args.source.compiled()? {
        Some(artifact) => artifact,
        None => {
            let network = network(&args.teacher, args.teacher_config.as_deref())?;
            let mut config = args.source.config(args.run.target())?;
            config.distillation.teacher = Some(Box::new(network));
            common::compile(&config.resolved()?, &[])?
        }
    };
    let checkpoint = common::open_tensors(&args.teacher)?.path().to_path_buf();
    let copy = !args.fresh && args.run.init_from.is_none();
    args.run.run(devices, artifact, Some(Teacher { checkpoint, copy }))
}

/// The network of the teacher.
fn network(teacher: &Path, config: Option<&Path>) -> anyhow::Result<ModelConfig> {
    let found = ["artifact", "config.json"].map(|name| teacher.join(name)).into_iter().find(|p| p.exists());
    let Some(path) = config.map(Path::to_path_buf).or(found) else {
        bail!("`{}` holds neither artifact nor config.json; give --teacher-config", teacher.display())
    };
    let config = match path.is_dir() {
        true => Artifact::read(&path).context("the teacher's artifact cannot be used")?.manifest.config,
        false => RunConfig::load(&path).context("the teacher's configuration cannot be used")?,
    };
    Ok(config.model)
}
