//! The training step on a device.

use super::ready::PROGRAM;
use super::{Emission, MeasureError, Part, Peak, Spread, parts, ready};
use crate::config::RunConfig;
use crate::inspect::{self, Flops, ScopeRow};
use crate::report::peak_resident_bytes;
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
    /// The kinds of layers, if asked for.
    pub parts: Vec<Part>,
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
    let mut ready = ready(backend, config)?;
    let report = inspect::inspect(ready.session.program(PROGRAM)?.1)?;

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
    let peak_process_bytes = peak_resident_bytes();
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
        peak_process_bytes,
        parts,
    })
}

/// Positions of both sides in one step.
fn tokens_per_step(config: &RunConfig) -> usize {
    let encoder = if config.model.num_encoder_layers > 0 { config.batch.input_length } else { 0 };
    config.batch.sequences * (encoder + config.batch.target_length)
}
