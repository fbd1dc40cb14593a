//! Ahead of time: compiles a program for devices that are not there, and reports what came of it.
//!
//! The compiler is a plugin's and may end its process, so it runs in a child.
//!
//! | file | subject |
//! | --- | --- |
//! | `chip`, `card`, `topology` | accelerators with their public figures, what GPUs are to their compiler, sets of chips by name |
//! | `environment` | where the compilers are, and their variables |
//! | `child`, `worker` | the two sides of the child process |
//! | `plan` | many ways to run a configuration, the best of them compiled |
//! | `report`, `model`, `torus`, `network`, `render` | what is known and from where, our estimate of time and of collectives, tables |

mod card;
mod child;
mod chip;
mod environment;
mod model;
mod network;
mod plan;
mod render;
mod report;
mod topology;
mod torus;
mod worker;

pub use card::{Card, GPUS};
pub use child::{ChildError, SUBCOMMAND};
pub use chip::{Chip, Kind, Peak, TPUS, Torus};
pub use environment::{MissingError, compiler, toolkit};
pub use model::StepTime;
pub use plan::{Axis, Candidate, Search, Verdict, combinations, plan};
pub use render::{render, render_compiled};
pub use report::{
    AotReport, CompiledTime, FromCompiler, FromGraph, FromModel, Judge, KernelRow, Padding, ReportError,
    Shortage, compiled_time,
};
pub use topology::{Topology, TopologyError};
pub use worker::{Compiled, Outcome, Task, work};

use crate::artifact::{Artifact, ProgramSpec};
use crate::hlo::{self, HloModuleProto};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A program cannot be compiled ahead of time.
#[derive(Debug, thiserror::Error)]
pub enum AotError {
    #[error("the artifact has no program `{name}`; it has {}", found.join(", "))]
    NoProgram { name: String, found: Vec<String> },
    #[error("the program runs on {replicas} devices, {topology} has {devices}")]
    TooLarge { replicas: usize, topology: Topology, devices: usize },
    #[error("{action}: {message}")]
    Refused { action: String, message: String },
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Missing(#[from] MissingError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that is started as the child: `switchyard` itself.
    pub program: PathBuf,
    pub plugin: PathBuf,
    pub topology: Topology,
    /// The time that the compiler gets.
    pub limit: Duration,
}

/// Compiles one program of an artifact and reports; what stays, named after program and topology, goes to `out`.
pub fn compile(
    artifact: &Artifact,
    program: &str,
    options: &Options,
    out: Option<&Path>,
) -> Result<AotReport, AotError> {
    let (spec, module) = program_of(artifact, program)?;
    let topology = &options.topology;
    let (replicas, devices) = (artifact.manifest.num_replicas, topology.num_devices());
    if replicas > devices {
        return Err(AotError::TooLarge { replicas, topology: topology.clone(), devices });
    }
    let variables = environment::variables(topology.chip, &options.plugin)?;
    // A folder that cannot be written is told before the compiler has worked for it.
    out.map_or(Ok(()), |out| fs::create_dir_all(out).map_err(io("create", out)))?;
    let name = format!("{program}.{}", file_name(topology));
    let graph = report::from_graph(&artifact.manifest, spec, module)?;
    let folder = tempfile::tempdir().map_err(io("create", &std::env::temp_dir()))?;
    let task = task(options, replicas, folder.path());
    fs::write(&task.module, hlo::encode(module)).map_err(io("write", &task.module))?;
    let mut report = AotReport {
        name: artifact.manifest.config.name.clone(),
        program: program.into(),
        topology: topology.to_string(),
        chips: topology.num_chips(),
        replicas,
        fits: true,
        shortage: None,
        graph,
        compiler: None,
        model: None,
    };
    match child::run(&options.program, &task, &variables, options.limit)? {
        Outcome::Compiled(said) => {
            let optimized = read(&folder.path().join(worker::OPTIMIZED_FILE))?;
            let optimized = report::optimized_module(&optimized)?;
            if let Some(out) = out {
                keep(folder.path(), &optimized, &name, out)?;
            }
            let (compiler, model) = report::from_compiler(topology, &report.graph, said, &optimized)?;
            report.shortage = Shortage::compare(topology.chip, &compiler.said.memory);
            report.fits = report.shortage.is_none();
            report.model = report.fits.then_some(model);
            report.compiler = Some(compiler);
        }
        Outcome::OutOfMemory { message } => {
            report.fits = false;
            report.shortage = Some(Shortage::read(&message));
        }
        Outcome::Refused { action, message } => return Err(AotError::Refused { action, message }),
    }
    out.map_or(Ok(()), |out| keep_report(&report, &out.join(format!("{name}.json"))))?;
    Ok(report)
}

/// A program of an artifact by its name.
fn program_of<'a>(
    artifact: &'a Artifact,
    name: &str,
) -> Result<(&'a ProgramSpec, &'a HloModuleProto), AotError> {
    artifact.program(name).ok_or_else(|| AotError::NoProgram {
        name: name.into(),
        found: artifact.manifest.programs.iter().map(|p| p.name.clone()).collect(),
    })
}

fn task(options: &Options, replicas: usize, folder: &Path) -> Task {
    Task {
        plugin: options.plugin.clone(),
        topology: options.topology.to_string(),
        options: options.topology.options().into_iter().map(|(k, v)| (k.into(), v)).collect(),
        module: folder.join("module.hlo.pb"),
        replicas,
        out: folder.to_owned(),
    }
}

/// The topology as part of a file's name: `v5e-4x4`, `h100-8`.
fn file_name(topology: &Topology) -> String {
    topology.to_string().replace(':', "-")
}

/// Puts the executable and the optimized module where they stay.
fn keep(folder: &Path, optimized: &HloModuleProto, name: &str, out: &Path) -> Result<(), AotError> {
    let executable = out.join(format!("{name}.executable"));
    fs::copy(folder.join(worker::EXECUTABLE_FILE), &executable).map_err(io("write", &executable))?;
    let binary = out.join(format!("{name}.optimized.hlo.pb"));
    fs::write(&binary, hlo::encode(optimized)).map_err(io("write", &binary))?;
    let text = out.join(format!("{name}.optimized.hlo.txt"));
    fs::write(&text, hlo::print(optimized)).map_err(io("write", &text))
}

fn keep_report(report: &AotReport, path: &Path) -> Result<(), AotError> {
    let text = serde_json::to_string_pretty(report).map_err(|e| io("write", path)(e.into()))?;
    fs::write(path, text).map_err(io("write", path))
}

fn read(path: &Path) -> Result<Vec<u8>, AotError> {
    fs::read(path).map_err(io("read", path))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AotError {
    move |source| AotError::Io { action, path: path.into(), source }
}
