//! Batches of training examples from text, or from pairs of texts, on disk.
//!
//! ```text
//! files -> segments -> tokens or pairs -> windows of examples, shuffled -> rows -> batches
//! ```
//!
//! Nothing but the list of files, one segment of text and two windows of examples is held in memory. Every random
//! choice is drawn from (seed, counters), so a few counters ([`Position`]) say exactly which batches follow.

mod batches;
mod corpus;
mod error;
mod example;
mod files;
mod held_out;
mod position;
mod random;
mod rows;
mod segments;
mod span;
mod spec;
mod stream;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use batches::{Batch, Batches, Segments};
pub use corpus::{Corpus, CorpusSummary};
pub use error::DataError;
pub use example::Truncated;
pub use held_out::{HeldOut, Pair};
pub use position::Position;
pub use spec::DataSpec;
pub use tokenizer::{PAD, Tokenizer};
