//! Batch, loss, optimizer and learning-rate schedule.

use serde::{Deserialize, Serialize};

/// Shape of the batch of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Sequences per step, over all microbatches.
    pub sequences: usize,
    /// Tokens of an encoder row, or of a row of a decoder-only model.
    pub input_length: usize,
    /// Tokens of a decoder row. 0 asks for what the objective fills exactly.
    pub target_length: usize,
    /// Microbatches per step, one after the other; divides `sequences`.
    pub accumulation: usize,
    /// Whether rows hold several examples, which do not see one another.
    pub packing: bool,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { sequences: 16, input_length: 128, target_length: 0, accumulation: 1, packing: false }
    }
}

impl BatchConfig {
    /// Sequences of one microbatch.
    pub fn sequences_per_microbatch(&self) -> usize {
        self.sequences / self.accumulation.max(1)
    }
}

/// The token loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the squared `logsumexp` of output logits; training only.
    pub z_loss: f64,
    /// Share of the target probability that is spread over the whole vocabulary.
    pub label_smoothing: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { z_loss: 1e-4, label_smoothing: 0.0 }
    }
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adafactor as T5 uses it (Shazeer and Stern, 2018, algorithms 4 to 6).
    Adafactor {
        /// Second moments decay by `1 - (step - decay_offset + 1)^-decay_exponent`.
        #[serde(default = "defaults::decay_exponent")]
        decay_exponent: f64,
        /// Step that counts as the first for the decay: where fine-tuning starts, if its steps go on from those before.
        #[serde(default)]
        decay_offset: u64,
        /// Added to squared gradients.
        #[serde(default = "defaults::epsilon1")]
        epsilon1: f64,
        /// Smallest parameter scale.
        #[serde(default = "defaults::epsilon2")]
        epsilon2: f64,
        /// Largest root mean square of an update before the rate.
        #[serde(default = "defaults::one")]
        clip_threshold: f64,
        /// Tensors whose second-largest dimension is below this keep all second moments.
        #[serde(default = "defaults::min_dim_size_to_factor")]
        min_dim_size_to_factor: usize,
        /// Whether the rate is relative to the parameter's root mean square.
        #[serde(default = "defaults::yes")]
        multiply_by_parameter_scale: bool,
        /// Momentum of scaled updates; none by default.
        #[serde(default)]
        beta1: Option<f64>,
        /// Decoupled weight decay, times the rate.
        #[serde(default)]
        weight_decay: f64,
        /// Largest global norm of the gradient; not clipped by default.
        #[serde(default)]
        clip_global_norm: Option<f64>,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    #[serde(rename = "adamw")]
    AdamW {
        /// Decay of first moments.
        #[serde(default = "defaults::beta1")]
        beta1: f64,
        /// Decay of second moments.
        #[serde(default = "defaults::beta2")]
        beta2: f64,
        /// Added to the root of second moments.
        #[serde(default = "defaults::epsilon")]
        epsilon: f64,
        /// Decoupled weight decay, times the rate.
        #[serde(default = "defaults::weight_decay")]
        weight_decay: f64,
        /// Largest global norm of the gradient; not clipped by default.
        #[serde(default)]
        clip_global_norm: Option<f64>,
    },
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig::Adafactor {
            decay_exponent: defaults::decay_exponent(),
            decay_offset: 0,
            epsilon1: defaults::epsilon1(),
            epsilon2: defaults::epsilon2(),
            clip_threshold: defaults::one(),
            min_dim_size_to_factor: defaults::min_dim_size_to_factor(),
            multiply_by_parameter_scale: true,
            beta1: None,
            weight_decay: 0.0,
            clip_global_norm: None,
        }
    }
}

impl OptimizerConfig {
    /// AdamW with its defaults.
    pub fn adamw() -> Self {
        OptimizerConfig::AdamW {
            beta1: defaults::beta1(),
            beta2: defaults::beta2(),
            epsilon: defaults::epsilon(),
            weight_decay: defaults::weight_decay(),
            clip_global_norm: None,
        }
    }
}

/// The learning rate by step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// `base / sqrt(max(step, warmup_steps))`: flat, then falling (T5).
    InverseSquareRoot {
        /// Multiplier.
        #[serde(default = "defaults::one")]
        base: f64,
        /// Steps of the flat part.
        #[serde(default = "defaults::inverse_warmup")]
        warmup_steps: u64,
    },
    /// Linear warm-up to `peak`, then half a cosine down to `peak * final_fraction` at `total_steps`.
    Cosine {
        /// Highest rate.
        #[serde(default = "defaults::peak")]
        peak: f64,
        /// Steps of the linear warm-up.
        #[serde(default = "defaults::warmup")]
        warmup_steps: u64,
        /// Step of the lowest rate, which stays from there on.
        #[serde(default = "defaults::total")]
        total_steps: u64,
        /// Lowest rate over the highest.
        #[serde(default = "defaults::final_fraction")]
        final_fraction: f64,
    },
    /// Linear warm-up to `rate`, then flat.
    Constant {
        /// The rate.
        #[serde(default = "defaults::peak")]
        rate: f64,
        /// Steps of the linear warm-up.
        #[serde(default = "defaults::warmup")]
        warmup_steps: u64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::InverseSquareRoot { base: defaults::one(), warmup_steps: defaults::inverse_warmup() }
    }
}

impl Schedule {
    /// A cosine schedule with the default values.
    pub fn cosine() -> Self {
        Schedule::Cosine {
            peak: defaults::peak(),
            warmup_steps: defaults::warmup(),
            total_steps: defaults::total(),
            final_fraction: defaults::final_fraction(),
        }
    }

    /// A constant schedule with the default values.
    pub fn constant() -> Self {
        Schedule::Constant { rate: defaults::peak(), warmup_steps: defaults::warmup() }
    }
}

/// Values of omitted fields; `serde` wants functions.
mod defaults {
    pub fn decay_exponent() -> f64 {
        0.8
    }
    pub fn epsilon1() -> f64 {
        1e-30
    }
    pub fn epsilon2() -> f64 {
        1e-3
    }
    pub fn one() -> f64 {
        1.0
    }
    pub fn min_dim_size_to_factor() -> usize {
        128
    }
    pub fn yes() -> bool {
        true
    }
    pub fn beta1() -> f64 {
        0.9
    }
    pub fn beta2() -> f64 {
        0.999
    }
    pub fn epsilon() -> f64 {
        1e-8
    }
    pub fn weight_decay() -> f64 {
        0.01
    }
    pub fn inverse_warmup() -> u64 {
        10_000
    }
    pub fn peak() -> f64 {
        1e-3
    }
    pub fn warmup() -> u64 {
        100
    }
    pub fn total() -> u64 {
        10_000
    }
    pub fn final_fraction() -> f64 {
        0.1
    }
}
