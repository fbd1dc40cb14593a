//! What a training step costs on a device, beside what its matrix products alone would take in the same process.

mod emission;
mod needed;
mod parts;
mod peak;
mod ready;
mod step;
mod turns;

use crate::artifact::CompileError;
use crate::ir::Literal;
use crate::step::Role;
use crate::train::{Named, SessionError};
use rand::{RngExt, SeedableRng};
use serde::Serialize;

pub use emission::{Emission, emission};
pub use needed::Needed;
pub use parts::{Part, parts};
pub use peak::{PEAK_SIZE, Peak};
use ready::{Ready, ready};
pub use step::{Memory, StepCost, step};
pub use turns::{Start, Turn, Turns};

/// A measurement that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the device cannot be opened")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the peak of the device cannot be measured")]
    Peak(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("parts of a step are measured on one device, the mesh has {devices}")]
    Mesh { devices: usize },
    #[error("a part of the step cannot be measured")]
    Part(#[source] crate::runtime::RuntimeError),
    #[error("a part of the step cannot be cut out")]
    Cut(#[from] crate::build::BuildError),
    #[error("the module of the step cannot be read: {0}")]
    Inspect(#[from] crate::inspect::InspectError),
    #[error("the step takes an input `{0}`, for which no random values are defined")]
    Input(String),
}

/// Repeated measurements of one time, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

impl Spread {
    /// The spread of at least one time; zeros for none.
    pub fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |i: usize| times.get(i).copied().unwrap_or_default();
        Self {
            median: at(times.len() / 2),
            min: at(0),
            max: at(times.len().saturating_sub(1)),
            runs: times.len(),
        }
    }
}

/// Random tokens from 3 (0 to 2 are special) to below `vocab_size`, for every input that holds tokens: rows of one example each,
/// of which all tokens are predicted.
fn random_batch(
    spec: &crate::artifact::ProgramSpec,
    vocab_size: usize,
    seed: u64,
) -> Result<Named, MeasureError> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let inputs = spec.inputs.iter().filter(|port| port.role == Role::Input);
    let mut named = vec![];
    for port in inputs {
        let count = port.shape.iter().product();
        let top = i32::try_from(vocab_size).unwrap_or(i32::MAX).max(4);
        let tokens: Vec<i32> = match port.name.as_str() {
            "inputs" | "targets" => (0..count).map(|_| random.random_range(3..top)).collect(),
            "input_segments" | "target_segments" => vec![1; count],
            "target_roles" => vec![2; count],
            _ => return Err(MeasureError::Input(port.name.clone())),
        };
        let value = Literal::new(port.shape.clone(), &tokens);
        named.push((port.name.clone(), value.map_err(|e| SessionError::Input(e.to_string()))?));
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_the_extremes() {
        let spread = Spread::new(vec![3.0, 1.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0, runs: 3 });
        assert_eq!(Spread::new(vec![]).runs, 0);
    }
}
