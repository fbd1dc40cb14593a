//! What several subcommands share: reading configurations, artifacts and checkpoints.

use super::{Devices, Needs, Unavailable};
use crate::artifact::{self, Artifact};
use crate::checkpoint::{Checkpoint, TensorFile};
use crate::config::{ConfigError, RunConfig, Target};
use crate::convert::ConvertError;
use crate::runtime::{Backend, MemoryFraction, RuntimeChoice};
use crate::shard;
use crate::train::Session;
use anyhow::{Context, bail};
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A configuration and its overrides.
#[derive(clap::Args)]
pub struct ConfigArgs {
    /// Configuration file, such as graphs/demo.json
    config: PathBuf,
    /// Override a field, such as model.moe.num_experts=16 (may be given several times)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    mesh: MeshArgs,
}

impl ConfigArgs {
    pub fn load(&self) -> anyhow::Result<RunConfig> {
        self.load_for(None)
    }

    /// For the compiler of a device that was named, unless `--set` names another.
    pub fn load_for(&self, target: Option<Target>) -> anyhow::Result<RunConfig> {
        Ok(self.load_with(target, &[])?)
    }

    /// Whether `--mesh` was given.
    pub fn has_mesh(&self) -> bool {
        self.mesh.mesh.is_some()
    }

    /// With more overrides, which win.
    pub fn load_with(&self, target: Option<Target>, more: &[String]) -> Result<RunConfig, ConfigError> {
        let overrides = [&settings(target), &self.overrides[..], &self.mesh.overrides(), more].concat();
        RunConfig::load_with(&self.config, &overrides)
    }
}

/// The target as an override.
fn settings(target: Option<Target>) -> Vec<String> {
    target.map(Target::setting).into_iter().collect()
}

/// The devices, beside those that the configuration says.
#[derive(clap::Args)]
pub struct MeshArgs {
    /// Devices along the axes of the mesh, such as data=2,expert=4; the axes are data, expert and model
    #[arg(long, value_name = "AXIS=N,..", value_parser = mesh_settings)]
    mesh: Option<MeshSettings>,
}

/// Settings of fields.
#[derive(Clone)]
struct MeshSettings(Vec<String>);

impl MeshArgs {
    fn overrides(&self) -> Vec<String> {
        self.mesh.as_ref().map_or(vec![], |settings| settings.0.clone())
    }
}

/// Reads `data=2,expert=4` as settings of fields: axes that are not named are 1.
fn mesh_settings(text: &str) -> Result<MeshSettings, String> {
    let mut settings: Vec<String> = shard::ALL.iter().map(|axis| format!("mesh.{axis}=1")).collect();
    for part in text.split(',') {
        let known = |name: &str| shard::ALL.iter().any(|axis| axis.to_string() == name.trim());
        match part.split_once('=') {
            Some((name, size)) if known(name) => {
                settings.push(format!("mesh.{}={}", name.trim(), size.trim()))
            }
            _ => return Err("expected axes with sizes, such as data=2,expert=4,model=1".into()),
        }
    }
    Ok(MeshSettings(settings))
}

/// A configuration with overrides, or an artifact as it is.
#[derive(clap::Args)]
pub struct SourceArgs {
    /// Configuration file, or artifact folder written by `compile`
    #[arg(value_name = "CONFIG|ARTIFACT")]
    source: PathBuf,
    /// Override a field of a configuration, such as seed=1 (may be given several times)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    mesh: MeshArgs,
}

impl SourceArgs {
    /// The artifact, compiled here where the source is a configuration.
    pub fn artifact(&self) -> anyhow::Result<Artifact> {
        self.artifact_for(None)
    }

    /// As [`artifact`](Self::artifact), a configuration for the compiler of a device that was named.
    pub fn artifact_for(&self, target: Option<Target>) -> anyhow::Result<Artifact> {
        match self.compiled()? {
            Some(artifact) => Ok(artifact),
            None => compile(&self.config(target)?, &[]),
        }
    }

    /// The artifact, if the source is one.
    pub fn compiled(&self) -> anyhow::Result<Option<Artifact>> {
        let Some(folder) = self.folder() else { return Ok(None) };
        if !self.overrides().is_empty() {
            bail!("--set and --mesh change a configuration; `{}` is compiled already", folder.display());
        }
        Ok(Some(Artifact::read(folder).context("the artifact cannot be used")?))
    }

    /// The folder of the artifact, if the source is one.
    pub fn folder(&self) -> Option<&Path> {
        Some(self.source.as_path()).filter(|source| source.is_dir())
    }

    /// The configuration with its overrides, if the source is one.
    pub fn config(&self, target: Option<Target>) -> anyhow::Result<RunConfig> {
        Ok(RunConfig::load_with(&self.source, &[settings(target), self.overrides()].concat())?)
    }

    fn overrides(&self) -> Vec<String> {
        [&self.overrides[..], &self.mesh.overrides()].concat()
    }
}

/// Where programs run.
#[derive(Clone, clap::Args)]
pub struct DeviceArgs {
    /// Runtime: cpu, or cuda, tpu or plugin:PATH for a PJRT plugin (`doctor` lists what is found)
    #[arg(long = "device", value_name = "RUNTIME", default_value_t)]
    choice: RuntimeChoice,
    /// Share of each GPU's memory that the runtime takes at its start (--device cuda) [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    memory_fraction: Option<MemoryFraction>,
}

impl DeviceArgs {
    pub fn needs(&self) -> Needs {
        match self.choice {
            RuntimeChoice::Cpu => Needs::Cpu,
            RuntimeChoice::Cuda | RuntimeChoice::Tpu | RuntimeChoice::Plugin(_) => Needs::Nothing,
        }
    }

    /// As [`DeviceArgs::needs`], for a command that has something to say without the CPU runtime.
    pub fn needs_if_any(&self) -> Needs {
        match self.needs() {
            Needs::Cpu => Needs::CpuIfAny,
            other => other,
        }
    }

    /// The compiler of the device, where it is not the CPU's; of a plugin by its file it is not known.
    pub fn target(&self) -> Option<Target> {
        match self.choice {
            RuntimeChoice::Cpu | RuntimeChoice::Plugin(_) => None,
            RuntimeChoice::Cuda => Some(Target::Gpu),
            RuntimeChoice::Tpu => Some(Target::Tpu),
        }
    }

    pub fn choice(&self) -> &RuntimeChoice {
        &self.choice
    }

    /// Opens the runtime with at least this many devices.
    pub fn open(&self, devices: &Devices, num_devices: usize) -> Result<Box<dyn Backend>, Unavailable> {
        devices.open(&self.choice, num_devices, self.memory_fraction)
    }
}

/// Writes a line to standard output. That its reader went away (`| head`) is no error.
pub fn say(line: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Writes a line to standard error, where there is one.
pub fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Reads a count that cannot be 0.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1".into()),
        Ok(count) => Ok(count),
    }
}

/// Writes an error and its causes to standard error, in one line.
pub fn complain(error: &anyhow::Error) {
    let text = format!("{error:#}");
    note(format_args!("error: {}", text.split_whitespace().collect::<Vec<_>>().join(" ")));
}

/// Says what does not fit in a conversion, one thing per line; other errors pass on.
pub fn refuse(error: ConvertError) -> anyhow::Result<ExitCode> {
    let ConvertError::Refused { path, problems } = error else { return Err(error.into()) };
    for problem in &problems {
        note(format_args!("{problem}"));
    }
    bail!("{}: {} of names, shapes and settings do not fit", path.display(), problems.len())
}

/// Compiles a program with XLA, which takes seconds, and says so.
pub fn prepare(session: &mut Session, program: &str) -> anyhow::Result<()> {
    note(format_args!("compiling {program} ..."));
    Ok(session.prepare(program)?)
}

/// Compiles these programs, or all where none is named.
pub fn compile(config: &RunConfig, programs: &[String]) -> anyhow::Result<Artifact> {
    let names: Vec<&str> = programs.iter().map(String::as_str).collect();
    let compiled = match names.is_empty() {
        true => artifact::compile(config),
        false => artifact::compile_programs(config, &names),
    };
    Ok(compiled?)
}

/// Puts tensors of a checkpoint into the state of a session: those that `wanted` names.
pub fn restore(session: &mut Session, checkpoint: &TensorFile, wanted: &[String]) -> anyhow::Result<()> {
    let layout = session.state_layout();
    let needed: Vec<_> = layout.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
    for (name, ty) in &needed {
        let value = checkpoint.tensor(name)?;
        if value.ty() != ty {
            let path = checkpoint.path().display();
            bail!(
                "`{path}`: tensor `{name}` must be {ty}, found {}; give the configuration of that run",
                value.ty()
            );
        }
        session.set_state(name, &value)?;
    }
    Ok(())
}

/// Opens a file of tensors, or the newest checkpoint of a run folder.
pub fn open_tensors(path: &Path) -> anyhow::Result<TensorFile> {
    match path.is_dir() {
        true => Ok(TensorFile::open(open_checkpoint(path)?.path())?),
        false => Ok(TensorFile::open(path)?),
    }
}

/// Opens the newest checkpoint of a run folder, or the checkpoint file itself.
pub fn open_checkpoint(path: &Path) -> anyhow::Result<Checkpoint> {
    if !path.is_dir() {
        return Ok(Checkpoint::open(path)?);
    }
    let folder = if path.join("checkpoints").is_dir() { path.join("checkpoints") } else { path.into() };
    let latest = crate::checkpoint::latest(&folder)?;
    for problem in &latest.skipped {
        note(format_args!("passed over: {problem}"));
    }
    latest.checkpoint.with_context(|| format!("`{}` holds no checkpoint", folder.display()))
}
