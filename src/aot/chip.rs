//! Accelerators by the names of their topologies, with the peak figures that their makers publish.

use super::card::{Card, GPUS};
use crate::config::Target;

/// One chip. Rates are per second and chip; a chip may count as several devices.
#[derive(Debug, PartialEq)]
pub struct Chip {
    /// The name before the colon of a topology.
    pub name: &'static str,
    /// Devices that the compiler sees in one chip.
    pub devices: usize,
    /// Dense matrix products of bfloat16 with float32 sums.
    pub bf16_flops: f64,
    /// What a program can use of a device's memory: of TPUs what their compiler lets it, of GPUs what their driver shows.
    pub memory_bytes: u64,
    /// Bytes to and from the high-bandwidth memory.
    pub memory_bytes_per_s: f64,
    pub kind: Kind,
}

/// What chips of one maker have and others do not.
#[derive(Debug, PartialEq)]
pub enum Kind {
    Tpu(Torus),
    Gpu(Card),
}

/// A TPU among its neighbours.
#[derive(Debug, PartialEq)]
pub struct Torus {
    /// Dimensions of a slice; a chip has two links along each.
    pub dimensions: usize,
    /// Bytes that one link carries in one direction.
    pub link_bytes_per_s: f64,
    /// Cycles per second of the matrix units, by which the compiler's cycles become time.
    pub clock_hz: f64,
}

/// TPUs, from the system architecture pages of Google's Cloud documentation. The clock is not published for all: it is what
/// makes the peak of the known number of 128 x 128 (from v6e on 256 x 256) matrix units.
pub const TPUS: [Chip; 5] = [
    Chip {
        name: "v4",
        devices: 1,
        bf16_flops: 275e12,
        memory_bytes: 33_000_000_000,
        memory_bytes_per_s: 1.2e12,
        kind: Kind::Tpu(Torus { dimensions: 3, link_bytes_per_s: 50e9, clock_hz: 1.05e9 }),
    },
    Chip {
        name: "v5e",
        devices: 1,
        bf16_flops: 197e12,
        memory_bytes: 16_910_000_000,
        memory_bytes_per_s: 819e9,
        kind: Kind::Tpu(Torus { dimensions: 2, link_bytes_per_s: 50e9, clock_hz: 1.5e9 }),
    },
    Chip {
        name: "v5p",
        devices: 1,
        bf16_flops: 459e12,
        memory_bytes: 102_790_000_000,
        memory_bytes_per_s: 2.765e12,
        kind: Kind::Tpu(Torus { dimensions: 3, link_bytes_per_s: 100e9, clock_hz: 1.75e9 }),
    },
    Chip {
        name: "v6e",
        devices: 1,
        bf16_flops: 918e12,
        memory_bytes: 33_550_000_000,
        memory_bytes_per_s: 1.64e12,
        kind: Kind::Tpu(Torus { dimensions: 2, link_bytes_per_s: 100e9, clock_hz: 1.75e9 }),
    },
    Chip {
        name: "tpu7x",
        devices: 2,
        bf16_flops: 2307e12,
        memory_bytes: 101_720_000_000,
        memory_bytes_per_s: 7.38e12,
        kind: Kind::Tpu(Torus { dimensions: 3, link_bytes_per_s: 100e9, clock_hz: 2.2e9 }),
    },
];

/// Peak rates of one device: its share of the chip's.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Peak {
    pub bf16_flops: f64,
    pub memory_bytes_per_s: f64,
}

impl Chip {
    /// The chip of this name, TPU or GPU.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        TPUS.iter().chain(&GPUS).find(|chip| chip.name == name)
    }

    /// The compiler of such chips.
    pub fn target(&self) -> Target {
        match self.kind {
            Kind::Tpu(_) => Target::Tpu,
            Kind::Gpu(_) => Target::Gpu,
        }
    }

    pub fn peak(&self) -> Peak {
        let share = self.devices as f64;
        Peak { bf16_flops: self.bf16_flops / share, memory_bytes_per_s: self.memory_bytes_per_s / share }
    }
}
