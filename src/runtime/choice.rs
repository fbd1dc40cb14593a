//! Which runtime a command asks for.

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
    /// Errors: [`RuntimeError::NoTpu`] on a machine without one, where libtpu would ask the network for minutes.
    pub fn open_plugin(&self, num_devices: usize) -> Result<Option<Box<dyn Backend>>, RuntimeError> {
        if *self == Self::Tpu && !has_tpu() {
            return Err(RuntimeError::NoTpu);
        }
        let Some(path) = self.plugin()? else { return Ok(None) };
        Ok(Some(Box::new(pjrt::open(&path, num_devices)?)))
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
    fn names_are_read_as_they_are_printed() {
        for name in ["cpu", "cuda", "tpu", "plugin:/lib/a:b.so"] {
            assert_eq!(name.parse::<RuntimeChoice>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "plugin", "plugin:", "cpu:0", "CUDA"] {
            assert!(name.parse::<RuntimeChoice>().is_err(), "{name}");
        }
    }
}
