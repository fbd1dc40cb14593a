//! Held-out text as a finite series of batches.

use super::batches::Batch;
use super::corpus::{Content, Inner};
use super::error::DataError;
use super::example::{Example, Raw};
use super::random::{Purpose, rng};
use super::rows::Rows;
use std::collections::VecDeque;
use std::sync::Arc;

/// Input and target of an example, without the tokens that end them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub input: Vec<u32>,
    pub target: Vec<u32>,
}

/// Batches over some text, once; made where they are asked for, without a thread.
///
/// Their order is random but fixed, so that the first few are a fair sample. After an error the iterator ends.
pub struct HeldOut {
    corpus: Arc<Inner>,
    rows: Rows,
    num_segments: u64,
    next_segment: u64,
    next_example: u64,
    // Not yet in an example.
    tokens: Vec<u32>,
    pairs: VecDeque<(Vec<u32>, Vec<u32>)>,
    /// The first of the next batch.
    waiting: Option<Example>,
}

impl HeldOut {
    /// The first so many segments in the fixed order of the corpus.
    pub(super) fn new(corpus: Arc<Inner>, sequences: usize, num_segments: u64) -> Self {
        let rows = Rows::new(&corpus.shape, sequences);
        let (tokens, pairs) = (vec![], VecDeque::new());
        Self { corpus, rows, num_segments, next_segment: 0, next_example: 0, tokens, pairs, waiting: None }
    }

    /// The next pair, or the next stretch of tokens: a shorter one at the end.
    fn raw(&mut self) -> Result<Option<Raw>, DataError> {
        let (length, least) = (self.corpus.shape.raw_tokens, self.corpus.shape.min_tokens());
        while self.pairs.is_empty() && self.tokens.len() < length && self.next_segment < self.num_segments {
            let segment = self.corpus.split_segment(self.next_segment);
            self.next_segment += 1;
            match self.corpus.content(segment)? {
                Content::Tokens(mut tokens) => self.tokens.append(&mut tokens),
                Content::Pairs(pairs) => self.pairs.extend(pairs),
            }
        }
        if let Some((input, target)) = self.pairs.pop_front() {
            return Ok(Some(Raw::Pair(input, target)));
        }
        let length = self.tokens.len().min(length);
        if length < least {
            return Ok(None);
        }
        let rest = self.tokens.split_off(length);
        Ok(Some(Raw::Stretch(std::mem::replace(&mut self.tokens, rest))))
    }

    fn example(&mut self) -> Result<Option<Example>, DataError> {
        if self.waiting.is_some() {
            return Ok(self.waiting.take());
        }
        let Some(raw) = self.raw()? else { return Ok(None) };
        let noise = rng(0, Purpose::HeldOutNoise, self.next_example, 0);
        self.next_example += 1;
        Ok(Some(self.corpus.shape.example(&raw, noise, &self.corpus.tokenizer)))
    }

    /// The pairs one after the other, as they are cut to rows. After an error the iterator goes on with what it can read.
    pub fn pairs(mut self) -> impl Iterator<Item = Result<Pair, DataError>> {
        let eos = self.corpus.tokenizer.eos();
        std::iter::from_fn(move || self.example().transpose()).map(move |example| {
            let Example { inputs, targets, prompt, .. } = example?;
            let (head, target) = targets.split_at(prompt);
            let without_end = |ids: &[u32]| ids.strip_suffix(&[eos]).unwrap_or(ids).to_vec();
            let input = if inputs.is_empty() { head.to_vec() } else { without_end(&inputs) };
            Ok(Pair { input, target: without_end(target) })
        })
    }

    fn batch(&mut self) -> Result<Option<Batch>, DataError> {
        while let Some(example) = self.example()? {
            if !self.rows.accepts(&example) {
                self.waiting = Some(example);
                break;
            }
            self.rows.push(example);
        }
        Ok((!self.rows.is_empty()).then(|| self.rows.take()))
    }
}

impl Iterator for HeldOut {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batch();
        if batch.is_err() {
            // Nothing comes after an error.
            self.next_segment = self.num_segments;
            (self.tokens, self.pairs) = (vec![], VecDeque::new());
            self.rows.take();
        }
        batch.transpose()
    }
}
