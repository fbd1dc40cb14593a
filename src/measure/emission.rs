//! How long a configuration takes to become HLO.

use super::{MeasureError, Spread};
use crate::artifact;
use crate::config::RunConfig;
use crate::hlo;
use serde::Serialize;
use std::time::Instant;

/// The emission of one program.
#[derive(Clone, Debug, Serialize)]
pub struct Emission {
    pub program: String,
    /// From the configuration to the module's bytes, seconds.
    pub seconds: Spread,
    pub module_bytes: usize,
    /// As written, loop bodies once.
    pub instructions: usize,
}

/// Emits `program` `runs` times.
///
/// Errors: [`MeasureError::Compile`] if the configuration has no such program or it cannot be built.
pub fn emission(config: &RunConfig, program: &str, runs: usize) -> Result<Emission, MeasureError> {
    let mut times = vec![];
    let mut sizes = (0, 0);
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        let (_, module) = artifact::compile_program(config, program)?;
        let bytes = hlo::encode(&module).len();
        times.push(start.elapsed().as_secs_f64());
        sizes = (bytes, module.computations.iter().map(|c| c.instructions.len()).sum());
    }
    let (module_bytes, instructions) = sizes;
    Ok(Emission { program: program.into(), seconds: Spread::new(times), module_bytes, instructions })
}
