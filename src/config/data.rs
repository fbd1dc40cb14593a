//! What a model learns from: objective, tokenizer, shuffling.

use serde::{Deserialize, Serialize};

/// Sentinels of the byte tokenizer, as many as T5 has.
pub const NUM_SENTINELS: usize = 100;

/// Ids that the byte tokenizer uses: padding, end, unknown, 256 bytes and the sentinels.
pub const BYTES_VOCABULARY: usize = 3 + 256 + NUM_SENTINELS;

/// Where batches come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// What is predicted.
    pub objective: Objective,
    /// How text becomes ids.
    pub tokenizer: TokenizerSpec,
    /// Examples in the shuffle buffer; 1 keeps the order of the files.
    pub shuffle_examples: usize,
    /// Share of examples kept from training, for evaluation.
    pub held_out: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            tokenizer: TokenizerSpec::Bytes,
            shuffle_examples: 1024,
            held_out: 0.05,
        }
    }
}

/// What is predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Spans of the text are replaced by sentinels, the decoder writes them (T5, section 3.1.4).
    SpanCorruption {
        /// Share of tokens that are replaced.
        #[serde(default = "default_noise_density")]
        noise_density: f64,
        /// Mean tokens of a span.
        #[serde(default = "default_mean_span")]
        mean_span_length: f64,
    },
    /// Each token is predicted from those before it.
    Causal,
    /// Pairs of texts, one JSON object per line: the target is predicted from the input.
    TextToText {
        /// The field that holds the input.
        #[serde(default = "default_input_field")]
        input_field: String,
        /// The field that holds the target.
        #[serde(default = "default_target_field")]
        target_field: String,
    },
}

fn default_input_field() -> String {
    "input".to_owned()
}

fn default_target_field() -> String {
    "target".to_owned()
}

fn default_noise_density() -> f64 {
    0.15
}

fn default_mean_span() -> f64 {
    3.0
}

impl Default for Objective {
    fn default() -> Self {
        Objective::SpanCorruption {
            noise_density: default_noise_density(),
            mean_span_length: default_mean_span(),
        }
    }
}

impl Objective {
    /// Text to text with the usual names of the fields.
    pub fn text_to_text() -> Self {
        Objective::TextToText { input_field: default_input_field(), target_field: default_target_field() }
    }

    /// Decoder tokens that rows of `input_length` fill exactly; as many as inputs where targets have any length.
    pub fn exact_target_length(&self, input_length: usize) -> usize {
        match *self {
            Objective::SpanCorruption { noise_density, mean_span_length } => {
                span_corruption_lengths(input_length, noise_density, mean_span_length).targets
            }
            Objective::Causal | Objective::TextToText { .. } => input_length,
        }
    }
}

/// How text becomes ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerSpec {
    /// UTF-8 bytes, no file needed: pad 0, end 1, unknown 2, byte `b` is `b + 3`, sentinel `n` is `vocab_size - 1 - n`.
    Bytes,
    /// A Hugging Face `tokenizer.json`.
    HuggingFace {
        /// The file.
        path: String,
        /// Text of the token that ends a document; without it the usual names are tried, `</s>` first.
        #[serde(default)]
        eos_token: Option<String>,
    },
}

/// Lengths of one example of span corruption, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SpanLengths {
    /// Tokens of text that one example takes.
    pub tokens: usize,
    /// Encoder tokens, sentinels and end included; `input_length` or little less.
    pub inputs: usize,
    /// Decoder tokens, sentinels and end included.
    pub targets: usize,
    /// Tokens of text that are replaced.
    pub noise_tokens: usize,
    /// Spans, and so sentinels on either side.
    pub spans: usize,
}

impl SpanLengths {
    /// Lengths for a text of `tokens`, at least 2.
    ///
    /// `noise = round(tokens * noise_density)` within `1..tokens`, `spans = round(noise / mean_span)` from 1 to the number of
    /// replaced and of kept tokens, rounding halves to even; inputs are `tokens - noise + spans + 1`, targets
    /// `noise + spans + 1`.
    /// Source: T5 (Raffel et al., 2020), section 3.1.4, and its published data pipeline.
    pub fn of(tokens: usize, noise_density: f64, mean_span: f64) -> Self {
        let noise = (tokens as f64 * noise_density).round_ties_even() as usize;
        let noise_tokens = noise.clamp(1, tokens.saturating_sub(1).max(1));
        let kept = tokens.saturating_sub(noise_tokens);
        let spans = (noise_tokens as f64 / mean_span).round_ties_even() as usize;
        // A span and the text before it each have at least one token.
        let spans = spans.clamp(1, noise_tokens.min(kept).max(1));
        Self { tokens, inputs: kept + spans + 1, targets: noise_tokens + spans + 1, noise_tokens, spans }
    }
}

/// The longest text whose corrupted form fits into `input_length` encoder tokens, end token included.
///
/// Wants a density within 0 and 1 and a mean of at least 1. All lengths are 0 if nothing fits.
/// Source: T5, `random_spans_helper`.
pub fn span_corruption_lengths(input_length: usize, noise_density: f64, mean_span: f64) -> SpanLengths {
    // Inputs never shrink as the text grows (one more token adds at most one of noise and at most one span),
    // so a search by halves finds the last fit. No text is longer than the bound: lengths stay below 2^32.
    let (mut fits, mut exceeds) = (1, u32::MAX as usize);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        if SpanLengths::of(middle, noise_density, mean_span).inputs <= input_length {
            fits = middle;
        } else {
            exceeds = middle;
        }
    }
    if fits < 2 {
        return SpanLengths { tokens: 0, inputs: 0, targets: 0, noise_tokens: 0, spans: 0 };
    }
    SpanLengths::of(fits, noise_density, mean_span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(input_length: usize) -> (usize, usize) {
        let found = span_corruption_lengths(input_length, 0.15, 3.0);
        assert_eq!(found.inputs, input_length);
        (found.tokens, found.targets)
    }

    #[test]
    fn lengths_are_those_of_t5() {
        assert_eq!(lengths(64), (70, 14));
        assert_eq!(lengths(128), (141, 29));
        assert_eq!(lengths(256), (284, 58));
        assert_eq!(lengths(512), (568, 114));
        assert_eq!(lengths(1024), (1137, 229));
    }

    #[test]
    fn the_shortest_example_has_one_kept_token_one_sentinel_and_the_end() {
        // 2 tokens: noise 1, spans 1, inputs 2 - 1 + 1 + 1 = 3, targets 1 + 1 + 1 = 3.
        let found = span_corruption_lengths(3, 0.15, 3.0);
        assert_eq!((found.tokens, found.inputs, found.targets), (2, 3, 3));
        assert_eq!(span_corruption_lengths(2, 0.15, 3.0).tokens, 0);
        assert_eq!(span_corruption_lengths(0, 0.15, 3.0).targets, 0);
    }

    #[test]
    fn halves_round_to_even() {
        // 10 tokens * 0.25 = 2.5 -> 2 noise tokens; 2 / 4 = 0.5 -> 0 -> at least 1 span.
        let found = SpanLengths::of(10, 0.25, 4.0);
        assert_eq!((found.noise_tokens, found.spans), (2, 1));
        // 14 * 0.25 = 3.5 -> 4; 4 / 1.6 = 2.5 -> 2.
        let found = SpanLengths::of(14, 0.25, 1.6);
        assert_eq!((found.noise_tokens, found.spans), (4, 2));
    }

    #[test]
    fn each_span_has_a_kept_token_before_it() {
        // 10 * 0.7 = 7 noise tokens in 7 / 1 spans, but 3 tokens are kept.
        let found = SpanLengths::of(10, 0.7, 1.0);
        assert_eq!((found.noise_tokens, found.spans, found.inputs, found.targets), (7, 3, 7, 11));
    }

    #[test]
    fn nonsense_numbers_give_lengths_without_panic() {
        for density in [f64::NAN, -1.0, 0.0, 1.0, f64::INFINITY, 0.999_999] {
            for mean in [f64::NAN, -1.0, 0.0, 1e-300, f64::INFINITY] {
                for length in [0, 1, 2, 3, 100, usize::MAX] {
                    span_corruption_lengths(length, density, mean);
                }
            }
        }
    }
}
