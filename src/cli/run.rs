//! `run`: any program of an artifact on named tensors.

use super::{Devices, Needs, common};
use crate::artifact::Artifact;
use crate::checkpoint::{self, TensorFile};
use crate::train::Session;
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Device;

/// Run one program of an artifact: named tensors in, named tensors out.
#[derive(clap::Args)]
pub struct Args {
    /// Artifact folder written by `compile`.
    artifact: PathBuf,
    /// The program.
    #[arg(long, value_name = "NAME")]
    program: String,
    /// Checkpoint (or any safetensors file) with the state that the program takes.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Safetensors file with the other inputs.
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// Safetensors file to write: the outputs, and the state where the program returns it.
    #[arg(long)]
    outputs: PathBuf,
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let artifact = Artifact::read(&args.artifact).context("the artifact cannot be used")?;
    let (spec, _) = artifact.program(&args.program).with_context(|| {
        let names: Vec<&str> = artifact.manifest.programs.iter().map(|p| p.name.as_str()).collect();
        format!("the artifact has no program `{}`; it has {}", args.program, names.join(", "))
    })?;
    let wanted: Vec<String> = spec.state_inputs().map(|port| port.name.clone()).collect();
    let returned: Vec<String> = spec.state_outputs().map(|port| port.name.clone()).collect();
    let checkpoint = args.checkpoint.as_deref().map(TensorFile::open).transpose()?;
    let inputs = match &args.inputs {
        Some(path) => checkpoint::read_tensors(path)?,
        None => vec![],
    };
    let mut session = Session::new(devices.open(1)?, artifact);
    match checkpoint {
        Some(file) => common::restore(&mut session, &file, &wanted)?,
        None if !wanted.is_empty() => {
            bail!("program `{}` takes {} tensors of state; give --checkpoint", args.program, wanted.len())
        }
        None => (),
    }
    let mut outputs = session.run(&args.program, inputs)?;
    for name in returned {
        let value = session.state(&name)?;
        outputs.push((name, value));
    }
    checkpoint::write_tensors(&args.outputs, &outputs)?;
    println!("{} tensors written to {}", outputs.len(), args.outputs.display());
    Ok(ExitCode::SUCCESS)
}
