//! Where the compilers are found, and what they read from the environment of the child.

use super::chip::{Chip, Kind};
use crate::runtime::native::runtime_folder;
use crate::runtime::plugins::{self, PluginKind};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Something that compiles is missing.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum MissingError {
    #[error("no PJRT plugin that compiles for {kind} is found: {}, or give --plugin", set_up(*kind))]
    Plugin { kind: PluginKind },
    #[error("no ptxas and libdevice are found for {}: {}", plugin.display(), set_up(PluginKind::Cuda))]
    Toolkit { plugin: PathBuf },
}

/// How what compiles for these devices is fetched.
fn set_up(kind: PluginKind) -> &'static str {
    match kind {
        PluginKind::Tpu => "fetch libtpu with `scripts/setup.sh --with-libtpu`",
        _ => "fetch the CUDA compiler with `scripts/setup.sh --with-cuda-compiler`",
    }
}

/// What libtpu reads: ask no metadata server, keep no logs, do not lock devices that are not used.
const TPU_ENVIRONMENT: [(&str, &str); 7] = [
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_LOG_DIR", "disabled"),
    ("TPU_STDERR_LOG_LEVEL", "3"),
    ("TPU_MIN_LOG_LEVEL", "3"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
];

/// The compiler for a chip, as a plugin.
///
/// Errors: [`MissingError::Plugin`].
pub fn compiler(chip: &Chip) -> Result<PathBuf, MissingError> {
    let kind = match chip.kind {
        Kind::Tpu(_) => PluginKind::Tpu,
        Kind::Gpu(_) => PluginKind::Cuda,
    };
    plugins::compiler(kind).ok_or(MissingError::Plugin { kind })
}

/// The variables that a compiler is started with.
///
/// Errors: [`MissingError::Toolkit`] where the compiler of GPUs would call programs that are missing.
pub fn variables(chip: &Chip, plugin: &Path) -> Result<Vec<(&'static str, OsString)>, MissingError> {
    let Some(folder) = toolkit(chip, plugin)? else {
        return Ok(TPU_ENVIRONMENT.map(|(name, value)| (name, value.into())).to_vec());
    };
    let users = std::env::var_os("XLA_FLAGS").unwrap_or_default();
    Ok(vec![("XLA_FLAGS", flags(&folder, users)), ("TF_CPP_MIN_LOG_LEVEL", "2".into())])
}

/// The user's flags come last and win.
fn flags(folder: &Path, users: OsString) -> OsString {
    let mut flags = OsString::from("--xla_gpu_cuda_data_dir=");
    flags.extend([folder.as_os_str(), " ".as_ref(), &users]);
    flags
}

/// The folder of the programs that the compiler calls: for GPUs NVIDIA's assembler and its library of functions, for TPUs none.
///
/// Errors: [`MissingError::Toolkit`].
pub fn toolkit(chip: &Chip, plugin: &Path) -> Result<Option<PathBuf>, MissingError> {
    match chip.kind {
        Kind::Tpu(_) => Ok(None),
        Kind::Gpu(_) => match cuda_toolkit(plugin) {
            None => Err(MissingError::Toolkit { plugin: plugin.into() }),
            found => Ok(found),
        },
    }
}

/// Beside the plugin as set-up or JAX's packages put it, else where set-up or NVIDIA's own installation puts it.
fn cuda_toolkit(plugin: &Path) -> Option<PathBuf> {
    let ways = ["..", "../../nvidia/cu13", "../../nvidia/cuda_nvcc"];
    let beside = ways.map(|way| plugin.parent().map(|folder| folder.join(way)));
    let fetched = Some(runtime_folder().join("cuda"));
    let installed = [std::env::var_os("CUDA_HOME").map(PathBuf::from), Some("/usr/local/cuda".into())];
    let folders = beside.into_iter().chain([fetched]).chain(installed).flatten();
    folders.filter_map(|folder| folder.canonicalize().ok()).find(|folder| is_toolkit(folder))
}

fn is_toolkit(folder: &Path) -> bool {
    ["bin/ptxas", "nvvm/libdevice/libdevice.10.bc"].iter().all(|file| folder.join(file).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolkit_is_found_where_the_packages_put_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let file = |name: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let plugin = file("site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so");
        file("site-packages/nvidia/cu13/bin/ptxas");
        assert_ne!(cuda_toolkit(&plugin), Some(root.join("site-packages/nvidia/cu13")), "without libdevice");
        file("site-packages/nvidia/cu13/nvvm/libdevice/libdevice.10.bc");
        assert_eq!(cuda_toolkit(&plugin), Some(root.join("site-packages/nvidia/cu13")));
    }

    #[test]
    fn the_users_flags_come_last() {
        let flags = flags(Path::new("/cuda"), "--xla_gpu_cuda_data_dir=/mine".into());
        assert_eq!(flags, "--xla_gpu_cuda_data_dir=/cuda --xla_gpu_cuda_data_dir=/mine");
    }

    #[test]
    fn what_is_missing_comes_with_the_command_that_fetches_it() {
        let text = |error: MissingError| error.to_string();
        assert!(text(MissingError::Plugin { kind: PluginKind::Tpu }).contains("--with-libtpu"));
        assert!(text(MissingError::Plugin { kind: PluginKind::Cuda }).contains("--with-cuda-compiler"));
        assert!(text(MissingError::Toolkit { plugin: "/a.so".into() }).contains("--with-cuda-compiler"));
    }
}
