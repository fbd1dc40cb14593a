//! Running programs: a session on a device, the training loop, evaluation, generation.

mod evaluate;
mod generate;
mod greedy;
mod initial;
mod report;
mod run;
mod session;
mod teacher;
mod transfer;

pub use evaluate::{HeldOutLoss, HeldOutText, held_out};
pub use generate::{GenerateError, Generator, Sampling};
pub use greedy::{GreedyMatch, greedy_match};
pub use initial::{Initial, InitialError, Misfit, check_fit};
pub use run::{Options, Outcome, TrainError, batch_inputs, train};
pub use session::{Named, Session, SessionError};
pub use teacher::{Teacher, TeacherError};
pub use transfer::{Recipe, Source, Transfer, TransferError, Upcycled, plan};

use crate::config::RunConfig;
use crate::data::DataSpec;
use std::path::PathBuf;

/// The data of a run in batches of so many rows.
pub fn data_spec(config: &RunConfig, paths: &[PathBuf], sequences: usize) -> DataSpec {
    DataSpec {
        paths: paths.to_vec(),
        objective: config.data.objective.clone(),
        tokenizer: config.data.tokenizer.clone(),
        vocab_size: config.model.vocab_size as u32,
        sequences,
        input_length: config.batch.input_length,
        target_length: config.batch.target_length,
        joined: config.joins_pairs(),
        packing: config.batch.packing,
        shuffle_examples: config.data.shuffle_examples,
        held_out: config.data.held_out,
        seed: config.seed,
    }
}
