//! From a configuration to HLO; touches no device, clock or file.

use super::manifest::{FORMAT_VERSION, Manifest, PortSpec, ProgramSpec, moe_layers};
use super::{Artifact, store};
use crate::build::BuildError;
use crate::config::{RunConfig, Target};
use crate::hlo::HloModuleProto;
use crate::ir::Graph;
use crate::step::{self, DERIVE, PROGRAMS, Program, Role};
use crate::{ir, lower};

/// A configuration could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("there is no program `{name}`; programs are {}", PROGRAMS.join(", "))]
    UnknownProgram { name: String },
    #[error("program `{program}` cannot be built")]
    Build {
        program: String,
        #[source]
        source: Box<BuildError>,
    },
}

/// The usual programs of a configuration.
pub fn compile(config: &RunConfig) -> Result<Artifact, CompileError> {
    compile_programs(config, &step::programs(config))
}

/// Some programs of a configuration, and the one that makes what these need beside the state.
pub fn compile_programs(config: &RunConfig, names: &[&str]) -> Result<Artifact, CompileError> {
    let state = step::layout(config);
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        config: config.clone(),
        config_digest: config.digest(),
        num_replicas: config.mesh.num_replicas(),
        num_parameters: config.model.parameter_count(),
        state_bytes: state.iter().fold(0, |n, t| n + t.ty.size_bytes() as u64),
        state_bytes_per_device: state.iter().fold(0, |n, t| n + t.bytes_per_device(&config.mesh)),
        moe_layers: vec![],
        programs: vec![],
    };
    let mut artifact = Artifact { manifest, modules: vec![] };
    names.iter().try_for_each(|name| add(&mut artifact, name))?;
    let mut inputs = artifact.manifest.programs.iter().flat_map(|program| &program.inputs);
    if inputs.any(|port| port.role == Role::Derived) && !names.contains(&DERIVE) {
        add(&mut artifact, DERIVE)?;
    }
    Ok(artifact)
}

/// Adds a program of its configuration to an artifact.
fn add(artifact: &mut Artifact, name: &str) -> Result<(), CompileError> {
    let manifest = &mut artifact.manifest;
    let (program, module) = compile_program(&manifest.config, name)?;
    manifest.moe_layers.extend(moe_layers(&manifest.config, name));
    manifest.programs.push(ProgramSpec {
        name: name.into(),
        hlo_digest: store::digest(&crate::hlo::encode(&module)),
        inputs: program.inputs.iter().map(PortSpec::new).collect(),
        outputs: program.outputs.iter().map(PortSpec::new).collect(),
    });
    artifact.modules.push(module);
    Ok(())
}

/// One program and its module.
pub fn compile_program(config: &RunConfig, name: &str) -> Result<(Program, HloModuleProto), CompileError> {
    let built = step::build(config, name);
    let program = built
        .ok_or_else(|| CompileError::UnknownProgram { name: name.into() })?
        .map_err(|source| CompileError::Build { program: name.into(), source: Box::new(source) })?;
    let module = emit(&program, config.target);
    Ok((program, module))
}

/// The graph of a program as it is lowered, shaped for a compiler.
pub fn optimized(program: &Program, target: Target) -> Graph {
    let graph = ir::optimize(&program.graph);
    match target.joins_contractions() {
        true => ir::simplify(&ir::join_contractions(&graph)),
        false => graph,
    }
}

/// The HLO module of a program: dead code dropped, common subexpressions shared, what stays on the device donated.
pub fn emit(program: &Program, target: Target) -> HloModuleProto {
    let graph = optimized(program, target);
    let donated = |(output, port): (usize, &step::Port)| {
        port.alias.filter(|_| port.role.stays()).map(|input| (output, input))
    };
    let aliases: Vec<lower::Alias> = program.outputs.iter().enumerate().filter_map(donated).collect();
    let names: Vec<String> = program.inputs.iter().map(|port| port.name.clone()).collect();
    lower::lower(program.name, &graph, &names, &aliases)
}
