//! `run`: any program of an artifact on named tensors.

use super::{Devices, Needs, common};
use crate::artifact::Artifact;
use crate::checkpoint;
use crate::ir::TensorType;
use crate::train::Session;
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::ExitCode;

/// Run one program of an artifact: named tensors in, named tensors out
#[derive(clap::Args)]
pub struct Args {
    /// Artifact folder written by `compile`
    artifact: PathBuf,
    /// The program, such as forward
    #[arg(long, value_name = "NAME")]
    program: String,
    /// State that the program takes: checkpoint or other safetensors file, or run folder
    #[arg(long, value_name = "PATH")]
    checkpoint: Option<PathBuf>,
    /// Safetensors file with the other inputs, and the cache where the program takes it
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Safetensors file to write: the outputs, and state or cache where the program returns them
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    #[command(flatten)]
    device: common::DeviceArgs,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.device.needs()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = Artifact::read(&args.artifact).context("the artifact cannot be used")?;
    let (spec, _) = artifact.program(&args.program).with_context(|| {
        let names: Vec<&str> = artifact.manifest.programs.iter().map(|p| p.name.as_str()).collect();
        format!("the artifact has no program `{}`; it has {}", args.program, names.join(", "))
    })?;
    let wanted = spec.state_taken();
    let returned = spec.kept();
    let cached: Vec<String> = spec.cache_inputs().map(|port| port.name.clone()).collect();
    let checkpoint = args.checkpoint.as_deref().map(common::open_tensors).transpose()?;
    let inputs = match &args.inputs {
        Some(path) => checkpoint::read_tensors(path)?,
        None => vec![],
    };
    let mut session = Session::new(args.device.open(devices, artifact.manifest.num_replicas)?, artifact);
    match checkpoint {
        Some(file) => common::restore(&mut session, &file, &wanted)?,
        None if !wanted.is_empty() => {
            bail!("program `{}` takes {} tensors of state; give --checkpoint", args.program, wanted.len())
        }
        None => (),
    }
    let (cache, inputs): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|(name, _)| cached.contains(name));
    for (name, value) in &cache {
        check_cache(&session, &args.program, name, value.ty())?;
        session.set_state(name, value)?;
    }
    common::note(format_args!("compiling {} ...", args.program));
    let mut outputs = session.run(&args.program, inputs)?;
    for name in returned {
        let value = session.state(&name)?;
        outputs.push((name, value));
    }
    checkpoint::write_tensors(&args.outputs, &outputs)?;
    common::say(format_args!("{} tensors written to {}", outputs.len(), args.outputs.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A tensor of the cache has the type that the program asks for.
fn check_cache(session: &Session, program: &str, name: &str, found: &TensorType) -> anyhow::Result<()> {
    let (spec, _) = session.artifact().program(program).context("internal: the program is gone")?;
    let mesh = session.artifact().manifest.config.mesh;
    let expected = spec.cache_inputs().find(|port| port.name == name).and_then(|port| port.whole(&mesh));
    match expected {
        Some(expected) if expected != *found => {
            bail!("program `{program}`: input `{name}` must be {expected}, found {found}")
        }
        _ => Ok(()),
    }
}
