//! What can be wrong with a tensor file.

use crate::ir::{LiteralError, TensorType};
use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why a tensor file or checkpoint could not be written or was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{}: expected a regular file in safetensors format, found something else", path.display())]
    NotAFile { path: PathBuf },

    #[error("{}: expected at least 8 bytes of header length, found a file of {found_bytes} bytes", path.display())]
    TooShort { path: PathBuf, found_bytes: u64 },

    #[error(
        "{}: not a safetensors file: expected a JSON header of at most {limit_bytes} bytes, found a length of {found_bytes}",
        path.display()
    )]
    HeaderTooLarge { path: PathBuf, limit_bytes: u64, found_bytes: u64 },

    #[error(
        "{}: truncated: the header needs {expected_bytes} bytes, the file has {found_bytes}; use an older checkpoint",
        path.display()
    )]
    HeaderTruncated { path: PathBuf, expected_bytes: u64, found_bytes: u64 },

    #[error("{}: expected a JSON header that describes named tensors", path.display())]
    Header { path: PathBuf, source: serde_json::Error },

    #[error("{}: tensor `{tensor}`: unknown element type `{found}`, expected one of {expected}", path.display())]
    UnknownDType { path: PathBuf, tensor: String, found: String, expected: String },

    #[error("{}: tensor `{tensor}`: the size of {dtype}{shape:?} overflows", path.display())]
    ShapeTooLarge { path: PathBuf, tensor: String, dtype: String, shape: Vec<u64> },

    #[error(
        "{}: tensor `{tensor}`: {ty} has {expected_bytes} bytes, its offsets {begin}..{end} span another number",
        path.display()
    )]
    SizeMismatch { path: PathBuf, tensor: String, ty: TensorType, expected_bytes: u64, begin: u64, end: u64 },

    #[error(
        "{}: tensor `{tensor}`: expected data at offset {expected}, where the tensor before ends, found {found}",
        path.display()
    )]
    OverlapOrGap { path: PathBuf, tensor: String, expected: u64, found: u64 },

    #[error(
        "{}: truncated: tensor `{tensor}` ends at offset {expected_bytes}, the file holds {found_bytes} bytes of data",
        path.display()
    )]
    OutOfFile { path: PathBuf, tensor: String, expected_bytes: u64, found_bytes: u64 },

    #[error("{}: expected {expected_bytes} bytes of data, found {found_bytes}", path.display())]
    TrailingBytes { path: PathBuf, expected_bytes: u64, found_bytes: u64 },

    #[error("{}: tensor `{tensor}`: element {index} of a pred must be 0 or 1, found {found}", path.display())]
    BadPred { path: PathBuf, tensor: String, index: usize, found: u8 },

    #[error("{}: no tensor named `{tensor}`, found {num_tensors} others", path.display())]
    NoSuchTensor { path: PathBuf, tensor: String, num_tensors: usize },

    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    TypeMismatch { path: PathBuf, tensor: String, expected: TensorType, found: TensorType },

    #[error("{}: tensor {index}: expected `{expected}`, found `{found}`", path.display())]
    NameMismatch { path: PathBuf, index: usize, expected: String, found: String },

    #[error("{}: expected a state of {expected} tensors, found {found}", path.display())]
    CountMismatch { path: PathBuf, expected: usize, found: usize },

    #[error("{}: not a checkpoint: the metadata has no `{key}`", path.display())]
    NoMetadata { path: PathBuf, key: &'static str },

    #[error("{}: metadata `{key}`: expected {expected}, found `{found}`", path.display())]
    BadMetadata { path: PathBuf, key: &'static str, expected: String, found: String },

    #[error(
        "{}: checkpoint format version `{found}` is not supported, expected {expected}; use the program that wrote it",
        path.display()
    )]
    Version { path: PathBuf, expected: u32, found: String },

    #[error("{}: damaged: expected state digest {expected}, found {found}; use an older checkpoint", path.display())]
    DigestMismatch { path: PathBuf, expected: String, found: String },

    #[error("{}: tensor `{tensor}`: the name is {why}", path.display())]
    BadName { path: PathBuf, tensor: String, why: &'static str },

    #[error("{}: tensor `{tensor}`: expected {expected_bytes} bytes, {found_bytes} were given", path.display())]
    DataLength { path: PathBuf, tensor: String, expected_bytes: u64, found_bytes: u64 },

    #[error("{}: tensor `{tensor}`: its value could not be fetched", path.display())]
    Fetch { path: PathBuf, tensor: String, source: Box<dyn Error + Send + Sync> },

    #[error("{}: tensor `{tensor}`", path.display())]
    Literal { path: PathBuf, tensor: String, source: LiteralError },
}

impl CheckpointError {
    /// Wraps an error of the file system: `cannot {action} {path}`.
    pub(super) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { action, path, source }
    }
}
