//! `config.json`: an object whose keys are read one by one, so that all that do not fit are found.

use super::error::{ConvertError, Problem};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub const FILE: &str = "config.json";

/// No `config.json` is longer.
const LIMIT_BYTES: u64 = 4 << 20;

/// Reads `config.json` of a folder.
pub fn read(folder: &Path) -> Result<Map<String, Value>, ConvertError> {
    read_object(&folder.join(FILE), LIMIT_BYTES)
}

/// Reads a file that holds one JSON object.
pub fn read_object(path: &Path, limit_bytes: u64) -> Result<Map<String, Value>, ConvertError> {
    let file = File::open(path).map_err(ConvertError::io("open", path))?;
    let mut text = String::new();
    let length = file.take(limit_bytes + 1).read_to_string(&mut text);
    if length.map_err(ConvertError::io("read", path))? as u64 > limit_bytes {
        return Err(ConvertError::TooLong { path: path.to_path_buf(), limit_bytes });
    }
    serde_json::from_str(&text).map_err(|source| ConvertError::Json { path: path.to_path_buf(), source })
}

/// An error and its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Reads keys; one of the wrong kind is a [`Problem`] and counts as absent.
pub struct Settings<'a> {
    /// Before the names of keys in problems.
    path: String,
    tree: &'a Map<String, Value>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Settings<'a> {
    pub fn new(tree: &'a Map<String, Value>, problems: &'a mut Vec<Problem>) -> Self {
        Self { path: String::new(), tree, problems }
    }

    /// The object under a key; none where it is absent, null or another value.
    pub fn nested(&mut self, key: &str) -> Option<Settings<'_>> {
        let tree = self.typed(key, "an object", Value::as_object)?;
        Some(Settings { path: format!("{}{key}.", self.path), tree, problems: self.problems })
    }

    /// Whether the key is there, null or not.
    pub fn has(&self, key: &str) -> bool {
        self.tree.contains_key(key)
    }

    /// The value of a key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.tree.get(key).filter(|value| !value.is_null())
    }

    /// A whole number; `default` where the key is absent.
    pub fn count(&mut self, key: &str, default: usize) -> usize {
        self.optional_count(key).unwrap_or(default)
    }

    /// A whole number, or none where the key is absent or null.
    pub fn optional_count(&mut self, key: &str) -> Option<usize> {
        let whole = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        self.typed(key, "a whole number", whole)
    }

    pub fn number(&mut self, key: &str, default: f64) -> f64 {
        self.typed(key, "a number", Value::as_f64).unwrap_or(default)
    }

    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        self.typed(key, "true or false", Value::as_bool).unwrap_or(default)
    }

    /// One of these texts; the first where the key is absent.
    pub fn choice<T: Copy>(&mut self, key: &str, known: &[(&str, T)], default: T) -> T {
        let Some(found) = self.get(key) else { return default };
        match known.iter().find(|(name, _)| found == *name) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                self.refuse(key, &names.join(" or "));
                default
            }
        }
    }

    /// A key with one value that works here; it may be absent.
    pub fn only(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let same = |found: &Value| match (found.as_f64(), value.as_f64()) {
            (Some(found), Some(value)) => found == value,
            _ => *found == value,
        };
        if self.get(key).is_some_and(|found| !same(found)) {
            self.refuse(key, &value.to_string());
        }
    }

    /// A key that must not be there, or be null.
    pub fn absent(&mut self, key: &str, expected: &str) {
        if self.get(key).is_some() {
            self.refuse(key, expected);
        }
    }

    /// Notes that the value of `key` does not fit.
    pub fn refuse(&mut self, key: &str, expected: &str) {
        let found = self.tree.get(key).unwrap_or(&Value::Null).to_string();
        let key = format!("{}{key}", self.path);
        self.problems.push(Problem::Setting { key, found, expected: expected.into() });
    }

    fn typed<T>(&mut self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = read(self.get(key)?);
        if value.is_none() {
            self.refuse(key, expected);
        }
        value
    }
}
