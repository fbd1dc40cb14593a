//! The held-out text as a finite series of batches.

use super::batches::Batch;
use super::corpus::Inner;
use super::error::DataError;
use super::example::Example;
use super::random::{Purpose, rng};
use std::sync::Arc;

/// Batches over the held-out text, once; made where they are asked for, without a thread.
///
/// Their order is random but fixed, so that the first few are a fair sample. After an error the iterator ends.
pub struct HeldOut {
    corpus: Arc<Inner>,
    sequences: usize,
    next_segment: u64,
    next_example: u64,
    tokens: Vec<u32>, // not yet in an example
}

impl HeldOut {
    pub(super) fn new(corpus: Arc<Inner>, sequences: usize) -> Self {
        Self { corpus, sequences, next_segment: 0, next_example: 0, tokens: vec![] }
    }

    /// The next stretch of tokens, a shorter one at the end.
    fn stretch(&mut self) -> Result<Option<Vec<u32>>, DataError> {
        let shape = self.corpus.shape;
        while self.tokens.len() < shape.raw_tokens && self.next_segment < self.corpus.num_held_out_segments()
        {
            let segment = self.corpus.held_out_segment(self.next_segment);
            self.next_segment += 1;
            self.tokens.append(&mut self.corpus.tokens(segment)?);
        }
        let length = self.tokens.len().min(shape.raw_tokens);
        if length < shape.min_tokens() {
            return Ok(None);
        }
        let rest = self.tokens.split_off(length);
        Ok(Some(std::mem::replace(&mut self.tokens, rest)))
    }

    fn examples(&mut self) -> Result<Vec<Example>, DataError> {
        let mut examples = vec![];
        while examples.len() < self.sequences {
            let Some(tokens) = self.stretch()? else { break };
            examples.push((tokens, rng(0, Purpose::HeldOutNoise, self.next_example, 0)));
            self.next_example += 1;
        }
        Ok(examples)
    }
}

impl Iterator for HeldOut {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.examples() {
            Ok(examples) if examples.is_empty() => None,
            Ok(examples) => {
                let corpus = &self.corpus;
                Some(Ok(corpus.shape.batch(examples, self.sequences, &corpus.tokenizer)))
            }
            Err(error) => {
                self.next_segment = self.corpus.num_held_out_segments();
                self.tokens.clear();
                Some(Err(error))
            }
        }
    }
}
