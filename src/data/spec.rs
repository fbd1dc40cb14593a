//! The settings of the data, as plain values.

use super::error::DataError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a model learns to predict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Spans replaced by sentinels in the inputs, asked for in the targets (T5, Raffel et al., 2020, section 3.1.4).
    SpanCorruption {
        /// Share of tokens that are corrupted, in (0, 1); T5: 0.15.
        noise_density: f64,
        /// Mean length of a corrupted span in tokens, at least 1; T5: 3.
        mean_span_length: f64,
    },
    /// The next token of a stretch of text: targets only. (Braces, so that serde refuses unknown keys here too.)
    Causal {},
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerSpec {
    /// UTF-8 bytes: pad 0, eos 1, unknown 2, byte `b` is `b + 3`, sentinel `n` is `vocab_size - 1 - n`.
    Bytes {
        #[serde(default = "default_sentinels")]
        num_sentinels: u32,
    },
    /// A Hugging Face `tokenizer.json` on disk.
    HuggingFace {
        path: PathBuf,
        /// Text of the token that ends a document; without it the usual names are tried (`</s>` first).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eos_token: Option<String>,
    },
}

fn default_sentinels() -> u32 {
    TokenizerSpec::NUM_SENTINELS
}

impl TokenizerSpec {
    /// Sentinels of a tokenizer that does not say how many it has (T5: 100).
    pub const NUM_SENTINELS: u32 = 100;

    /// Bytes with the usual number of sentinels.
    pub fn bytes() -> Self {
        Self::Bytes { num_sentinels: Self::NUM_SENTINELS }
    }
}

/// Where the text lies and the shape of the batches made from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Text files, `.jsonl` files (one object with a string `text` per line) and folders of them.
    pub paths: Vec<PathBuf>,
    pub objective: Objective,
    pub tokenizer: TokenizerSpec,
    /// Ids are below it; it may exceed what the tokenizer needs.
    pub vocab_size: u32,
    /// Rows of a batch.
    pub sequences: usize,
    /// Tokens per row of the inputs; not used by the causal objective.
    pub input_length: usize,
    /// Tokens per row of the targets; for span corruption at least what
    /// [`span_corruption_lengths`](super::span_corruption_lengths) gives for `input_length`, padded beyond it.
    pub target_length: usize,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_and_tokenizers_read_from_tagged_json() {
        let span = r#"{"kind":"span_corruption","noise_density":0.15,"mean_span_length":3.0}"#;
        assert_eq!(
            serde_json::from_str::<Objective>(span).unwrap(),
            Objective::SpanCorruption { noise_density: 0.15, mean_span_length: 3.0 }
        );
        assert_eq!(serde_json::from_str::<Objective>(r#"{"kind":"causal"}"#).unwrap(), Objective::Causal {});
        assert_eq!(
            serde_json::from_str::<TokenizerSpec>(r#"{"kind":"bytes"}"#).unwrap(),
            TokenizerSpec::bytes()
        );
        let hf = TokenizerSpec::HuggingFace { path: "t.json".into(), eos_token: None };
        let text = serde_json::to_string(&hf).unwrap();
        assert_eq!(text, r#"{"kind":"hugging_face","path":"t.json"}"#);
        assert_eq!(serde_json::from_str::<TokenizerSpec>(&text).unwrap(), hf);
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [r#"{"kind":"causal","noise":1}"#, r#"{"kind":"prefix"}"#] {
            assert!(serde_json::from_str::<Objective>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<TokenizerSpec>(r#"{"kind":"bytes","path":"x"}"#).is_err());
    }
}
