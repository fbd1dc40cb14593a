//! The command line: one file per subcommand, one library call each.
//!
//! Two programs share it. `switchyard` links no XLA library and so starts at once; a command that executes
//! is handed to `switchyard-cpu` beside it, which does. Nothing here may name `runtime::cpu`, or the
//! library would become part of the first program too: devices come as an [`OpenBackend`].

mod aot;
mod bench;
mod common;
mod compile;
mod distill;
mod doctor;
mod eval;
mod export;
mod generate;
mod import;
mod inspect;
mod launch;
mod plan;
mod run;
mod train;
mod upcycle;

use crate::runtime::{Backend, MemoryFraction, RuntimeChoice, RuntimeError};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Sparsely activated Transformers as static-shape XLA programs.
#[derive(Parser)]
#[command(
    name = "switchyard",
    version,
    max_term_width = 100,
    after_help = "Examples:
  switchyard compile graphs/demo.json -o artifact
  switchyard inspect artifact
  switchyard train graphs/demo.json --data src docs --steps 1000 --out runs/demo
  switchyard aot graphs/switch-base-8.json --topology v5e:4x4
  switchyard generate graphs/demo.json --checkpoint runs/demo --prompt 'fn <extra_id_0>() {'"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(compile::Args),
    Train(train::Args),
    Distill(distill::Args),
    Upcycle(upcycle::Args),
    Eval(eval::Args),
    Run(run::Args),
    Generate(generate::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Aot(aot::Args),
    Plan(plan::Args),
    #[command(name = crate::aot::SUBCOMMAND, hide = true)]
    AotWorker(aot::WorkerArgs),
    Import(import::Args),
    Export(export::Args),
    Doctor(doctor::Args),
}

/// Opens a backend with at least this many devices.
pub type OpenBackend = fn(usize) -> Result<Box<dyn Backend>, RuntimeError>;

/// What a command asks of the program that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// No device: runs in the program that people type.
    Nothing,
    /// The CPU runtime: does not start without it.
    Cpu,
    /// The CPU runtime, but has something to say without it.
    CpuIfAny,
}

/// The devices that a command may open.
pub struct Devices(Result<OpenBackend, RuntimeError>);

impl Devices {
    /// Opens the runtime that is asked for, of a GPU with this share of its memory. Errors: why there is none.
    pub fn open(
        &self,
        choice: &RuntimeChoice,
        num_devices: usize,
        memory: Option<MemoryFraction>,
    ) -> Result<Box<dyn Backend>, Unavailable> {
        match choice.open_plugin(num_devices, memory).map_err(Unavailable::Failed)? {
            Some(backend) => Ok(backend),
            None => self.open_cpu(num_devices),
        }
    }

    fn open_cpu(&self, num_devices: usize) -> Result<Box<dyn Backend>, Unavailable> {
        match &self.0 {
            Ok(open) => open(num_devices).map_err(Unavailable::Failed),
            Err(why) => Err(Unavailable::Missing(why.to_string())),
        }
    }
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error(transparent)]
    Failed(RuntimeError),
    #[error("{0}")]
    Missing(String),
}

impl Command {
    fn needs(&self) -> Needs {
        match self {
            Self::Compile(_) => compile::NEEDS,
            Self::Train(args) => args.needs(),
            Self::Distill(args) => args.needs(),
            Self::Upcycle(_) => upcycle::NEEDS,
            Self::Eval(args) => args.needs(),
            Self::Run(args) => args.needs(),
            Self::Generate(args) => args.needs(),
            Self::Inspect(_) => inspect::NEEDS,
            Self::Bench(args) => args.needs(),
            Self::Aot(_) | Self::AotWorker(_) => aot::NEEDS,
            Self::Import(_) => import::NEEDS,
            Self::Export(_) => export::NEEDS,
            Self::Plan(_) => plan::NEEDS,
            Self::Doctor(args) => args.needs(),
        }
    }

    fn run(self, devices: &Devices) -> anyhow::Result<ExitCode> {
        match self {
            Self::Compile(args) => compile::run(args, devices),
            Self::Train(args) => train::run(args, devices),
            Self::Distill(args) => distill::run(args, devices),
            Self::Upcycle(args) => upcycle::run(args, devices),
            Self::Eval(args) => eval::run(args, devices),
            Self::Run(args) => run::run(args, devices),
            Self::Generate(args) => generate::run(args, devices),
            Self::Inspect(args) => inspect::run(args, devices),
            Self::Bench(args) => bench::run(args, devices),
            Self::Aot(args) => aot::run(args, devices),
            Self::Plan(args) => plan::run(args, devices),
            Self::AotWorker(args) => aot::run_worker(args, devices),
            Self::Import(args) => import::run(args, devices),
            Self::Export(args) => export::run(args, devices),
            Self::Doctor(args) => doctor::run(args, devices),
        }
    }
}

/// `switchyard`: runs what needs no device, hands over the rest.
pub fn main_thin() -> ExitCode {
    let command = Cli::parse().command;
    let missing = match command.needs() {
        Needs::Nothing => RuntimeError::NoCpu,
        // Comes back only if the other program could not be started.
        _ => launch::device_program(),
    };
    if command.needs() == Needs::Cpu {
        return report(Err(missing.into()));
    }
    report(command.run(&Devices(Err(missing))))
}

/// `switchyard-cpu`: runs any command, with the devices that `open` gives.
pub fn main_device(open: OpenBackend) -> ExitCode {
    report(Cli::parse().command.run(&Devices(Ok(open))))
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        common::complain(&error);
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
