//! The endless stream of the training text, cut into examples and windows of them.

use super::corpus::Content;
use super::corpus::Inner;
use super::error::DataError;
use super::example::Raw;
use super::position::Cursor;
use super::random::Permutation;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The training text, epoch after epoch, as one sequence of tokens or pairs; a stretch may reach into the next epoch.
pub(super) struct TokenStream {
    corpus: Arc<Inner>,
    order: Permutation,
    epoch: u64,
    segment: u64,
    content: Content, // of the segment
    used: usize,      // tokens or pairs of it
}

/// Consecutive examples that are shuffled together: as many as the setting says, fewer at the end of an epoch.
pub(super) struct Window {
    pub(super) number: u64,
    pub(super) start: Cursor,
    /// Where the next window starts.
    pub(super) end: Cursor,
    pub(super) examples: Vec<Raw>,
}

impl TokenStream {
    /// The stream from `cursor` on, whose segment must exist.
    ///
    /// Errors: those of reading; [`DataError::BadPosition`] if the segment holds less than the cursor says.
    pub(super) fn new(corpus: Arc<Inner>, cursor: Cursor) -> Result<Self, DataError> {
        let order = corpus.epoch_order(cursor.epoch);
        let content = corpus.content(corpus.train_segment(&order, cursor.segment))?;
        let used = usize::try_from(cursor.token).ok().filter(|&used| used <= content.len());
        let used = used.ok_or_else(|| DataError::BadPosition {
            field: "token",
            expected: format!("at most {}", content.len()),
            found: cursor.token,
        })?;
        Ok(Self { corpus, order, epoch: cursor.epoch, segment: cursor.segment, content, used })
    }

    fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, segment: self.segment, token: self.used as u64 }
    }

    /// The next window, or `None` once `stop` is set.
    pub(super) fn window(&mut self, number: u64, stop: &AtomicBool) -> Result<Option<Window>, DataError> {
        let start = self.cursor();
        let mut examples = vec![];
        while examples.len() < self.corpus.spec.shuffle_examples && self.epoch == start.epoch {
            match self.example(stop)? {
                Some(example) => examples.push(example),
                None => return Ok(None),
            }
        }
        Ok(Some(Window { number, start, end: self.cursor(), examples }))
    }

    fn example(&mut self, stop: &AtomicBool) -> Result<Option<Raw>, DataError> {
        let length = self.corpus.shape.raw_tokens;
        let mut stretch = vec![];
        let mut empty_segments = 0;
        loop {
            match &self.content {
                Content::Tokens(tokens) => {
                    let rest = tokens.get(self.used..).unwrap_or_default();
                    let more = &rest[..rest.len().min(length - stretch.len())];
                    self.used += more.len();
                    stretch.extend_from_slice(more);
                    if stretch.len() == length {
                        return Ok(Some(Raw::Stretch(stretch)));
                    }
                }
                Content::Pairs(pairs) => {
                    if let Some((input, target)) = pairs.get(self.used) {
                        self.used += 1;
                        return Ok(Some(Raw::Pair(input.clone(), target.clone())));
                    }
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.next_segment()?;
            empty_segments = if self.content.is_empty() { empty_segments + 1 } else { 0 };
            if empty_segments > self.corpus.num_train_segments() {
                return Err(DataError::NoTokens); // a whole epoch without any would go on for ever
            }
        }
    }

    fn next_segment(&mut self) -> Result<(), DataError> {
        self.segment += 1;
        if self.segment >= self.corpus.num_train_segments() {
            (self.epoch, self.segment) = (self.epoch + 1, 0);
            self.order = self.corpus.epoch_order(self.epoch);
        }
        self.content = self.corpus.content(self.corpus.train_segment(&self.order, self.segment))?;
        self.used = 0;
        Ok(())
    }
}
