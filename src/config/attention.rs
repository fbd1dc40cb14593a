//! How tokens find each other: the form of attention and of positions.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How queries find keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Attention {
    /// Keys and values of its own for each head.
    #[default]
    MultiHead,
    /// Several heads of queries share one of keys and values (Llama, Mixtral).
    GroupedQuery(GroupedQuery),
    /// Keys and values are made from a narrow latent, which is all that generation keeps (DeepSeek).
    Latent(Latent),
}

/// Shared heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupedQuery {
    /// Heads of keys and values; divides `num_heads`.
    pub num_kv_heads: usize,
}

impl Default for GroupedQuery {
    fn default() -> Self {
        Self { num_kv_heads: 1 }
    }
}

/// Widths of latent attention: of the two latents, then of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latent {
    /// The queries' latent; null makes queries directly.
    pub query_rank: Option<usize>,
    /// The latent of keys and values.
    pub kv_rank: usize,
    /// Part of a query or key without position.
    pub nope_dim: usize,
    /// Rotated part of a query or key; the key's is shared by all heads.
    pub rope_dim: usize,
    /// A value.
    pub value_dim: usize,
}

impl Default for Latent {
    fn default() -> Self {
        Self { query_rank: None, kv_rank: 64, nope_dim: 32, rope_dim: 16, value_dim: 32 }
    }
}

/// What attention scores are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreScale {
    /// Nothing; the queries' first weights are smaller instead (T5).
    None,
    /// One over the root of the width of a key.
    InverseSqrt,
}

/// How attention knows where tokens stand.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Positions {
    /// A learnt bias per head and bucket of distances (T5).
    RelativeBuckets(RelativeBuckets),
    /// Queries and keys turned by angles that grow with the position (Llama, Mixtral, DeepSeek).
    Rotary(Rotary),
}

impl Default for Positions {
    fn default() -> Self {
        Positions::RelativeBuckets(RelativeBuckets::default())
    }
}

/// Buckets of the self-attention bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelativeBuckets {
    /// Rows of the bias table; even, since the encoder halves them by direction.
    pub num_buckets: usize,
    /// Distance, in tokens, from which all share the last bucket.
    pub max_distance: usize,
}

impl Default for RelativeBuckets {
    fn default() -> Self {
        Self { num_buckets: 32, max_distance: 128 }
    }
}

/// Angles `position / theta^(2i / width)` of the pairs `i` of a head's elements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotary {
    pub theta: f64,
    /// Which elements turn together.
    pub pairing: Pairing,
    /// Slower angles for sequences longer than those of pre-training.
    pub yarn: Option<Yarn>,
}

impl Default for Rotary {
    fn default() -> Self {
        Self { theta: 1e4, pairing: Pairing::Halves, yarn: None }
    }
}

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Element i and element i + width / 2 (Llama, Mixtral).
    Halves,
    /// Elements 2i and 2i + 1 (DeepSeek).
    Interleaved,
}

/// Stretched angles: slow pairs are slowed by the factor, fast ones kept, those between mixed.
///
/// Source: YaRN (Peng et al., 2023), with DeepSeek's two factors of the temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Yarn {
    /// New over old length.
    pub factor: f64,
    /// Tokens of the sequences of pre-training.
    pub original_length: usize,
    /// Pairs that turn at least so often within the original length keep their angle.
    pub beta_fast: f64,
    /// Pairs that turn at most so often are slowed by the whole factor.
    pub beta_slow: f64,
    /// Temperature of the rotated part over that of the scores; 0 for none.
    pub mscale: f64,
    /// Temperature of the scores; 0 for none.
    pub mscale_all_dim: f64,
}

impl Default for Yarn {
    fn default() -> Self {
        Self {
            factor: 40.0,
            original_length: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 0.0,
            mscale_all_dim: 0.0,
        }
    }
}

impl Yarn {
    fn temperature(&self, scale: f64) -> f64 {
        if self.factor <= 1.0 { 1.0 } else { 0.1 * scale * self.factor.ln() + 1.0 }
    }

    /// What sines and cosines are multiplied with.
    pub fn table_factor(&self) -> f64 {
        if self.mscale == 0.0 || self.mscale_all_dim == 0.0 {
            return self.temperature(1.0);
        }
        self.temperature(self.mscale) / self.temperature(self.mscale_all_dim)
    }

    /// What scores are multiplied with, beside the scale by width.
    pub fn score_factor(&self) -> f64 {
        if self.mscale_all_dim == 0.0 { 1.0 } else { self.temperature(self.mscale_all_dim).powi(2) }
    }

    /// Share of the slowed angle of each pair: from 0 for the fast to 1 for the slow.
    fn slowed(&self, theta: f64, width: usize) -> Vec<f64> {
        // The pair that turns so often within the original length.
        let pair_of = |turns: f64| {
            let tokens = self.original_length as f64 / (turns * 2.0 * PI);
            width as f64 * tokens.ln() / (2.0 * theta.ln())
        };
        let low = pair_of(self.beta_fast).floor().max(0.0);
        let high = pair_of(self.beta_slow).ceil().min(width as f64 - 1.0);
        let high = if low == high { high + 0.001 } else { high };
        (0..width / 2).map(|i| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)).collect()
    }
}

impl Rotary {
    /// Angle per position of each pair of a head of this width.
    ///
    /// In float32 where Hugging Face's models are, since a position multiplies the rounding.
    pub fn angles(&self, width: usize) -> Vec<f32> {
        let turn = |i: usize| {
            let exponent = (2 * i) as f32 / width as f32;
            self.theta.powf(f64::from(exponent)) as f32
        };
        let fast = (0..width / 2).map(|i| 1.0 / turn(i));
        match self.yarn {
            None => fast.collect(),
            Some(yarn) => {
                let slow = |i: usize| 1.0 / (yarn.factor as f32 * turn(i));
                let share = yarn.slowed(self.theta, width);
                let mix = |(i, fast): (usize, f32)| {
                    let kept = 1.0 - share[i] as f32;
                    slow(i) * (1.0 - kept) + fast * kept
                };
                fast.enumerate().map(mix).collect()
            }
        }
    }

    /// What sines and cosines are multiplied with.
    pub fn table_factor(&self) -> f64 {
        self.yarn.map_or(1.0, |yarn| yarn.table_factor())
    }
}
