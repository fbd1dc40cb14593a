//! The settings of the data, as plain values.

use super::error::DataError;
use crate::config::{Objective, TokenizerSpec};
use std::path::PathBuf;

/// Where the text lies and the shape of the batches made from it.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSpec {
    /// Text files, `.jsonl` files (one object per line, with a string `text` or the fields of a pair) and folders of them.
    pub paths: Vec<PathBuf>,
    pub objective: Objective,
    pub tokenizer: TokenizerSpec,
    /// Ids are below it; it may exceed what the tokenizer needs.
    pub vocab_size: u32,
    /// Rows of a batch.
    pub sequences: usize,
    /// Tokens per row of the inputs; not used by the causal objective and for joined pairs.
    pub input_length: usize,
    /// Tokens per row of the targets; for span corruption at least what
    /// [`span_corruption_lengths`](crate::config::span_corruption_lengths) gives for `input_length`, padded beyond it.
    pub target_length: usize,
    /// Whether a pair is one row of targets, its target behind its input, as a decoder alone reads it.
    pub joined: bool,
    /// Whether a row holds several examples, where they fit.
    pub packing: bool,
    /// Consecutive examples that are shuffled together.
    pub shuffle_examples: usize,
    /// Share of the text, in [0, 1), that is kept from training; 0 keeps none.
    pub held_out: f64,
    pub seed: u64,
}

impl DataSpec {
    /// Checks what can be checked without a file. Errors: [`DataError::Setting`].
    pub(super) fn check(&self) -> Result<(), DataError> {
        if self.paths.is_empty() {
            return Err(DataError::NoPaths);
        }
        let positive = [
            ("sequences", self.sequences),
            ("target_length", self.target_length),
            ("shuffle_examples", self.shuffle_examples),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(DataError::setting(name, "at least 1", value));
            }
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return Err(DataError::setting(
                "held_out",
                "at least 0 and below 1, such as 0.02",
                self.held_out,
            ));
        }
        if i32::try_from(self.vocab_size).is_err() {
            return Err(DataError::setting("vocab_size", "at most 2147483647", self.vocab_size));
        }
        let widest = self.input_length.max(self.target_length);
        // Two i32 arrays of a batch must be addressable.
        match widest.checked_mul(self.sequences).and_then(|n| n.checked_mul(8)) {
            Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
            _ => Err(DataError::setting("sequences", "small enough for a batch in memory", self.sequences)),
        }
    }
}
