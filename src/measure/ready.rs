//! A training step from its configuration to the point where it can run.

use super::{Emission, MeasureError, emission, random_batch};
use crate::artifact;
use crate::config::RunConfig;
use crate::runtime::Backend;
use crate::train::{Named, Session};

pub(super) const PROGRAM: &str = "train_step";
/// Emissions, of which the median counts.
const EMISSIONS: usize = 5;

/// A compiled training step with its first state.
pub(super) struct Ready {
    pub session: Session,
    pub emission: Emission,
    pub compile_seconds: f64,
    vocab_size: usize,
}

pub(super) fn ready(backend: Box<dyn Backend>, config: &RunConfig) -> Result<Ready, MeasureError> {
    let emission = emission(config, PROGRAM, EMISSIONS)?;
    let artifact = artifact::compile_programs(config, &["init", PROGRAM])?;
    let mut session = Session::new(backend, artifact);
    session.init(config.seed)?;
    let before = session.compile_time();
    session.prepare(PROGRAM)?;
    let compile_seconds = (session.compile_time() - before).as_secs_f64();
    Ok(Ready { session, emission, compile_seconds, vocab_size: config.model.vocab_size })
}

impl Ready {
    /// Tokens of step `index`.
    pub fn random_batch(&self, index: u64) -> Result<Named, MeasureError> {
        random_batch(self.session.program(PROGRAM)?.0, self.vocab_size, index)
    }

    /// Runs one step; returns its metrics.
    pub fn run(&mut self, batch: Named) -> Result<Named, MeasureError> {
        Ok(self.session.run(PROGRAM, batch)?)
    }
}
