//! Running programs: a session on a device, the training loop, evaluation, generation.

mod evaluate;
mod generate;
mod report;
mod run;
mod session;

pub use evaluate::{HeldOutLoss, held_out};
pub use generate::{GenerateError, Generator, Sampling};
pub use run::{Options, Outcome, TrainError, batch_inputs, train};
pub use session::{Named, Session, SessionError};

use crate::config::{self, RunConfig};
use crate::data::{DataSpec, Objective, TokenizerSpec};
use std::path::PathBuf;

/// The data of a run in batches of so many rows.
pub fn data_spec(config: &RunConfig, paths: &[PathBuf], sequences: usize) -> DataSpec {
    DataSpec {
        paths: paths.to_vec(),
        objective: match config.data.objective {
            config::Objective::SpanCorruption { noise_density, mean_span_length } => {
                Objective::SpanCorruption { noise_density, mean_span_length }
            }
            config::Objective::Causal => Objective::Causal {},
        },
        tokenizer: tokenizer_spec(config),
        vocab_size: config.model.vocab_size as u32,
        sequences,
        input_length: config.batch.input_length,
        target_length: config.batch.target_length,
        shuffle_examples: config.data.shuffle_examples,
        held_out: config.data.held_out,
        seed: config.seed,
    }
}

/// The tokenizer of a run.
pub fn tokenizer_spec(config: &RunConfig) -> TokenizerSpec {
    match &config.data.tokenizer {
        config::TokenizerSpec::Bytes => TokenizerSpec::bytes(),
        config::TokenizerSpec::HuggingFace { path } => {
            TokenizerSpec::HuggingFace { path: path.into(), eos_token: None }
        }
    }
}
