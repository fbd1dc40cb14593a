//! What can be wrong with a folder of another library.

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use std::io;
use std::path::PathBuf;

/// Why a conversion was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{}: expected a JSON object of at most {limit_bytes} bytes", path.display())]
    TooLong { path: PathBuf, limit_bytes: u64 },

    #[error("{}: not valid JSON", path.display())]
    Json { path: PathBuf, source: serde_json::Error },

    #[error("{}: model_type is {found}, expected one of {}", path.display(), known.join(", "))]
    UnknownModel { path: PathBuf, found: String, known: Vec<&'static str> },

    #[error("{}: holds neither model.safetensors nor model.safetensors.index.json (other formats are not read)", path.display())]
    NoWeights { path: PathBuf },

    /// Everything that does not fit, in the order in which it was found.
    #[error("{}: {} of names, shapes and settings do not fit: {}", path.display(), problems.len(), listed(problems))]
    Refused { path: PathBuf, problems: Vec<Problem> },

    #[error("{}: exists already; give another folder", path.display())]
    Exists { path: PathBuf },

    #[error("{}: holds no configuration; expected config.json or artifact/manifest.json", path.display())]
    NoConfig { path: PathBuf },

    #[error("{}: the settings make no configuration", path.display())]
    Config { path: PathBuf, source: Box<ConfigError> },

    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl ConvertError {
    /// Wraps an error of the file system: `cannot {action} {path}`.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| ConvertError::Io { action, path, source }
    }
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("setting `{key}`: found {found}, expected {expected}")]
    Setting { key: String, found: String, expected: String },

    #[error("setting `{ours}` is {found}, which {model} cannot express: it has {expected}")]
    NotExpressible { ours: &'static str, found: String, model: &'static str, expected: String },

    #[error("parameter `{name}` has no counterpart in a {model} model")]
    Unmapped { name: String, model: &'static str },

    #[error("tensor `{name}` {shape:?} is missing")]
    Missing { name: String, shape: Vec<usize> },

    #[error("tensor `{name}` {shape:?} has no place in this model")]
    Unknown { name: String, shape: Vec<usize> },

    #[error("tensor `{name}`: shape is {found:?}, expected {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },

    #[error("tensor `{name}`: element type is {found}, expected f32, bf16 or f16")]
    ElementType { name: String, found: String },

    #[error("tensor `{name}` differs from `{other}`, whose numbers it must hold")]
    Differs { name: String, other: String },

    #[error("tensor `{name}` holds numbers that {dtype} cannot hold exactly; give --dtype to round them")]
    Rounding { name: String, dtype: String },

    #[error(
        "tensor `{name}` holds all experts of a layer; save the model with a tensor for each, as `save_pretrained` does \
         unless `save_original_format` is False"
    )]
    Packed { name: String },

    #[error("the settings ask for {asked} tensors, the files hold {found}")]
    Count { asked: usize, found: usize },

    #[error("file `{file}`: {why}")]
    File { file: String, why: String },

    #[error("tensor `{name}` should be in `{file}`, which does not hold it")]
    NotInFile { name: String, file: String },

    #[error("tensor `{name}` of `{file}` is not in the index")]
    NotInIndex { name: String, file: String },
}
