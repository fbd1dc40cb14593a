//! The mesh of devices that share a run.

use serde::{Deserialize, Serialize};

/// Devices in a grid with three named axes. All sizes 1: one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mesh {
    /// Parts of the batch.
    pub data: usize,
    /// Parts of the experts; the batch is split over these devices too.
    pub expert: usize,
    /// Parts of attention heads and of `d_ff`; these devices work on the same tokens.
    pub model: usize,
    /// Whether weights and optimizer state are split over `data`: gathered on use, gradients reduce-scattered.
    pub shard_state: bool,
    /// Whether embedding and output head are split over `model`, by words: logits stay where their words are, and the loss
    /// exchanges maxima and sums.
    pub shard_vocabulary: bool,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { data: 1, expert: 1, model: 1, shard_state: false, shard_vocabulary: false }
    }
}

impl Mesh {
    /// Devices in all; each runs one replica of the program.
    pub fn num_replicas(&self) -> usize {
        self.batch_parts().saturating_mul(self.model)
    }

    /// Parts that the batch is split into.
    pub fn batch_parts(&self) -> usize {
        self.data.saturating_mul(self.expert)
    }
}
