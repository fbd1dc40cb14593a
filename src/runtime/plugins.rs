//! Looks for PJRT plugins on disk: in variables that name them, and in Python's package folders. Loads nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// A file that looks like a PJRT plugin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PluginFile {
    pub path: PathBuf,
    /// The variable that names it, or the package folder it lies in.
    pub found_by: String,
}

/// What a plugin is for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginKind {
    Cpu,
    Cuda,
    Tpu,
    Other,
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tpu => "tpu",
            Self::Other => "other",
        })
    }
}

impl PluginFile {
    /// What it is for: its name says it, or the folder of its package.
    pub fn kind(&self) -> PluginKind {
        kind(&self.path)
    }

    fn origin(&self) -> Origin {
        let runtime = super::native::runtime_folder();
        match () {
            () if VARIABLES.contains(&self.found_by.as_str()) => Origin::Variable,
            () if Path::new(&self.found_by).starts_with(runtime) => Origin::Fetched,
            () => Origin::Package,
        }
    }
}

/// What the plugin in this file is for, see [`PluginFile::kind`].
pub fn kind(path: &Path) -> PluginKind {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = format!("{folder}/{}", file_name(path)).to_lowercase();
    match () {
        () if name.contains("libtpu") => PluginKind::Tpu,
        () if name.contains("cuda") => PluginKind::Cuda,
        () if name.contains("cpu") => PluginKind::Cpu,
        () => PluginKind::Other,
    }
}

/// The plugin of this kind to run on: one that a variable names, else the first in a package, which brings the libraries of its
/// devices, else what set-up fetched.
pub fn first(kind: PluginKind) -> Option<PathBuf> {
    best(kind, [Origin::Variable, Origin::Package, Origin::Fetched])
}

/// The plugin of this kind to compile with, without devices: one that a variable names, else what set-up fetched.
pub fn compiler(kind: PluginKind) -> Option<PathBuf> {
    best(kind, [Origin::Variable, Origin::Fetched, Origin::Package])
}

fn best(kind: PluginKind, order: [Origin; 3]) -> Option<PathBuf> {
    let found: Vec<PluginFile> =
        find().into_iter().filter(|file| file.kind() == kind && file.path.is_file()).collect();
    let of = |origin: &Origin| found.iter().find(|file| file.origin() == *origin);
    order.iter().find_map(of).map(|file| file.path.clone())
}

/// Who put a plugin where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Variable,
    Package,
    Fetched,
}

/// The variables whose value names plugins, alone or as `name:path,name:path`.
const VARIABLES: [&str; 3] = ["PJRT_NAMES_AND_LIBRARY_PATHS", "XLA_PJRT_PLUGIN", "TPU_LIBRARY_PATH"];

/// The folders of the runtime that set-up fetches plugins into.
const FETCHED: [&str; 4] = ["lib", "tpu", "cpu-plugin", "cuda/plugin"];

/// All plugins that can be found without running anything, in order of path.
pub fn find() -> Vec<PluginFile> {
    let mut found = BTreeSet::new();
    for name in VARIABLES {
        let value = std::env::var(name).unwrap_or_default();
        found.extend(paths_in(&value).map(|path| PluginFile { path, found_by: name.to_owned() }));
    }
    let runtime = super::native::runtime_folder();
    let fetched = FETCHED.map(|folder| runtime.join(folder));
    for folder in package_folders().into_iter().chain(fetched) {
        let found_by = folder.display().to_string();
        found.extend(plugins_in(&folder).map(|path| PluginFile { path, found_by: found_by.clone() }));
    }
    found.into_iter().collect()
}

/// The paths in `path` or `name:path,name:path`.
fn paths_in(value: &str) -> impl Iterator<Item = PathBuf> {
    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| match entry.split_once(':') {
        Some((_, path)) => PathBuf::from(path),
        None => PathBuf::from(entry),
    })
}

/// `site-packages` and `dist-packages` of the Pythons on PATH, of the active environment and of the user.
fn package_folders() -> BTreeSet<PathBuf> {
    let mut prefixes: Vec<PathBuf> = vec!["/usr".into(), "/usr/local".into()];
    prefixes.extend(["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os).map(PathBuf::from));
    if let Some(home) = std::env::home_dir() {
        prefixes.push(home.join(".local"));
        prefixes.extend(children(&home.join(".pyenv/versions")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    prefixes.extend(std::env::split_paths(&path).filter_map(|bin| Some(bin.parent()?.to_owned())));
    let pythons = prefixes.iter().flat_map(|prefix| children(&prefix.join("lib")));
    let pythons = pythons.filter(|path| file_name(path).starts_with("python"));
    let folders = pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)));
    folders.filter_map(|folder| folder.canonicalize().ok()).collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Plugins at most three folders deep, which is as deep as the known packages put them.
fn plugins_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let files = walkdir::WalkDir::new(folder).max_depth(4).into_iter().filter_map(Result::ok);
    let files = files.filter(|entry| is_plugin_name(&entry.file_name().to_string_lossy()));
    files.filter(|entry| entry.path().is_file()).map(|entry| entry.into_path())
}

fn is_plugin_name(name: &str) -> bool {
    let library = name.ends_with(".so") || name.ends_with(".dylib");
    let pjrt = name.contains("pjrt") && name.contains("plugin");
    let xla = name.starts_with("xla_") && name.contains("_plugin.");
    library && (pjrt || xla || name == "libtpu.so")
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(OsStr::new("")).to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_files_are_told_by_their_names() {
        for name in
            ["xla_cuda_plugin.so", "libtpu.so", "pjrt_c_api_gpu_plugin.so", "pjrt_plugin_metal_14.dylib"]
        {
            assert!(is_plugin_name(name), "{name}");
        }
        for name in ["libpjrt_registry.so", "xla_cuda_plugin.py", "libtpu.so.txt", "numpy.so"] {
            assert!(!is_plugin_name(name), "{name}");
        }
    }

    #[test]
    fn kinds_are_told_by_file_and_folder() {
        let kind = |path: &str| PluginFile { path: path.into(), found_by: String::new() }.kind();
        assert_eq!(kind("/a/libtpu/libtpu.so"), PluginKind::Tpu);
        assert_eq!(kind("/a/jax_plugins/xla_cuda13/xla_cuda_plugin.so"), PluginKind::Cuda);
        assert_eq!(kind("/a/xla_cuda13/pjrt_c_api_gpu_plugin.so"), PluginKind::Cuda);
        assert_eq!(kind("/a/cuda/plugin/xla_cuda_plugin.so"), PluginKind::Cuda);
        assert_eq!(kind("/a/cpu-plugin/pjrt_c_api_cpu_plugin.so"), PluginKind::Cpu);
        assert_eq!(kind("/cuda/x/pjrt_plugin_metal_14.dylib"), PluginKind::Other);
    }

    #[test]
    fn variables_name_one_path_or_a_list_with_names() {
        let paths = |value| paths_in(value).map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths("/lib/a.so"), ["/lib/a.so"]);
        assert_eq!(paths("cuda:/a.so, tpu:/b.so"), ["/a.so", "/b.so"]);
        assert!(paths("").is_empty());
    }

    #[test]
    fn plugins_are_found_inside_packages() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("jax_plugins/xla_cuda13");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join("xla_cuda_plugin.so"), "").unwrap();
        std::fs::write(package.join("version.py"), "").unwrap();
        assert_eq!(plugins_in(folder.path()).collect::<Vec<_>>(), [package.join("xla_cuda_plugin.so")]);
    }
}
