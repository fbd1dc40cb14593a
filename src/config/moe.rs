//! Sparse layers: which blocks, and the parts of each.

use serde::{Deserialize, Serialize};

use super::capacity::{Capacity, Group, Groups};
use super::router::Router;
use super::side::Side;

/// The sparse layers of both stacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoeConfig {
    /// Experts per sparse layer; 0 makes every block dense.
    pub num_experts: usize,
    /// One block in this many is sparse; 0 makes all dense.
    pub every: usize,
    /// Position of the sparse block in each run of `every`; the last one by default.
    pub offset: Option<usize>,
    /// As `every`, in the decoder of an encoder-decoder; `every` by default.
    pub decoder_every: Option<usize>,
    /// As `offset`, in the decoder of an encoder-decoder; `offset` by default, the last one of its own runs if it has such.
    pub decoder_offset: Option<usize>,
    /// Which sublayers of a sparse block have experts.
    pub sublayers: Sublayers,
    /// How tokens choose experts.
    pub router: Router,
    /// The same in the decoder of an encoder-decoder; `router` by default.
    pub decoder_router: Option<Router>,
    /// How many tokens an expert takes from a group.
    pub capacity: Capacity,
    /// Tokens that compete for the same capacity.
    pub group: Group,
    /// How tokens move to expert slots; all forms give the same numbers.
    pub dispatch: Dispatch,
    /// Dropout rate on the hidden activation of experts in training.
    pub expert_dropout: f64,
    /// Weight of the mean load-balancing loss in the total (paper: alpha, equation 4).
    pub load_balancing_coef: f64,
    /// Weight of the mean squared `logsumexp` of router logits.
    pub z_loss_coef: f64,
    /// How the losses of several sparse layers become one.
    pub aggregation: Aggregation,
    /// Hidden width of one expert; `model.d_ff` by default.
    pub d_ff: Option<usize>,
    /// Experts that every token goes to with weight one, beside those it is routed to (DeepSeek).
    pub shared_experts: usize,
}

impl Default for MoeConfig {
    fn default() -> Self {
        Self {
            num_experts: 0,
            every: 2,
            offset: None,
            decoder_every: None,
            decoder_offset: None,
            sublayers: Sublayers::FeedForward,
            router: Router::default(),
            decoder_router: None,
            capacity: Capacity::default(),
            group: Group::Batch,
            dispatch: Dispatch::Gather,
            expert_dropout: 0.0,
            load_balancing_coef: 1e-2,
            z_loss_coef: 0.0,
            aggregation: Aggregation::Sum,
            d_ff: None,
            shared_experts: 0,
        }
    }
}

/// Which blocks are sparse: of each run of `every` blocks that at `offset`; none where `every` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spacing {
    pub every: usize,
    pub offset: usize,
}

/// Which sublayers of a sparse block have experts, each with a router of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sublayers {
    /// The feed-forward network.
    FeedForward,
    /// Self-attention: experts make its queries, keys and values (Switch Transformer, appendix A).
    Attention,
    /// Both.
    Both,
}

impl Sublayers {
    /// Whether experts take the place of the feed-forward network.
    pub fn feed_forward(self) -> bool {
        self != Sublayers::Attention
    }

    /// Whether experts make queries, keys and values.
    pub fn attention(self) -> bool {
        self != Sublayers::FeedForward
    }

    /// Their scopes below a block, in the order in which they run.
    pub fn scopes(self) -> &'static [&'static str] {
        match self {
            Sublayers::FeedForward => &["moe"],
            Sublayers::Attention => &["attention"],
            Sublayers::Both => &["attention", "moe"],
        }
    }
}

/// How the load-balancing losses and z-losses of sparse layers become one number each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Their sum over all layers (Switch Transformer, Mesh TensorFlow).
    Sum,
    /// Their mean over all layers (flaxformer).
    Mean,
    /// Of each stack, as if its layers were one layer with the tokens of all; the stacks are added (Mixtral in Hugging Face).
    Pooled,
    /// The same, but a stack whose every block is sparse has none (Switch Transformers in Hugging Face).
    PooledMixed,
}

/// How tokens move to expert slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dispatch {
    /// Products with masks `[groups, tokens, experts, capacity]` (the paper's form).
    Einsum,
    /// Row moves by index tables `[groups, experts, capacity]`.
    Gather,
}

impl MoeConfig {
    /// Which blocks of a stack are sparse.
    pub fn spacing(&self, side: Side) -> Spacing {
        let (every, offset) = match (side, self.decoder_every) {
            (Side::Encoder, _) => (self.every, self.offset),
            (Side::Decoder, Some(every)) => (every, self.decoder_offset),
            (Side::Decoder, None) => (self.every, self.decoder_offset.or(self.offset)),
        };
        Spacing { every, offset: offset.unwrap_or(every.saturating_sub(1)) }
    }

    /// Slots per expert and group; see [`Capacity::slots`].
    pub fn capacity_for(&self, tokens_per_group: usize, train: bool) -> usize {
        self.capacity.slots(tokens_per_group, self.num_experts, train).capacity
    }

    /// Groups of a microbatch of `sequences` rows of `length` tokens; see [`Group::split`].
    pub fn groups(&self, sequences: usize, length: usize) -> Groups {
        self.group.split(sequences, length)
    }
}
