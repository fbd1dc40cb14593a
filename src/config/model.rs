//! The network: sizes, blocks, precision.

use serde::{Deserialize, Serialize};

use super::attention::{Attention, Positions, Rotary, ScoreScale};
use super::moe::MoeConfig;
use super::side::Side;
use super::target::Target;

/// Which stacks a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// T5: a bidirectional encoder, and a causal decoder that attends to it.
    EncoderDecoder,
    /// One causal stack; `num_encoder_layers` is 0.
    DecoderOnly,
}

/// What the decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecoderInputs {
    /// The targets moved right behind token 0; each place predicts the target there (T5).
    ShiftRight,
    /// The targets as they are; each place predicts the next one (Mixtral, DeepSeek). Decoder-only.
    Tokens,
}

/// The position-wise network of a block, of each expert too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// `relu(x wi) wo`: two matrices (T5 v1.0, Switch).
    Relu,
    /// `(gelu(x wi_0) * (x wi_1)) wo`, the tanh form of gelu: three matrices (T5 v1.1).
    GatedGelu,
    /// `(silu(x wi_0) * (x wi_1)) wo`, SwiGLU: three matrices (Mixtral, DeepSeek).
    GatedSilu,
}

impl FeedForward {
    /// Number of `d_model x d_ff` matrices.
    pub fn num_matrices(self) -> usize {
        match self {
            FeedForward::Relu => 2,
            FeedForward::GatedGelu | FeedForward::GatedSilu => 3,
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
    /// Every activation but what attention makes of queries and keys: scores and probabilities, which grow with the square of the
    /// length.
    Scores,
    /// Results of matrix products are kept, the rest is recomputed.
    Dots,
    /// Only block inputs are kept.
    Full,
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
    /// Width of one attention head; free of `d_model / num_heads`. Latent attention has widths of its own.
    pub d_kv: usize,
    /// Attention heads of the queries.
    pub num_heads: usize,
    /// How queries find keys and values.
    pub attention: Attention,
    /// What attention scores are multiplied with; follows from the positions if not given.
    pub score_scale: Option<ScoreScale>,
    /// Blocks of the encoder; 0 for `decoder_only`.
    pub num_encoder_layers: usize,
    /// Blocks of the decoder.
    pub num_decoder_layers: usize,
    /// First blocks of each stack that stay dense in a sparse model (DeepSeek).
    pub num_dense_layers: usize,
    /// Whether a dense feed-forward network follows the experts in each sparse block (ST-MoE).
    pub dense_after_sparse: bool,
    /// Form of the feed-forward network and of the experts.
    pub feed_forward: FeedForward,
    /// How attention knows where tokens stand.
    pub positions: Positions,
    /// What the decoder reads.
    pub decoder_inputs: DecoderInputs,
    /// The token that is padding; none if every token is real.
    pub pad_id: Option<usize>,
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
    /// Whether a stack is one `scan` over stacked weights; otherwise blocks are unrolled. Where it is not given, the target, the number of
    /// blocks and `remat` decide ([`Target::unrolls`](super::Target::unrolls)).
    pub scan_blocks: Option<bool>,
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
            attention: Attention::default(),
            score_scale: None,
            num_encoder_layers: 4,
            num_decoder_layers: 4,
            num_dense_layers: 0,
            dense_after_sparse: false,
            feed_forward: FeedForward::Relu,
            positions: Positions::default(),
            decoder_inputs: DecoderInputs::ShiftRight,
            pad_id: Some(0),
            padding: Padding::Excluded,
            tie_embeddings: true,
            norm_epsilon: 1e-6,
            dropout: 0.0,
            compute_dtype: ComputeDtype::Float32,
            init_scale: 0.1,
            scan_blocks: None,
            remat: Remat::None,
            moe: MoeConfig::default(),
        }
    }
}

impl ModelConfig {
    /// Hidden width of one expert: `moe.d_ff`, or `d_ff` where that is not given.
    pub fn expert_d_ff(&self) -> usize {
        self.moe.d_ff.unwrap_or(self.d_ff)
    }

    /// Whether a stack is one `scan` in graphs that are shaped for `target`.
    pub fn scans_blocks(&self, target: Target) -> bool {
        let blocks = Side::BOTH.iter().map(|side| side.layers(self)).sum();
        self.scan_blocks.unwrap_or(!target.unrolls(blocks, self.remat))
    }

    /// Widths of all attention heads together.
    pub fn attention_widths(&self) -> AttentionWidths {
        let all = |heads: usize, width: usize| heads.saturating_mul(width);
        match self.attention {
            Attention::MultiHead => {
                let width = all(self.num_heads, self.d_kv);
                AttentionWidths { queries: width, keys: width, values: width, output: width }
            }
            Attention::GroupedQuery(grouped) => {
                let width = all(self.num_heads, self.d_kv);
                let keys = all(grouped.num_kv_heads, self.d_kv);
                AttentionWidths { queries: width, keys, values: keys, output: width }
            }
            Attention::Latent(latent) => {
                let keys = all(self.num_heads, latent.nope_dim.saturating_add(latent.rope_dim));
                let values = all(self.num_heads, latent.value_dim);
                AttentionWidths { queries: keys, keys, values, output: values }
            }
        }
    }

    /// Width of the part of a query that rotary positions turn.
    pub fn rotary_dim(&self) -> usize {
        match self.attention {
            Attention::MultiHead | Attention::GroupedQuery(_) => self.d_kv,
            Attention::Latent(latent) => latent.rope_dim,
        }
    }

    /// The factor of attention scores.
    pub fn score_factor(&self) -> f64 {
        let width = match self.attention {
            Attention::MultiHead | Attention::GroupedQuery(_) => self.d_kv,
            Attention::Latent(latent) => latent.nope_dim + latent.rope_dim,
        };
        let scale = match self.score_scale() {
            ScoreScale::None => 1.0,
            ScoreScale::InverseSqrt => (width as f64).powf(-0.5),
        };
        match self.positions {
            Positions::Rotary(Rotary { yarn: Some(yarn), .. }) => scale * yarn.score_factor(),
            _ => scale,
        }
    }

    /// The rule of the factor, where it is not given that of the models with such positions.
    pub fn score_scale(&self) -> ScoreScale {
        self.score_scale.unwrap_or(match self.positions {
            Positions::RelativeBuckets(_) => ScoreScale::None,
            Positions::Rotary(_) => ScoreScale::InverseSqrt,
        })
    }
}

/// Widths of all heads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionWidths {
    pub queries: usize,
    pub keys: usize,
    pub values: usize,
    /// What the last projection takes.
    pub output: usize,
}
