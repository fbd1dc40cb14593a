//! Our own model of time: what neither the compiler nor the graph says.

use super::chip::{Chip, Kind};
use super::network;
use super::topology::Topology;
use super::torus;
use crate::inspect::{CollectiveRow, Kernel};

/// Time of one step of one device, in seconds. Everything here is computed from peak figures, nothing is measured.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct StepTime {
    /// Matrix products at the peak rate.
    pub compute_seconds: f64,
    /// What all kernels read from and write to memory.
    pub memory_bytes: u64,
    /// The same at the peak rate.
    pub memory_seconds: f64,
    /// Collectives, one after the other, on links at their peak rate.
    pub interconnect_seconds: f64,
    /// The larger of compute and memory, with the collectives all hidden: no step is faster.
    pub roofline_seconds: f64,
    /// Kernel after kernel, each as long as the compiler's cycles or its bytes take, or all bytes if they take longer: copies that run
    /// beside kernels take no time of their own. Then the collectives, none hidden.
    pub step_seconds: f64,
    /// Share of `step_seconds`, without collectives, in kernels for which the compiler gives cycles.
    pub covered_by_cycles: f64,
}

/// The time of a step from its matrix products (of the graph), its kernels (of the compiler) and its collectives.
pub fn step_time(
    topology: &Topology,
    dot_flops: u64,
    kernels: &[Kernel],
    collectives: &[CollectiveRow],
) -> StepTime {
    let peak = topology.chip.peak();
    let moved = kernels.iter().map(|k| k.runs.saturating_mul(k.memory_bytes));
    let memory_bytes = moved.fold(0, u64::saturating_add);
    let (compute, memory) =
        (dot_flops as f64 / peak.bf16_flops, memory_bytes as f64 / peak.memory_bytes_per_s);
    let (mut known, mut unknown) = (0.0, 0.0);
    for kernel in kernels.iter().filter(|kernel| !kernel.beside) {
        let seconds = kernel.runs as f64 * kernel_seconds(topology.chip, kernel);
        *(if kernel.cycles.is_some() { &mut known } else { &mut unknown }) += seconds;
    }
    // An empty sum of floats is -0.
    let interconnect = collectives.iter().fold(0.0, |sum, row| sum + collective_seconds(topology, row));
    let roofline = compute.max(memory);
    let kernels = known + unknown;
    StepTime {
        compute_seconds: compute,
        memory_bytes,
        memory_seconds: memory,
        interconnect_seconds: interconnect,
        roofline_seconds: roofline,
        step_seconds: kernels.max(roofline) + interconnect,
        covered_by_cycles: if kernels > 0.0 { known / kernels } else { 0.0 },
    }
}

/// Seconds of one run of a kernel: its bytes at the peak of the memory, or its arithmetic if that takes longer, by the compiler's
/// cycles or else by its matrix products at their peak.
pub fn kernel_seconds(chip: &Chip, kernel: &Kernel) -> f64 {
    let peak = chip.peak();
    let computing = match (&chip.kind, kernel.cycles) {
        (Kind::Tpu(torus), Some(cycles)) => cycles as f64 / torus.clock_hz,
        _ => kernel.dot_flops as f64 / peak.bf16_flops,
    };
    computing.max(kernel.memory_bytes as f64 / peak.memory_bytes_per_s)
}

/// Seconds in the collectives of one row.
pub fn collective_seconds(topology: &Topology, row: &CollectiveRow) -> f64 {
    match &topology.chip.kind {
        Kind::Tpu(torus) => torus::seconds(topology, torus, row),
        Kind::Gpu(card) => network::seconds(topology, card, row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(runs: u64, cycles: Option<u64>, memory_bytes: u64) -> Kernel {
        let (name, opcode, op_name) = (String::new(), "fusion".into(), String::new());
        Kernel { name, opcode, op_name, runs, cycles, dot_flops: 0, memory_bytes, beside: false }
    }

    #[test]
    fn a_kernel_takes_as_long_as_its_cycles_or_its_bytes() {
        // v5e: 1.5 GHz, 819 GB/s. 1500 cycles are 1 us, 819 kB are 1 us.
        let topology: Topology = "v5e:1x1".parse().unwrap();
        let time = |kernels: &[Kernel]| step_time(&topology, 0, kernels, &[]);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(time(&[kernel(10, Some(3000), 819_000)]).step_seconds, 20e-6);
        near(time(&[kernel(10, Some(300), 819_000)]).step_seconds, 10e-6);
        let mixed = time(&[kernel(1, Some(1500), 0), kernel(1, None, 3 * 819_000)]);
        near(mixed.step_seconds, 4e-6);
        near(mixed.covered_by_cycles, 0.25);
        // Copies beside a kernel are hidden as long as the memory can do all.
        let beside = |bytes: u64| Kernel { beside: true, ..kernel(1, None, bytes) };
        near(time(&[kernel(1, Some(3000), 819_000), beside(819_000)]).step_seconds, 2e-6);
        near(time(&[kernel(1, Some(3000), 819_000), beside(4 * 819_000)]).step_seconds, 5e-6);
        // Without cycles its matrix products count: 197 MFLOP are 1 us.
        let dot = Kernel { dot_flops: 2 * 197_000_000, ..kernel(10, None, 819_000) };
        near(time(&[dot]).step_seconds, 20e-6);
        // Never faster than the matrix units: 197 TFLOP/s.
        near(step_time(&topology, 197_000_000, &[], &[]).step_seconds, 1e-6);
    }
}
