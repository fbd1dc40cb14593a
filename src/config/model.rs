//! The network: sizes, blocks, precision.

use serde::{Deserialize, Serialize};

use super::moe::MoeConfig;

/// Which stacks a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// T5: a bidirectional encoder, and a causal decoder that attends to it.
    EncoderDecoder,
    /// One causal stack; `num_encoder_layers` is 0.
    DecoderOnly,
}

/// The position-wise network of a block, of each expert too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// `relu(x wi) wo`: two matrices (T5 v1.0, Switch).
    Relu,
    /// `(gelu(x wi_0) * (x wi_1)) wo`, the tanh form of gelu: three matrices (T5 v1.1).
    GatedGelu,
}

impl FeedForward {
    /// Number of `d_model x d_ff` matrices.
    pub fn num_matrices(self) -> usize {
        match self {
            FeedForward::Relu => 2,
            FeedForward::GatedGelu => 3,
        }
    }
}

/// Element type of activations; weights, router and losses stay in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeDtype {
    /// 32-bit floats throughout.
    Float32,
    /// bfloat16 activations (selective precision).
    Bfloat16,
}

/// What the backward pass recomputes instead of keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remat {
    /// Every activation of a block is kept.
    None,
    /// Results of matrix products are kept, the rest is recomputed.
    Dots,
    /// Only block inputs are kept.
    Full,
}

/// Relative position buckets of the self-attention bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelativePositions {
    /// Rows of the bias table; even, since the encoder halves them by direction.
    pub num_buckets: usize,
    /// Distance, in tokens, from which all share the last bucket.
    pub max_distance: usize,
}

impl Default for RelativePositions {
    fn default() -> Self {
        Self { num_buckets: 32, max_distance: 128 }
    }
}

/// What padding takes part in. The encoder's padding is hidden from attention, and no padding counts in the token loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// In nothing: it takes no capacity, counts in no loss of a router, and the decoder does not see it.
    Excluded,
    /// It is routed like any token, and the decoder sees its own (Hugging Face).
    Included,
}

/// The network. Sizes are counts of elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Which stacks there are.
    pub architecture: Architecture,
    /// Rows of the embedding table; at least what the tokenizer needs.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Hidden width of a dense feed-forward network.
    pub d_ff: usize,
    /// Width of one attention head; free of `d_model / num_heads`.
    pub d_kv: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Blocks of the encoder; 0 for `decoder_only`.
    pub num_encoder_layers: usize,
    /// Blocks of the decoder.
    pub num_decoder_layers: usize,
    /// Form of the feed-forward network and of the experts.
    pub feed_forward: FeedForward,
    /// Relative position buckets.
    pub positions: RelativePositions,
    /// What padding takes part in.
    pub padding: Padding,
    /// Whether the output head is the embedding table, its logits scaled by `d_model^-0.5`.
    pub tie_embeddings: bool,
    /// Added to the mean square in RMS norm.
    pub norm_epsilon: f64,
    /// Dropout rate in training, outside the experts' hidden activations.
    pub dropout: f64,
    /// Element type of activations.
    pub compute_dtype: ComputeDtype,
    /// `s` of the truncated normal with deviation `sqrt(s / fan_in)` (Switch Transformer, section 2.4).
    pub init_scale: f64,
    /// Whether a stack is one `scan` over stacked weights; otherwise blocks are unrolled.
    pub scan_blocks: bool,
    /// What the backward pass recomputes.
    pub remat: Remat,
    /// The sparse layers.
    pub moe: MoeConfig,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            architecture: Architecture::EncoderDecoder,
            vocab_size: 384,
            d_model: 128,
            d_ff: 512,
            d_kv: 32,
            num_heads: 4,
            num_encoder_layers: 4,
            num_decoder_layers: 4,
            feed_forward: FeedForward::Relu,
            positions: RelativePositions::default(),
            padding: Padding::Excluded,
            tie_embeddings: true,
            norm_epsilon: 1e-6,
            dropout: 0.0,
            compute_dtype: ComputeDtype::Float32,
            init_scale: 0.1,
            scan_blocks: true,
            remat: Remat::None,
            moe: MoeConfig::default(),
        }
    }
}

impl ModelConfig {
    /// Whether block `layer` (from 0, in either stack) has experts instead of a dense feed-forward network.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.moe.is_sparse(layer)
    }

    /// Width of all heads together: `num_heads * d_kv`.
    pub fn attention_width(&self) -> usize {
        self.num_heads.saturating_mul(self.d_kv)
    }

    /// Hidden width of one expert: `moe.d_ff`, or `d_ff` where that is not given.
    pub fn expert_d_ff(&self) -> usize {
        self.moe.d_ff.unwrap_or(self.d_ff)
    }
}
