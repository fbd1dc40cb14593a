//! The child process: one program, one topology, the plugin's compiler. It may die; the parent says what happened.

use crate::runtime::pjrt::{
    self, Attribute, CallError, Code, CompiledMemory, CompiledProgram, Plugin, Topology,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Files that the worker leaves in its folder.
pub const OUTCOME_FILE: &str = "outcome.json";
pub const OPTIMIZED_FILE: &str = "optimized.pb";
pub const EXECUTABLE_FILE: &str = "executable.bin";

/// What the worker is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Task {
    /// The plugin that compiles
    #[arg(long)]
    pub plugin: PathBuf,
    /// The topology as the plugin names it
    #[arg(long)]
    pub topology: String,
    /// Topology options
    #[arg(long = "option", value_parser = key_value, value_name = "KEY=VALUE")]
    pub options: Vec<(String, String)>,
    /// The serialized module
    #[arg(long)]
    pub module: PathBuf,
    /// Copies of the program that run together
    #[arg(long)]
    pub replicas: usize,
    /// The folder to write to
    #[arg(long)]
    pub out: PathBuf,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Compiled(Compiled),
    /// The compiler says that the program does not fit into the memory of a device.
    OutOfMemory {
        message: String,
    },
    /// The compiler, or the plugin, says no.
    Refused {
        action: String,
        message: String,
    },
}

/// The figures of the compiler.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Compiled {
    pub compiler: String,
    pub device_kind: String,
    pub num_devices: usize,
    /// What a program may use of a device's memory, where the plugin says it.
    pub memory_limit_bytes: Option<u64>,
    pub memory: CompiledMemory,
    /// FLOPs and bytes with loop bodies counted once; `None` where the compiler does not count.
    pub flops: Option<f64>,
    pub bytes_accessed: Option<f64>,
    /// Seconds without interconnect and with loop bodies once; below zero where parts are unknown.
    pub optimal_seconds: Option<f64>,
    pub compile_seconds: f64,
    pub executable_bytes: u64,
}

/// Compiles and writes what was asked for; an error means that not even the outcome could be written.
pub fn work(task: &Task) -> std::io::Result<()> {
    let outcome = compile(task).unwrap_or_else(|(action, error)| {
        let message = error.to_string();
        match error {
            Failure::Call(CallError::Failed { code: Code::RESOURCE_EXHAUSTED, .. }) => {
                Outcome::OutOfMemory { message }
            }
            _ => Outcome::Refused { action: action.into(), message },
        }
    });
    fs::write(task.out.join(OUTCOME_FILE), serde_json::to_vec(&outcome)?)
}

/// Why the worker could not finish.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
    #[error("`{}`: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{replicas} replicas do not fit on {devices} devices")]
    Replicas { replicas: usize, devices: usize },
}

type Step<T> = Result<T, (&'static str, Failure)>;

/// Names the action that failed.
fn during<T, E: Into<Failure>>(action: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|error| (action, error.into()))
}

fn compile(task: &Task) -> Step<Outcome> {
    let module = during("reading the module", read(&task.module))?;
    let plugin = during("loading the plugin", pjrt::load(&task.plugin))?;
    let options: Vec<(&str, &str)> = task.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let topology = during("making the topology", Topology::create(plugin, &task.topology, &options))?;
    let devices = during("listing the devices", topology.devices())?;
    if task.replicas == 0 || task.replicas > devices.len() {
        let (replicas, devices) = (task.replicas, devices.len());
        return during("choosing devices", Err(Failure::Replicas { replicas, devices }));
    }
    let ids: Vec<i64> = devices[..task.replicas].iter().map(|(id, _)| *id).collect();
    let start = Instant::now();
    let program = during("compiling", topology.compile(&module, &ids))?;
    let compile_seconds = start.elapsed().as_secs_f64();
    let executable = during("serializing", program.serialize())?;
    during("writing the executable", write(&task.out.join(EXECUTABLE_FILE), &executable))?;
    let optimized = during("reading the optimized program", program.optimized())?;
    during("writing the optimized program", write(&task.out.join(OPTIMIZED_FILE), &optimized))?;
    let costs = costs(&program);
    Ok(Outcome::Compiled(Compiled {
        compiler: version(plugin, &topology, &devices[0].1)?,
        device_kind: devices[0].1.clone(),
        num_devices: devices.len(),
        memory_limit_bytes: memory_limit(&topology),
        memory: during("asking for the memory", program.memory())?,
        flops: costs("flops"),
        bytes_accessed: costs("bytes accessed"),
        optimal_seconds: costs("optimal_seconds"),
        compile_seconds,
        executable_bytes: executable.len() as u64,
    }))
}

/// The version of the compiler; a plugin that only repeats the name of the device has the version of its interface.
fn version(plugin: &Plugin, topology: &Topology, device_kind: &str) -> Step<String> {
    let version = during("asking for the version", topology.version())?;
    Ok(if version == device_kind { format!("PJRT API {}", plugin.version()) } else { version })
}

/// The costs by name; none where the compiler has no count.
fn costs(program: &CompiledProgram) -> impl Fn(&str) -> Option<f64> {
    let costs = program.costs().unwrap_or_default();
    move |name| costs.get(name).and_then(Attribute::as_float)
}

fn memory_limit(topology: &Topology) -> Option<u64> {
    let attributes = topology.attributes();
    let limit = attributes.get("device_memory_bytes_limit")?.as_integer()?;
    u64::try_from(limit).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|source| Failure::File { path: path.into(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|source| Failure::File { path: path.into(), source })
}
