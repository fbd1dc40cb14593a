//! A corpus: text on disk, split, tokenized and ready to be read in batches.

use super::batches::Batches;
use super::error::DataError;
use super::example::ExampleShape;
use super::files;
use super::held_out::HeldOut;
use super::position::{Cursor, Position};
use super::random::{Permutation, Purpose};
use super::segments::{PairFields, Segments};
use super::spec::DataSpec;
use super::stream::TokenStream;
use super::tokenizer::{Tokenizer, hex};
use crate::config::Objective;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Changes whenever the same settings would give other examples, so that old positions are refused.
const STREAM_VERSION: u32 = 1;

/// An opened corpus. Cloning it is cheap.
///
/// The text is cut into segments. A fixed share of them, the same for every seed, is held out; the others are read
/// in an order that changes each epoch. The parts never overlap in place (equal text in two files may fall on both
/// sides). Each document, and each segment of a longer document, ends in eos.
#[derive(Clone)]
pub struct Corpus {
    inner: Arc<Inner>,
}

/// What an opened corpus consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorpusSummary {
    pub files: usize,
    pub bytes: u64,
    /// Files with a NUL among their first 8 KiB.
    pub skipped_binary: u64,
    pub skipped_empty: u64,
    pub segments: u64,
    pub held_out_segments: u64,
    pub segment_bytes: u64,
    /// Raw tokens that make one example; of pairs, the length of a target row.
    pub tokens_per_example: usize,
}

pub(super) struct Inner {
    pub(super) spec: DataSpec,
    pub(super) tokenizer: Tokenizer,
    pub(super) shape: ExampleShape,
    segments: Segments,
    /// A fixed order of the segments; the first ones are held out.
    split: Permutation,
    held_out_segments: u64,
    summary: CorpusSummary,
    corpus_digest: String,
    settings_digest: String,
}

/// What a segment holds.
pub(super) enum Content {
    Tokens(Vec<u32>),
    /// Inputs and targets without eos.
    Pairs(Vec<(Vec<u32>, Vec<u32>)>),
}

impl Content {
    /// Number of tokens or pairs.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Pairs(pairs) => pairs.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Corpus {
    /// Opens the files of `spec` and its tokenizer; reads the first 8 KiB of each file, and one held-out segment.
    ///
    /// Errors: settings that do not go together, unreadable files, no text, or too little to hold some out.
    pub fn open(spec: &DataSpec) -> Result<Self, DataError> {
        Ok(Self { inner: Arc::new(Inner::open(spec)?) })
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    pub fn summary(&self) -> CorpusSummary {
        self.inner.summary
    }

    /// The position before the first training example.
    pub fn start(&self) -> Position {
        Position {
            corpus: self.inner.corpus_digest.clone(),
            settings: self.inner.settings_digest.clone(),
            start: Cursor { epoch: 0, segment: 0, token: 0 },
            window: 0,
            taken: 0,
            examples: 0,
        }
    }

    /// The endless training batches that follow `position`, made ahead on background threads.
    ///
    /// Errors: [`DataError::CorpusChanged`], [`DataError::SettingsChanged`] or [`DataError::BadPosition`] for a
    /// position of other data; errors of reading its segment.
    pub fn train(&self, position: &Position) -> Result<Batches, DataError> {
        let inner = &self.inner;
        position.check(&inner.corpus_digest, &inner.settings_digest, inner.num_train_segments())?;
        Batches::start(Arc::clone(inner), position.clone())
    }

    /// The held-out share once in batches of so many rows (at least 1), in a fixed order with fixed noise whatever the seed;
    /// empty if `held_out` is 0.
    ///
    /// The last example and the last batch are filled up with pad.
    pub fn held_out(&self, sequences: usize) -> HeldOut {
        HeldOut::new(Arc::clone(&self.inner), sequences.max(1), self.inner.held_out_segments)
    }

    /// As [`held_out`](Self::held_out), but the whole text: for files of their own.
    pub fn whole(&self, sequences: usize) -> HeldOut {
        HeldOut::new(Arc::clone(&self.inner), sequences.max(1), self.inner.segments.count())
    }

    /// The entropy, in nats per token, of single tokens of the training text (of pairs, of the targets), each eos included.
    ///
    /// This is the loss per raw token of the best model that knows only how often each token occurs. It is counted
    /// over the first `max_tokens` tokens in the order of epoch 0, or all if there are fewer. (Targets of span
    /// corruption also hold sentinels, which a model soon predicts without loss.)
    ///
    /// Errors: those of reading; [`DataError::NoTokens`] if there is none.
    pub fn unigram_entropy(&self, max_tokens: u64) -> Result<f64, DataError> {
        let inner = &self.inner;
        let mut counts = vec![0u64; inner.tokenizer.vocab_size() as usize];
        let mut left = max_tokens;
        let order = inner.epoch_order(0);
        for place in 0..inner.num_train_segments() {
            if left == 0 {
                break;
            }
            for token in inner.tokens(inner.train_segment(&order, place))?.into_iter().take(saturating(left))
            {
                left -= 1;
                if let Some(count) = counts.get_mut(token as usize) {
                    *count += 1;
                }
            }
        }
        entropy(&counts).ok_or(DataError::NoTokens)
    }
}

fn saturating(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `ln N - sum(c ln c) / N` in nats, or `None` if nothing was counted.
fn entropy(counts: &[u64]) -> Option<f64> {
    let total = counts.iter().sum::<u64>() as f64;
    let weighted: f64 = counts.iter().filter(|&&c| c > 0).map(|&c| c as f64 * (c as f64).ln()).sum();
    (total > 0.0).then(|| total.ln() - weighted / total)
}

impl Inner {
    fn open(spec: &DataSpec) -> Result<Self, DataError> {
        spec.check()?;
        let tokenizer = Tokenizer::open(&spec.tokenizer, spec.vocab_size)?;
        let shape = ExampleShape::new(spec, &tokenizer)?;
        let found = files::find(&spec.paths)?;
        let segments = Segments::new(found.files, found.bytes);
        let summary = CorpusSummary {
            files: segments.num_files(),
            bytes: found.bytes,
            skipped_binary: found.skipped_binary,
            skipped_empty: found.skipped_empty,
            segments: segments.count(),
            held_out_segments: 0,
            segment_bytes: segments.segment_bytes(),
            tokens_per_example: shape.raw_tokens,
        };
        let mut inner = Self {
            split: Permutation::new(segments.count(), 0, Purpose::Split, 0),
            settings_digest: settings_digest(spec, &tokenizer, &shape),
            corpus_digest: found.digest,
            held_out_segments: 0,
            spec: spec.clone(),
            tokenizer,
            shape,
            segments,
            summary,
        };
        inner.hold_out()?;
        Ok(inner)
    }

    /// Chooses how many segments are held out: the share asked for, at least one, and more until they hold text
    /// (a segment inside a long JSON line holds none).
    fn hold_out(&mut self) -> Result<(), DataError> {
        let (held_out, count) = (self.spec.held_out, self.segments.count());
        if held_out == 0.0 {
            return Ok(());
        }
        let asked = ((count as f64 * held_out).round() as u64).max(1);
        let mut with_text = 0;
        while with_text + 1 < count && self.content(self.split.get(with_text))?.is_empty() {
            with_text += 1;
        }
        if with_text + 1 >= count {
            return Err(DataError::TooSmallToSplit { held_out, bytes: self.summary.bytes });
        }
        self.held_out_segments = asked.max(with_text + 1).min(count - 1);
        self.summary.held_out_segments = self.held_out_segments;
        Ok(())
    }

    pub(super) fn num_train_segments(&self) -> u64 {
        self.segments.count() - self.held_out_segments
    }

    pub(super) fn epoch_order(&self, epoch: u64) -> Permutation {
        Permutation::new(self.num_train_segments(), self.spec.seed, Purpose::Epoch, epoch)
    }

    /// The segment read as number `place` in an epoch of this order.
    pub(super) fn train_segment(&self, order: &Permutation, place: u64) -> u64 {
        self.split.get(self.held_out_segments + order.get(place))
    }

    /// The segment at this place of the fixed order, whose first ones are held out.
    pub(super) fn split_segment(&self, place: u64) -> u64 {
        self.split.get(place)
    }

    /// What a segment holds: tokens, eos after each document or part of one; or pairs.
    pub(super) fn content(&self, segment: u64) -> Result<Content, DataError> {
        let encode = |text: &str| self.tokenizer.encode(text);
        if let Objective::TextToText { input_field, target_field } = &self.spec.objective {
            let mut pairs = vec![];
            let fields = PairFields { input: input_field, target: target_field };
            self.segments.read_pairs(segment, fields, |input, target| {
                pairs.push((encode(input)?, encode(target)?));
                Ok(())
            })?;
            return Ok(Content::Pairs(pairs));
        }
        let mut tokens = vec![];
        self.segments.read(segment, |text| {
            tokens.append(&mut encode(text)?);
            tokens.push(self.tokenizer.eos());
            Ok(())
        })?;
        Ok(Content::Tokens(tokens))
    }

    /// The tokens that are to be predicted, of a whole segment.
    fn tokens(&self, segment: u64) -> Result<Vec<u32>, DataError> {
        Ok(match self.content(segment)? {
            Content::Tokens(tokens) => tokens,
            Content::Pairs(pairs) => {
                let ended =
                    |(_, target): (Vec<u32>, Vec<u32>)| target.into_iter().chain([self.tokenizer.eos()]);
                pairs.into_iter().flat_map(ended).collect()
            }
        })
    }

    pub(super) fn stream(self: &Arc<Self>, cursor: Cursor) -> Result<TokenStream, DataError> {
        TokenStream::new(Arc::clone(self), cursor)
    }
}

/// Digest of all settings that decide the examples and their order; the number of sequences does not.
fn settings_digest(spec: &DataSpec, tokenizer: &Tokenizer, shape: &ExampleShape) -> String {
    let mut settings = serde_json::json!([
        STREAM_VERSION,
        spec.objective,
        tokenizer.fingerprint(),
        tokenizer.vocab_size(),
        shape.input_length,
        shape.target_length,
        spec.shuffle_examples,
        spec.held_out,
        spec.seed
    ]);
    for (set, name) in [(shape.packing, "packing"), (shape.joined, "joined")] {
        if let (true, Some(settings)) = (set, settings.as_array_mut()) {
            settings.push(name.into());
        }
    }
    hex(&Sha256::digest(settings.to_string())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_two_equal_tokens_is_ln_2() {
        assert!((entropy(&[5, 0, 5]).unwrap() - 2f64.ln()).abs() < 1e-12);
        assert!(entropy(&[7]).unwrap().abs() < 1e-12);
        assert_eq!(entropy(&[0, 0]), None);
    }
}
