//! NVIDIA's GPUs: what their compiler has to know to compile without one, and how hosts of them are connected.

use super::chip::{Chip, Kind};

/// A GPU among the others of its host.
#[derive(Debug, PartialEq)]
pub struct Card {
    /// As the driver names it.
    pub description: &'static str,
    /// The compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub cores: u32,
    /// Units for float32 in each.
    pub floats_per_core: u32,
    /// Shared memory of each.
    pub shared_bytes_per_core: u32,
    pub l2_bytes: u32,
    /// The highest clock.
    pub clock_ghz: f64,
    /// Bytes to all other cards of the host together, in one direction.
    pub nvlink_bytes_per_s: f64,
    /// Bytes to other hosts, in one direction: a network adapter for each card.
    pub network_bytes_per_s: f64,
}

/// Cards of one host, all connected with all.
pub const CARDS_PER_HOST: usize = 8;

const A100: Card = Card {
    description: "NVIDIA A100-SXM4-80GB",
    capability: (8, 0),
    cores: 108,
    floats_per_core: 64,
    shared_bytes_per_core: 164 << 10,
    l2_bytes: 40 << 20,
    clock_ghz: 1.41,
    nvlink_bytes_per_s: 300e9,
    network_bytes_per_s: 25e9,
};

const H100: Card = Card {
    description: "NVIDIA H100 80GB HBM3",
    capability: (9, 0),
    cores: 132,
    floats_per_core: 128,
    shared_bytes_per_core: 228 << 10,
    l2_bytes: 50 << 20,
    clock_ghz: 1.98,
    nvlink_bytes_per_s: 450e9,
    network_bytes_per_s: 50e9,
};

/// The cards of SXM boards with eight, from NVIDIA's data sheets (products without sparsity), the tables of its CUDA programming
/// guide and the data sheets of its hosts (network). The memory is what the driver leaves to programs.
pub const GPUS: [Chip; 5] = [
    Chip {
        name: "a100-40",
        devices: 1,
        bf16_flops: 312e12,
        memory_bytes: 42_290_000_000,
        memory_bytes_per_s: 1.555e12,
        kind: Kind::Gpu(Card { description: "NVIDIA A100-SXM4-40GB", ..A100 }),
    },
    Chip {
        name: "a100",
        devices: 1,
        bf16_flops: 312e12,
        memory_bytes: 84_990_000_000,
        memory_bytes_per_s: 2.039e12,
        kind: Kind::Gpu(A100),
    },
    Chip {
        name: "h100",
        devices: 1,
        bf16_flops: 989e12,
        memory_bytes: 84_940_000_000,
        memory_bytes_per_s: 3.35e12,
        kind: Kind::Gpu(H100),
    },
    Chip {
        name: "h200",
        devices: 1,
        bf16_flops: 989e12,
        memory_bytes: 150_110_000_000,
        memory_bytes_per_s: 4.8e12,
        kind: Kind::Gpu(Card { description: "NVIDIA H200", ..H100 }),
    },
    Chip {
        name: "b200",
        devices: 1,
        bf16_flops: 2250e12,
        memory_bytes: 191_500_000_000,
        memory_bytes_per_s: 8e12,
        kind: Kind::Gpu(Card {
            description: "NVIDIA B200",
            capability: (10, 0),
            cores: 148,
            l2_bytes: 126 << 20,
            clock_ghz: 1.965,
            nvlink_bytes_per_s: 900e9,
            ..H100
        }),
    },
];

impl Card {
    /// What the compiler asks a device for, as the text of a `GpuTargetConfigProto`.
    pub fn target_config(&self, chip: &Chip) -> String {
        let (major, minor) = self.capability;
        // The system keeps 1 KiB of the shared memory for each block.
        let per_block = self.shared_bytes_per_core - 1024;
        // From 9.0 on there are instructions that only this very capability has.
        let features = if major >= 9 { "ACCELERATED_FEATURES" } else { "NONE" };
        let fields = [
            ("threads_per_warp", 32.to_string()),
            ("threads_per_block_limit", 1024.to_string()),
            ("threads_per_core_limit", 2048.to_string()),
            ("thread_dim_limit_x", 1024.to_string()),
            ("thread_dim_limit_y", 1024.to_string()),
            ("thread_dim_limit_z", 64.to_string()),
            ("block_dim_limit_x", i32::MAX.to_string()),
            ("block_dim_limit_y", u16::MAX.to_string()),
            ("block_dim_limit_z", u16::MAX.to_string()),
            ("registers_per_core_limit", 65536.to_string()),
            ("registers_per_block_limit", 65536.to_string()),
            ("shared_memory_per_block", (48 << 10).to_string()),
            ("shared_memory_per_block_optin", per_block.to_string()),
            ("shared_memory_per_core", self.shared_bytes_per_core.to_string()),
            ("core_count", self.cores.to_string()),
            ("fpus_per_core", self.floats_per_core.to_string()),
            ("clock_rate_ghz", self.clock_ghz.to_string()),
            ("l2_cache_size", self.l2_bytes.to_string()),
            ("memory_bandwidth", (chip.memory_bytes_per_s as u64).to_string()),
            ("device_memory_size", chip.memory_bytes.to_string()),
        ];
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value} ")).collect();
        let capability = format!("major: {major} minor: {minor} feature_extension: {features}");
        format!(
            "gpu_device_info {{ {fields}cuda_compute_capability {{ {capability} }} }} \
             platform_name: \"CUDA\" device_description_str: \"{}\"",
            self.description
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_described_by_the_figures_of_its_card() {
        let chip = Chip::by_name("b200").unwrap();
        let Kind::Gpu(card) = &chip.kind else { panic!("{chip:?}") };
        let text = card.target_config(chip);
        for field in [
            "core_count: 148 ",
            "device_memory_size: 191500000000 ",
            "memory_bandwidth: 8000000000000 ",
            "clock_rate_ghz: 1.965 ",
            "shared_memory_per_block_optin: 232448 ",
            "cuda_compute_capability { major: 10 minor: 0 feature_extension: ACCELERATED_FEATURES }",
            "platform_name: \"CUDA\" device_description_str: \"NVIDIA B200\"",
        ] {
            assert!(text.contains(field), "{field}: {text}");
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn no_name_means_two_chips() {
        let mut names: Vec<&str> = super::super::TPUS.iter().chain(&GPUS).map(|chip| chip.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::super::TPUS.len() + GPUS.len());
    }
}
