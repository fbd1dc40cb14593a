//! The whole configuration of a run.

use serde::{Deserialize, Serialize};

use super::data::DataConfig;
use super::model::ModelConfig;
use super::training::{BatchConfig, LossConfig, OptimizerConfig, Schedule};

/// All that a run needs to know; the same value gives the same programs, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Short name of the run or preset.
    pub name: String,
    /// Free text; nothing reads it.
    pub description: Option<String>,
    /// The network.
    pub model: ModelConfig,
    /// Shape of a batch.
    pub batch: BatchConfig,
    /// The token loss.
    pub loss: LossConfig,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate by step.
    pub schedule: Schedule,
    /// What is learnt from.
    pub data: DataConfig,
    /// Seed of initialisation, dropout, jitter and shuffling.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            description: None,
            model: ModelConfig::default(),
            batch: BatchConfig::default(),
            loss: LossConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: Schedule::default(),
            data: DataConfig::default(),
            seed: 0,
        }
    }
}
