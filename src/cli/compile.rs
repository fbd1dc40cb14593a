//! `compile`: a configuration to an artifact folder.

use super::{Devices, Needs, common};
use anyhow::Context;
use std::path::PathBuf;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;

/// Compile a configuration to HLO: one folder with every program and a manifest
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Folder to write
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Compile only this program (may be given several times)
    #[arg(long = "program", value_name = "NAME")]
    programs: Vec<String>,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let artifact = common::compile(&config, &args.programs)?;
    artifact.write(&args.out).context("the artifact could not be written")?;
    let manifest = &artifact.manifest;
    let flops = config.model.forward_flops(config.batch.input_length, config.batch.target_length);
    common::say(format_args!(
        "{}: {} parameters, {} met by a token; {flops:.3e} FLOPs per sequence, forward",
        config.name,
        manifest.num_parameters,
        config.model.active_parameter_count(),
        flops = flops as f64,
    ))?;
    for (spec, module) in manifest.programs.iter().zip(&artifact.modules) {
        let instructions: usize = module.computations.iter().map(|c| c.instructions.len()).sum();
        common::say(format_args!("  {:<12} {instructions:>7} instructions", spec.name))?;
    }
    common::say(format_args!("written to {}", args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}
