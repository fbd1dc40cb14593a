//! Why a configuration is refused.

use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration is refused; values are shown as JSON, cut where they are long.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a configuration by its size.
    #[error("config {}: expected at most {limit_bytes} bytes, found more", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// The text is not JSON, or an object has a key twice.
    #[error("config is not valid JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// A key that no field has.
    #[error("{path}: unknown field{}; allowed here: {}", suggestion(closest), allowed.join(", "))]
    UnknownField {
        /// Where, from the root.
        path: String,
        /// The fields of this object.
        allowed: Vec<String>,
        /// The field that is probably meant.
        closest: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("{path}: {message}{}", example.as_ref().map(|e| format!("; for example {e}")).unwrap_or_default())]
    Type {
        /// Where, from the root.
        path: String,
        /// What was expected and what was found.
        message: String,
        /// A value that fits, as JSON.
        example: Option<String>,
    },
    /// A value that cannot work.
    #[error("{path}: found {found}, expected {expected}; for example {example}")]
    Value {
        /// Where, from the root.
        path: String,
        /// The value.
        found: String,
        /// What is allowed.
        expected: String,
        /// A value that would work here.
        example: String,
    },
    /// A tensor too large to count.
    #[error(
        "{path}: {tensor} would have {dims} = {elements} elements, expected at most {limit}; make one of {fields} smaller"
    )]
    TooLarge {
        /// The field that is most likely at fault.
        path: &'static str,
        /// What the tensor is.
        tensor: &'static str,
        /// Its dimensions, `a x b x c`.
        dims: String,
        /// Their product.
        elements: u128,
        /// The largest allowed count.
        limit: u128,
        /// The fields that the dimensions come from.
        fields: &'static str,
    },
    /// An override that is not `key=value`, or whose key leads through something that has no fields.
    #[error("override `{text}`: {reason}")]
    Override {
        /// As it was given.
        text: String,
        /// What is wrong.
        reason: String,
    },
}

fn suggestion(closest: &Option<String>) -> String {
    closest.as_ref().map(|name| format!(", did you mean {name}?")).unwrap_or_default()
}

/// The text, cut after `limit` characters.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
