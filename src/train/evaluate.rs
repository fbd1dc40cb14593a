//! The loss on held-out text.

use super::session::Session;
use super::{TrainError, run::batch_inputs};
use crate::data::{Corpus, HeldOut, Truncated};

/// The text to measure on.
#[derive(Clone)]
pub enum HeldOutText {
    /// The share of a corpus that is not trained on.
    Share(Corpus),
    /// A corpus of its own.
    Whole(Corpus),
}

impl HeldOutText {
    pub(super) fn corpus(&self) -> &Corpus {
        match self {
            Self::Share(corpus) | Self::Whole(corpus) => corpus,
        }
    }

    pub(super) fn batches(&self, sequences: usize) -> HeldOut {
        match self {
            Self::Share(corpus) => corpus.held_out(sequences),
            Self::Whole(corpus) => corpus.whole(sequences),
        }
    }
}

/// Means over held-out text.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOutLoss {
    /// Nats per token.
    pub cross_entropy: f64,
    /// Share of tokens whose most probable prediction is right, given the true tokens before them.
    pub accuracy: f64,
    /// Share of target sequences of which that is so for every token.
    pub exact_match: f64,
    pub tokens: f64,
    pub sequences: f64,
    /// Examples that were cut to the length of a row before they were measured.
    pub truncated: Truncated,
    pub batches: usize,
}

/// Runs `eval_step` over at most so many batches of the text (at least one), the same ones every time.
///
/// Errors: [`TrainError::NoHeldOut`] if there are none; those of reading and of running.
pub fn held_out(
    session: &mut Session,
    text: &HeldOutText,
    max_batches: usize,
) -> Result<HeldOutLoss, TrainError> {
    let sequences = session.artifact().manifest.config.batch.sequences_per_microbatch();
    let names = ["cross_entropy_sum", "correct_sum", "exact_sum", "tokens", "sequences"];
    let mut sums = [0.0; 5];
    let mut truncated = Truncated::default();
    let mut batches = 0;
    for batch in text.batches(sequences).take(max_batches.max(1)) {
        let batch = batch?;
        truncated += batch.truncated;
        let outputs = session.run("eval_step", batch_inputs(batch)?)?;
        for (sum, name) in sums.iter_mut().zip(names) {
            let value = outputs.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_f64());
            *sum += value.and_then(|v| v.first().copied()).unwrap_or(f64::NAN);
        }
        batches += 1;
    }
    let [loss, correct, exact, tokens, sequences] = sums;
    if tokens == 0.0 {
        return Err(TrainError::NoHeldOut);
    }
    let (cross_entropy, accuracy) = (loss / tokens, correct / tokens);
    let exact_match = exact / sequences;
    Ok(HeldOutLoss { cross_entropy, accuracy, exact_match, tokens, sequences, truncated, batches })
}
