//! Learning from another model.

use serde::{Deserialize, Serialize};

use super::model::ModelConfig;

/// How a model learns from a teacher's predictions beside the targets.
///
/// Source: Hinton et al. (2015), section 2; the share is that of Switch Transformer, section 4.2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distillation {
    /// The network of the teacher; without it there is none.
    pub teacher: Option<Box<ModelConfig>>,
    /// Weight of the teacher's predictions in the loss; the targets have the rest.
    pub share: f64,
    /// Both models' logits are divided by it; their cross entropy is multiplied by its square.
    pub temperature: f64,
    /// First step with the teacher's share; those before learn from the targets alone.
    pub start_step: u64,
}

impl Default for Distillation {
    fn default() -> Self {
        Self { teacher: None, share: 0.25, temperature: 1.0, start_step: 0 }
    }
}
