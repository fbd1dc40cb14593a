//! Turns stretches of tokens into the rows of a batch.

use super::batches::Batch;
use super::error::DataError;
use super::span::{self, corrupt};
use super::spec::DataSpec;
use super::tokenizer::{PAD, Tokenizer};
use crate::config::Objective;
use ndarray::{Array2, ArrayViewMut1};
use rand_chacha::ChaCha8Rng;

/// The static shape of an example under its objective.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExampleShape {
    objective: Objective,
    /// Tokens of raw text per example.
    pub(super) raw_tokens: usize,
    /// `None` for an objective with targets only.
    pub(super) input_length: Option<usize>,
    pub(super) target_length: usize,
}

/// A stretch of raw tokens and the generator of its noise.
pub(super) type Example = (Vec<u32>, ChaCha8Rng);

impl ExampleShape {
    /// Errors: lengths, noise or sentinels that do not go together.
    pub(super) fn new(spec: &DataSpec, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let (objective, target_length) = (spec.objective, spec.target_length);
        let Objective::SpanCorruption { noise_density, mean_span_length } = objective else {
            return Ok(Self { objective, raw_tokens: target_length, input_length: None, target_length });
        };
        let lengths = span::lengths(spec.input_length, noise_density, mean_span_length)?;
        if target_length < lengths.targets {
            let expected =
                format!("at least {} for an input_length of {}", lengths.targets, spec.input_length);
            return Err(DataError::setting("target_length", expected, target_length));
        }
        let (needed, found) = (lengths.spans, tokenizer.num_sentinels());
        if needed > found {
            return Err(DataError::TooFewSentinels { tokens: lengths.tokens, needed, found });
        }
        Ok(Self {
            objective,
            raw_tokens: lengths.tokens,
            input_length: Some(spec.input_length),
            target_length,
        })
    }

    /// The shortest stretch that makes an example.
    pub(super) fn min_tokens(&self) -> usize {
        match self.objective {
            Objective::SpanCorruption { .. } => 2,
            Objective::Causal => 1,
        }
    }

    /// A batch of `sequences` rows from at most so many examples of `min_tokens..=raw_tokens` tokens each.
    ///
    /// Rows without example and places beyond a row's tokens are [`PAD`].
    pub(super) fn batch(&self, examples: Vec<Example>, sequences: usize, tokenizer: &Tokenizer) -> Batch {
        let num_examples = examples.len().min(sequences);
        let mut targets = Array2::from_elem((sequences, self.target_length), PAD as i32);
        let mut inputs = self.input_length.map(|length| Array2::from_elem((sequences, length), PAD as i32));
        let mut input_rows = inputs.as_mut().map(|inputs| inputs.outer_iter_mut());
        for ((tokens, mut rng), target_row) in examples.into_iter().zip(targets.outer_iter_mut()) {
            match self.objective {
                Objective::Causal => fill(target_row, &tokens),
                Objective::SpanCorruption { noise_density, mean_span_length } => {
                    // Enough sentinels: counted when the shape was made.
                    let sentinel = |n| tokenizer.sentinel(n).unwrap_or(PAD);
                    let eos = tokenizer.eos();
                    let example = corrupt(&tokens, noise_density, mean_span_length, &mut rng, sentinel, eos);
                    fill(target_row, &example.targets);
                    if let Some(row) = input_rows.as_mut().and_then(Iterator::next) {
                        fill(row, &example.inputs);
                    }
                }
            }
        }
        Batch { inputs, targets, num_examples, position: None }
    }
}

fn fill(row: ArrayViewMut1<i32>, ids: &[u32]) {
    for (place, &id) in row.into_iter().zip(ids) {
        *place = id as i32; // ids are below a vocabulary size that fits i32
    }
}
