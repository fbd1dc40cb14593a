//! The training step on a device.

use super::ready::PROGRAM;
use super::{Emission, MeasureError, Needed, Part, Peak, Spread, parts, ready};
use crate::config::RunConfig;
use crate::inspect::{self, Flops, ScopeRow};
use crate::report::{peak_resident_bytes, resident_bytes, restart_peak};
use crate::runtime::Backend;
use serde::Serialize;
use std::time::Instant;

/// Steps that are not counted: the first ones touch memory for the first time.
const WARM_UP: u64 = 2;

/// What a training step costs. Times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct StepCost {
    pub config: String,
    pub platform: String,
    pub parameters: u64,
    pub emission: Emission,
    /// In the XLA compiler.
    pub compile_seconds: f64,
    pub step: Spread,
    /// Of both sides, padding included.
    pub tokens_per_step: usize,
    pub tokens_per_second: f64,
    /// Counted from the emitted graph, loop bodies times their trip counts.
    pub flops: Flops,
    /// The large product's FLOP/s, measured between the steps: the median.
    pub peak_flops_per_second: f64,
    /// FLOPs of the matrix products over step time and peak.
    pub share_of_peak: f64,
    /// The step over the time that its matrix products alone take at the peak.
    pub step_over_products: f64,
    /// FLOPs by layer kind.
    pub layers: Vec<ScopeRow>,
    pub state_bytes: u64,
    /// Of the whole process, XLA and its compiler included.
    pub peak_process_bytes: Option<u64>,
    /// Where the system tells.
    pub memory: Option<Memory>,
    /// To compare it with, where it can be counted.
    pub needed: Option<Needed>,
    /// The kinds of layers, if asked for.
    pub parts: Vec<Part>,
}

/// Resident bytes of the process while it runs steps, by what they are for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Before anything was compiled for the model: libraries, the client, the operands of the product.
    pub runtime: u64,
    /// What the compiler and the start left behind when the first step began, beside the state.
    pub programs: u64,
    pub state: u64,
    /// What the steps add at their peak: activations, gradients, batches.
    pub temporaries: u64,
}

impl Memory {
    /// From what was resident before compilation and before the first step, and the peak from then on.
    fn new(before: u64, ready: u64, peak: u64, state: u64) -> Self {
        let programs = ready.saturating_sub(before).saturating_sub(state);
        Self { runtime: before, programs, state, temporaries: peak.saturating_sub(ready) }
    }

    /// The peak of state and temporaries alone, divided by the state.
    pub fn step_over_state(&self) -> f64 {
        (self.state + self.temporaries) as f64 / self.state.max(1) as f64
    }

    /// The same peak, divided by what has to be there.
    pub fn step_over_needed(&self, needed: &Needed) -> f64 {
        (self.state + self.temporaries) as f64 / (self.state + needed.total()).max(1) as f64
    }
}

/// Runs `steps` training steps on random tokens, in turns with the product that gives the peak; then, if asked, its parts.
///
/// Errors: [`MeasureError`] if the step cannot be built, compiled or run.
pub fn step(
    open: impl Fn() -> Result<Box<dyn Backend>, MeasureError>,
    config: &RunConfig,
    steps: usize,
    with_parts: bool,
) -> Result<StepCost, MeasureError> {
    let devices = config.mesh.num_replicas();
    if with_parts && devices > 1 {
        return Err(MeasureError::Mesh { devices });
    }
    let backend = open()?;
    let platform = backend.platform().to_owned();
    let peak = Peak::new(&*backend)?;
    let before = resident_bytes();
    let mut ready = ready(backend, config)?;
    let at_start = resident_bytes();
    // The compiler's own peak is counted so far.
    let peak_so_far = peak_resident_bytes();
    let counts_anew = restart_peak();
    let report = inspect::inspect(ready.session.program(PROGRAM)?.1)?;
    let needed = Needed::of(config)?;

    let (mut times, mut rates) = (vec![], vec![]);
    for index in 0..WARM_UP + steps.max(1) as u64 {
        let batch = ready.random_batch(index)?;
        let rate = peak.measure()?;
        let start = Instant::now();
        ready.run(batch)?;
        if index >= WARM_UP {
            times.push(start.elapsed().as_secs_f64());
            rates.push(rate);
        }
    }
    let (step, peak) = (Spread::new(times), Spread::new(rates).median);
    let state_bytes = ready.session.artifact().manifest.state_bytes;
    let (emission, compile_seconds) = (ready.emission, ready.compile_seconds);
    let peak_in_steps = peak_resident_bytes();
    let memory = match (before, at_start, peak_in_steps) {
        (Some(before), Some(start), Some(peak)) if counts_anew => {
            Some(Memory::new(before, start, peak, state_bytes))
        }
        _ => None,
    };
    drop(ready.session);
    let parts = if with_parts { parts(&*open()?, config)? } else { vec![] };
    let products = report.flops.dot as f64 / peak;
    let tokens_per_step = tokens_per_step(config);
    Ok(StepCost {
        config: config.name.clone(),
        platform,
        parameters: config.model.parameter_count(),
        emission,
        compile_seconds,
        step,
        tokens_per_step,
        tokens_per_second: tokens_per_step as f64 / step.median,
        flops: report.flops,
        peak_flops_per_second: peak,
        share_of_peak: products / step.median,
        step_over_products: step.median / products,
        layers: report.scopes,
        state_bytes,
        peak_process_bytes: peak_so_far.max(peak_in_steps),
        memory,
        needed,
        parts,
    })
}

/// Positions of both sides in one step.
fn tokens_per_step(config: &RunConfig) -> usize {
    let encoder = if config.model.num_encoder_layers > 0 { config.batch.input_length } else { 0 };
    config.batch.sequences * (encoder + config.batch.target_length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_memory_add_up_to_the_peak() {
        let memory = Memory::new(100, 700, 1500, 400);
        let Memory { runtime, programs, state, temporaries } = memory;
        assert_eq!((runtime, programs, state, temporaries), (100, 200, 400, 800));
        assert_eq!(memory.step_over_state(), 3.0);
        let needed = Needed { kept: 100, recomputed: 200, product: 100 };
        assert_eq!(memory.step_over_needed(&needed), 1.5);
    }
}
