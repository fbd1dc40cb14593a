//! What can go wrong while reporting.

use std::io;
use std::path::{Path, PathBuf};

/// Why metrics, events or a picture could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{}: line {line}: expected a record of metrics as JSON; remove the line to go on", path.display())]
    Line { path: PathBuf, line: usize, source: serde_json::Error },

    #[error("{}: line {line}: expected a step above {last}, found {found}; remove the line to go on", path.display())]
    StepOrder { path: PathBuf, line: usize, last: u64, found: u64 },

    #[error("metrics: expected a step above {last}, the last one written, found {found}")]
    StepNotNew { last: u64, found: u64 },

    #[error("metrics: step {step}: the name `{name}` is {why}")]
    BadName { step: u64, name: String, why: &'static str },

    #[error("picture: drawing failed: {message}")]
    Draw { message: String },
}

impl ReportError {
    /// Wraps an error of the file system: `cannot {action} {path}`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| ReportError::Io { action, path, source }
    }
}
