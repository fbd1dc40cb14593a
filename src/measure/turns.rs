//! Single steps, one at a time, so that another program can be measured between them.

use super::{MeasureError, Ready, ready};
use crate::config::RunConfig;
use crate::ir::Literal;
use crate::runtime::Backend;
use crate::train::Named;
use serde::Serialize;
use std::time::Instant;

/// A compiled step that waits for its turn.
pub struct Turns {
    ready: Ready,
    batch: Option<Named>,
    index: u64,
}

/// What it took to get ready, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Start {
    pub emission: f64,
    pub compile: f64,
}

/// One step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Turn {
    pub loss: f64,
    pub cross_entropy: f64,
    pub seconds: f64,
}

impl Turns {
    /// Every step runs on `batch`, or on random tokens of its own where there is none.
    ///
    /// Errors: [`MeasureError`] if the step cannot be built or compiled.
    pub fn new(
        open: impl Fn() -> Result<Box<dyn Backend>, MeasureError>,
        config: &RunConfig,
        batch: Option<Named>,
    ) -> Result<Self, MeasureError> {
        Ok(Self { ready: ready(open()?, config)?, batch, index: 0 })
    }

    pub fn start(&self) -> Start {
        Start { emission: self.ready.emission.seconds.median, compile: self.ready.compile_seconds }
    }

    /// Runs one step. Errors: [`MeasureError`] if it cannot be run, or the batch does not fit.
    pub fn turn(&mut self) -> Result<Turn, MeasureError> {
        let batch = match &self.batch {
            Some(batch) => batch.clone(),
            None => self.ready.random_batch(self.index)?,
        };
        self.index += 1;
        let start = Instant::now();
        let metrics = self.ready.run(batch)?;
        let seconds = start.elapsed().as_secs_f64();
        let metric = |name| {
            let found = metrics.iter().find(|(found, _)| found == name);
            found
                .and_then(|(_, value): &(String, Literal)| value.to_f64().first().copied())
                .unwrap_or(f64::NAN)
        };
        Ok(Turn { loss: metric("loss"), cross_entropy: metric("cross_entropy"), seconds })
    }
}
