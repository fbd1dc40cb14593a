//! Errors of the runtimes.

use super::plugins::PluginKind;
use crate::ir::TensorType;
use std::path::PathBuf;

/// What can go wrong between a program and a device.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("the XLA runtime library {path} {problem}: run `make setup`", path = path.display())]
    Library { path: PathBuf, problem: String },

    #[error("the PJRT plugin {path} {problem}", path = path.display())]
    Plugin { path: PathBuf, problem: String },

    #[error("no PJRT plugin for {kind} is found (`switchyard doctor` lists all): give --device plugin:PATH")]
    NoPlugin { kind: PluginKind },

    #[error(
        "this machine has no TPU (no /dev/accel* and no /dev/vfio); `switchyard aot` compiles for one without it"
    )]
    NoTpu,

    #[error("--memory-fraction is for GPUs, the runtime is {runtime}: leave it out")]
    NoFraction { runtime: String },

    #[error("{path} {problem}: run `cargo build --release --bins`", path = path.display())]
    Program { path: PathBuf, problem: String },

    #[error(
        "this build has no CPU runtime (cargo feature `cpu` is off): give --device, or build with default features"
    )]
    NoCpu,

    #[error("{asked} devices were asked for, the {platform} runtime has {have}{}", devices_advice(platform))]
    TooFewDevices { platform: String, asked: usize, have: usize },

    #[error("device {device} does not exist, there are {count}")]
    NoDevice { device: usize, count: usize },

    #[error("the HLO module cannot be read: {0}")]
    Module(String),

    #[error("XLA refused the module: {0}")]
    Compile(String),

    #[error("execution failed: {0}")]
    Execute(String),

    #[error("{action} failed: {message}")]
    Runtime { action: &'static str, message: String },

    #[error("the program has {expected} replicas, argument lists for {found} were given")]
    ReplicaCount { expected: usize, found: usize },

    #[error("the program takes {expected} arguments, {found} were given for replica {replica}")]
    ArgumentCount { replica: usize, expected: usize, found: usize },

    #[error("argument {index} ({name}) is {expected}, found {found}")]
    ArgumentType { index: usize, name: String, expected: TensorType, found: TensorType },

    #[error("argument {index} ({name}) of replica {replica} must be on device {replica}, it is on {device}")]
    ArgumentDevice { index: usize, name: String, replica: usize, device: usize },

    #[error("argument {index} ({name}) becomes result {result} in place, so it must be donated, not lent")]
    NotDonated { index: usize, name: String, result: usize },

    #[error("argument {index} was made by another backend")]
    ForeignBuffer { index: usize },

    #[error("the program returned {found} results of type {types}, its signature says {expected}")]
    ResultCount { expected: usize, found: usize, types: String },
}

/// How a process gets more devices.
fn devices_advice(platform: &str) -> &'static str {
    match platform {
        "cpu" => {
            "; a process fixes the count by its first use, \
             or by --xla_force_host_platform_device_count in XLA_FLAGS"
        }
        _ => "; a mesh of fewer devices (--mesh) asks for fewer",
    }
}
