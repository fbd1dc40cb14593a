//! Turns raw tokens into examples: what the encoder reads and what the decoder writes.

use super::error::DataError;
use super::span::{self, corrupt};
use super::spec::DataSpec;
use super::tokenizer::{PAD, Tokenizer};
use crate::config::Objective;
use rand_chacha::ChaCha8Rng;

/// The static shape of an example under its objective.
#[derive(Clone, Debug)]
pub(super) struct ExampleShape {
    objective: Objective,
    /// Tokens of raw text per example; for pairs, at most so many of the target.
    pub(super) raw_tokens: usize,
    /// `None` for an objective with targets only.
    pub(super) input_length: Option<usize>,
    pub(super) target_length: usize,
    /// Whether the target of a pair stands behind its input, in one row.
    pub(super) joined: bool,
    /// Whether a row holds several examples.
    pub(super) packing: bool,
}

/// What an example is made of, as it is read.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// A stretch of text.
    Stretch(Vec<u32>),
    /// Input and target, without the token that ends them.
    Pair(Vec<u32>, Vec<u32>),
}

/// One example, no longer than a row on either side.
#[derive(Clone, Debug)]
pub(super) struct Example {
    /// Empty for an objective with targets only.
    pub(super) inputs: Vec<u32>,
    pub(super) targets: Vec<u32>,
    /// How many of the targets are the input of a joined pair.
    pub(super) prompt: usize,
    pub(super) truncated: Truncated,
}

/// How many examples were cut to the length of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    pub inputs: usize,
    pub targets: usize,
}

impl std::ops::AddAssign for Truncated {
    fn add_assign(&mut self, other: Self) {
        self.inputs += other.inputs;
        self.targets += other.targets;
    }
}

impl ExampleShape {
    /// Errors: lengths, noise or sentinels that do not go together.
    pub(super) fn new(spec: &DataSpec, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let (input_length, target_length) = (spec.input_length, spec.target_length);
        let shape = Self {
            objective: spec.objective.clone(),
            raw_tokens: target_length,
            input_length: Some(input_length),
            target_length,
            joined: false,
            packing: spec.packing,
        };
        match spec.objective {
            Objective::Causal => Ok(Self { input_length: None, ..shape }),
            Objective::TextToText { .. } if spec.joined => match target_length {
                0..3 => {
                    let expected = "at least 3, for a token of each side and the end";
                    Err(DataError::setting("target_length", expected, target_length))
                }
                _ => Ok(Self { input_length: None, joined: true, ..shape }),
            },
            Objective::TextToText { .. } => {
                for (name, length) in [("input_length", input_length), ("target_length", target_length)] {
                    if length < 2 {
                        return Err(DataError::setting(name, "at least 2, for a token and the end", length));
                    }
                }
                Ok(shape)
            }
            Objective::SpanCorruption { noise_density, mean_span_length } => {
                let lengths = span::lengths(input_length, noise_density, mean_span_length)?;
                if target_length < lengths.targets {
                    let expected =
                        format!("at least {} for an input_length of {input_length}", lengths.targets);
                    return Err(DataError::setting("target_length", expected, target_length));
                }
                let (needed, found) = (lengths.spans, tokenizer.num_sentinels());
                if needed > found {
                    return Err(DataError::TooFewSentinels { tokens: lengths.tokens, needed, found });
                }
                Ok(Self { raw_tokens: lengths.tokens, ..shape })
            }
        }
    }

    /// The shortest stretch that makes an example.
    pub(super) fn min_tokens(&self) -> usize {
        match self.objective {
            Objective::SpanCorruption { .. } => 2,
            Objective::Causal | Objective::TextToText { .. } => 1,
        }
    }

    /// The example of a stretch of `min_tokens..=raw_tokens` tokens or of a pair; `rng` draws its noise.
    ///
    /// Both sides of a pair end in eos. A side that is longer than its row is cut in front of it. Of a joined pair the target
    /// does so; it has all of the row but one place, the input what is left, and keeps its last tokens.
    pub(super) fn example(&self, raw: &Raw, mut rng: ChaCha8Rng, tokenizer: &Tokenizer) -> Example {
        let eos = tokenizer.eos();
        match (raw, &self.objective) {
            (Raw::Stretch(tokens), Objective::SpanCorruption { noise_density, mean_span_length }) => {
                // Enough sentinels: counted when the shape was made.
                let sentinel = |n| tokenizer.sentinel(n).unwrap_or(PAD);
                let span::Corrupted { inputs, targets } =
                    corrupt(tokens, *noise_density, *mean_span_length, &mut rng, sentinel, eos);
                Example { inputs, targets, prompt: 0, truncated: Truncated::default() }
            }
            (Raw::Stretch(tokens), _) => {
                let targets = tokens.clone();
                Example { inputs: vec![], targets, prompt: 0, truncated: Truncated::default() }
            }
            (Raw::Pair(input, target), _) if self.joined => {
                let (target, cut_target) = ended(target, self.target_length - 1, eos);
                let cut = (input.len() + target.len()).saturating_sub(self.target_length);
                let prompt = &input[cut..];
                let truncated = Truncated { inputs: (cut > 0).into(), targets: cut_target.into() };
                let targets = [prompt, &target].concat();
                Example { inputs: vec![], targets, prompt: prompt.len(), truncated }
            }
            (Raw::Pair(input, target), _) => {
                let (inputs, cut_input) = ended(input, self.input_length.unwrap_or(0), eos);
                let (targets, cut_target) = ended(target, self.target_length, eos);
                let truncated = Truncated { inputs: cut_input.into(), targets: cut_target.into() };
                Example { inputs, targets, prompt: 0, truncated }
            }
        }
    }
}

/// The tokens with eos behind them, at most `length` in all, and whether some had to go.
fn ended(tokens: &[u32], length: usize, eos: u32) -> (Vec<u32>, bool) {
    let kept = tokens.len().min(length.saturating_sub(1));
    let mut ids = tokens[..kept].to_vec();
    ids.push(eos);
    (ids, kept < tokens.len())
}
