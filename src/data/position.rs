//! Where training stands in the data.

use super::error::DataError;
use serde::{Deserialize, Serialize};

/// A place in the endless stream of training examples; small, and exact: batches from it are those that followed.
///
/// It counts examples, not batches, so the number of sequences per batch may change at it. Going back to a position
/// reads one segment of text and fills one shuffle window, however far the training has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Digest of names, sizes and first bytes of the files.
    pub(super) corpus: String,
    /// Digest of the settings that shape examples and their order.
    pub(super) settings: String,
    /// Where the current shuffle window starts.
    pub(super) start: Cursor,
    /// Number of that window since the beginning.
    pub(super) window: u64,
    /// Examples of the window that were given out, in shuffled order.
    pub(super) taken: u64,
    /// Examples given out since the beginning.
    pub(super) examples: u64,
}

/// A place in the endless stream, at which an example starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    pub(super) epoch: u64,
    /// Place of the segment in the order of the epoch.
    pub(super) segment: u64,
    /// Tokens, or pairs, of the segment that lie before.
    pub(super) token: u64,
}

/// Counters up to here are exact in any JSON reader, and may be counted on without overflow.
const MAX_COUNT: u64 = 1 << 53;

impl Position {
    /// The epoch in which the current shuffle window starts, from 0.
    pub fn epoch(&self) -> u64 {
        self.start.epoch
    }

    /// Examples given out since the beginning, over all epochs.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Checks a position from outside against the corpus it is to be used on.
    pub(super) fn check(&self, corpus: &str, settings: &str, segments: u64) -> Result<(), DataError> {
        if self.corpus != corpus {
            return Err(DataError::CorpusChanged { expected: self.corpus.clone(), found: corpus.into() });
        }
        if self.settings != settings {
            return Err(DataError::SettingsChanged {
                expected: self.settings.clone(),
                found: settings.into(),
            });
        }
        let limits = [
            ("epoch", self.start.epoch, MAX_COUNT),
            ("window", self.window, MAX_COUNT),
            ("examples", self.examples, MAX_COUNT),
            ("segment", self.start.segment, segments),
        ];
        for (field, found, limit) in limits {
            if found >= limit {
                return Err(DataError::BadPosition { field, expected: format!("below {limit}"), found });
            }
        }
        Ok(())
    }
}
