//! What can go wrong between a path and a batch.

use std::path::PathBuf;

/// An error of the data room.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("data: no path given; name at least one text file, .jsonl file or folder")]
    NoPaths,

    #[error("data: cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// Files were named, but none holds text.
    #[error("data: no text in {paths:?} ({skipped} files skipped as empty or binary)")]
    NoText { paths: Vec<PathBuf>, skipped: u64 },

    /// The share to train on has files, but they give no token.
    #[error("data: the training share has no tokens; give more text or lower held_out")]
    NoTokens,

    #[error(
        "data: cannot hold out {held_out} of a text of one segment ({bytes} bytes); give more text or set held_out to 0"
    )]
    TooSmallToSplit { held_out: f64, bytes: u64 },

    /// A line of a `.jsonl` file is no object with the strings that the objective reads.
    #[error("data: {} line {line}: expected {expected}", path.display())]
    JsonLine { path: PathBuf, line: u64, expected: String, source: serde_json::Error },

    /// A file without fields, where pairs are read.
    #[error("data: {}: text_to_text reads JSON lines: files whose names end in .jsonl", path.display())]
    NotJsonLines { path: PathBuf },

    #[error("data: {name} must be {expected}, found {found}")]
    Setting { name: &'static str, expected: String, found: String },

    #[error("tokenizer: {}: {reason}", path.display())]
    Tokenizer { path: PathBuf, reason: String },

    #[error("tokenizer: vocab_size must be at least {needed} ({why}), found {found}")]
    VocabTooSmall { needed: u64, found: u64, why: String },

    #[error(
        "data: span corruption of {tokens} tokens needs {needed} sentinels, the tokenizer has {found}; \
         use shorter inputs, longer spans or more sentinels"
    )]
    TooFewSentinels { tokens: usize, needed: usize, found: usize },

    #[error("tokenizer: cannot encode text: {reason}")]
    Encode { reason: String },

    #[error(
        "data position: the corpus differs from the one this position was taken in (files or sizes: digest {found}, \
         expected {expected}); restore the files or start from the beginning"
    )]
    CorpusChanged { expected: String, found: String },

    #[error(
        "data position: the data settings differ from those this position was taken with (objective, tokenizer, \
         lengths, shuffle_examples, held_out or seed: digest {found}, expected {expected}); use the same settings"
    )]
    SettingsChanged { expected: String, found: String },

    #[error("data position: {field} must be {expected}, found {found}")]
    BadPosition { field: &'static str, expected: String, found: u64 },

    #[error("data: cannot start the background thread")]
    Thread { source: std::io::Error },

    #[error("internal: the background thread of the data ended without a message")]
    Stopped,
}

impl DataError {
    pub(super) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn setting(
        name: &'static str,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Setting { name, expected: expected.into(), found: found.to_string() }
    }
}
