//! `run`: any program of an artifact on named tensors.

use super::{Devices, Needs, common};
use crate::artifact::Artifact;
use crate::checkpoint;
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
    /// Safetensors file with the other inputs
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Safetensors file to write: the outputs, and the state where the program returns it
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
    let wanted: Vec<String> = spec.state_inputs().map(|port| port.name.clone()).collect();
    let returned: Vec<String> = spec.state_outputs().map(|port| port.name.clone()).collect();
    let checkpoint = args.checkpoint.as_deref().map(common::open_tensors).transpose()?;
    let inputs = match &args.inputs {
        Some(path) => checkpoint::read_tensors(path)?,
        None => vec![],
    };
    let mut session = Session::new(args.device.open(devices, 1)?, artifact);
    match checkpoint {
        Some(file) => common::restore(&mut session, &file, &wanted)?,
        None if !wanted.is_empty() => {
            bail!("program `{}` takes {} tensors of state; give --checkpoint", args.program, wanted.len())
        }
        None => (),
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
