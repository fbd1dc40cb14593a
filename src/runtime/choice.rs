//! Which runtime a command asks for.

use super::pjrt::Attribute;
use super::plugins::{self, PluginKind};
use super::{Backend, RuntimeError, pjrt};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A runtime by name: `cpu`, `cuda`, `tpu` or `plugin:PATH`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// The in-process CPU runtime.
    #[default]
    Cpu,
    /// The plugin for NVIDIA's GPUs, where one is found.
    Cuda,
    /// The plugin for TPUs, where one is found.
    Tpu,
    /// The plugin in this file.
    Plugin(PathBuf),
}

/// The share of each GPU's memory that the runtime takes when it starts and hands out itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryFraction(f32);

impl Default for MemoryFraction {
    /// Leaves the driver and the libraries a tenth.
    fn default() -> Self {
        Self(0.9)
    }
}

impl FromStr for MemoryFraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f32>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self(share)),
            _ => Err("expected a number above 0, to 1".into()),
        }
    }
}

impl FromStr for RuntimeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda),
            None if text == "tpu" => Ok(Self::Tpu),
            Some(("plugin", path)) if !path.is_empty() => Ok(Self::Plugin(path.into())),
            _ => Err("expected cpu, cuda, tpu or plugin:PATH".into()),
        }
    }
}

impl fmt::Display for RuntimeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda => f.write_str("cuda"),
            Self::Tpu => f.write_str("tpu"),
            Self::Plugin(path) => write!(f, "plugin:{}", path.display()),
        }
    }
}

impl RuntimeChoice {
    /// The file of the plugin; `None` for the CPU runtime, which is none.
    ///
    /// Errors: [`RuntimeError::NoPlugin`] if no file of this kind is found.
    pub fn plugin(&self) -> Result<Option<PathBuf>, RuntimeError> {
        let kind = match self {
            Self::Cpu => return Ok(None),
            Self::Plugin(path) => return Ok(Some(path.clone())),
            Self::Cuda => PluginKind::Cuda,
            Self::Tpu => PluginKind::Tpu,
        };
        plugins::first(kind).map(Some).ok_or(RuntimeError::NoPlugin { kind })
    }

    /// Opens the plugin with at least this many devices; `None` for the CPU runtime.
    ///
    /// Errors: [`RuntimeError::NoTpu`] on a machine without one, where libtpu would ask the network for minutes;
    /// [`RuntimeError::NoFraction`] for devices other than GPUs.
    pub fn open_plugin(
        &self,
        num_devices: usize,
        memory: Option<MemoryFraction>,
    ) -> Result<Option<Box<dyn Backend>>, RuntimeError> {
        if *self == Self::Tpu && !has_tpu() {
            return Err(RuntimeError::NoTpu);
        }
        let path = self.plugin()?;
        let kind = path.as_deref().map_or(PluginKind::Cpu, plugins::kind);
        if memory.is_some() && kind != PluginKind::Cuda {
            return Err(RuntimeError::NoFraction { runtime: self.to_string() });
        }
        let Some(path) = path else { return Ok(None) };
        let options = options(kind, memory.unwrap_or_default());
        Ok(Some(Box::new(pjrt::open(&path, num_devices, &options)?)))
    }
}

/// What a plugin of this kind is told when it opens devices. Others than that for GPUs refuse what they do not know.
fn options(kind: PluginKind, MemoryFraction(fraction): MemoryFraction) -> Vec<(&'static str, Attribute)> {
    match kind {
        PluginKind::Cuda => {
            vec![("memory_fraction", Attribute::Float(fraction)), ("preallocate", Attribute::Bool(true))]
        }
        PluginKind::Cpu | PluginKind::Tpu | PluginKind::Other => vec![],
    }
}

/// Whether the kernel shows TPU chips.
fn has_tpu() -> bool {
    let entries = |folder| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let accelerator = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("accel");
    entries("/dev").any(accelerator) || entries("/dev/vfio").count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_memory_is_above_0_and_at_most_1() {
        for text in ["0.01", "0.9", "1"] {
            assert_eq!(text.parse(), Ok(MemoryFraction(text.parse().unwrap())));
        }
        for text in ["", "0", "-0.5", "1.1", "nan", "90%"] {
            assert!(text.parse::<MemoryFraction>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_printed() {
        for name in ["cpu", "cuda", "tpu", "plugin:/lib/a:b.so"] {
            assert_eq!(name.parse::<RuntimeChoice>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "plugin", "plugin:", "cpu:0", "CUDA"] {
            assert!(name.parse::<RuntimeChoice>().is_err(), "{name}");
        }
    }
}
