//! The loss on held-out text.

use super::session::Session;
use super::{TrainError, run::batch_inputs};
use crate::data::Corpus;

/// Means over the tokens of held-out text.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOutLoss {
    /// Nats per token.
    pub cross_entropy: f64,
    /// Share of tokens whose most probable prediction is right.
    pub accuracy: f64,
    pub tokens: f64,
    pub batches: usize,
}

/// Runs `eval_step` over at most so many held-out batches of the corpus (at least one), the same ones every time.
///
/// Errors: [`TrainError::NoHeldOut`] if there are none; those of reading and of running.
pub fn held_out(
    session: &mut Session,
    corpus: &Corpus,
    max_batches: usize,
) -> Result<HeldOutLoss, TrainError> {
    let sequences = session.artifact().manifest.config.batch.sequences_per_microbatch();
    let [mut loss, mut correct, mut tokens] = [0.0; 3];
    let mut batches = 0;
    for batch in corpus.held_out(sequences).take(max_batches.max(1)) {
        let outputs = session.run("eval_step", batch_inputs(batch?)?)?;
        let sum = |name: &str| {
            let value = outputs.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_f64());
            value.and_then(|v| v.first().copied()).unwrap_or(f64::NAN)
        };
        loss += sum("cross_entropy_sum");
        correct += sum("correct_sum");
        tokens += sum("tokens");
        batches += 1;
    }
    if tokens == 0.0 {
        return Err(TrainError::NoHeldOut);
    }
    Ok(HeldOutLoss { cross_entropy: loss / tokens, accuracy: correct / tokens, tokens, batches })
}
