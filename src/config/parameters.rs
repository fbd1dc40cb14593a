//! Parameter counts by formula; no tensor is made.

use super::model::{Architecture, ModelConfig};
use super::router::Router;

impl ModelConfig {
    /// Number of trained values: embeddings, attention, position biases, norms, feed-forward networks, routers, experts.
    ///
    /// Saturates at `u64::MAX`, which no validated configuration reaches.
    /// Source: the shapes of T5 and Switch Transformer; no layer has an additive bias.
    pub fn parameter_count(&self) -> u64 {
        let stacks = match self.architecture {
            Architecture::EncoderDecoder => {
                let encoder = self.stack(self.num_encoder_layers, 1);
                encoder.saturating_add(self.stack(self.num_decoder_layers, 2))
            }
            Architecture::DecoderOnly => self.stack(self.num_decoder_layers, 1),
        };
        let tables = if self.tie_embeddings { 1 } else { 2 };
        let embeddings = product(&[tables, self.vocab_size, self.d_model]);
        clamp(stacks.saturating_add(embeddings))
    }

    /// Values that one token meets: each sparse layer counts as many experts as a token chooses (one, where experts choose).
    pub fn active_parameter_count(&self) -> u64 {
        let (encoder, decoder) = (self.sparse_in_encoder(), self.sparse_in(self.num_decoder_layers));
        let idle = |router: &Router| {
            self.moe.num_experts.saturating_sub(router.experts_per_token().unwrap_or(1).max(1))
        };
        let unmet = [(encoder, &self.moe.router), (decoder, self.moe.router_of_decoder())];
        let experts = unmet.map(|(layers, router)| product(&[layers, idle(router), self.expert_size()]));
        self.parameter_count().saturating_sub(clamp(experts[0].saturating_add(experts[1])))
    }

    /// Values of one expert.
    fn expert_size(&self) -> usize {
        clamp(product(&[self.feed_forward.num_matrices(), self.d_model, self.expert_d_ff()])) as usize
    }

    /// Sparse blocks of both stacks.
    pub fn sparse_layers(&self) -> usize {
        self.sparse_in_encoder().saturating_add(self.sparse_in(self.num_decoder_layers))
    }

    fn sparse_in_encoder(&self) -> usize {
        match self.architecture {
            Architecture::EncoderDecoder => self.sparse_in(self.num_encoder_layers),
            Architecture::DecoderOnly => 0,
        }
    }

    /// Sparse blocks among the first `layers` of a stack: one per whole run, and one more if the rest reaches it.
    fn sparse_in(&self, layers: usize) -> usize {
        if self.moe.num_experts == 0 || self.moe.every == 0 {
            return 0;
        }
        let rest = layers % self.moe.every > self.moe.sparse_offset();
        layers / self.moe.every + usize::from(rest)
    }

    /// Blocks with `attentions` attention layers each, the stack's position biases and its final norm.
    fn stack(&self, layers: usize, attentions: usize) -> u128 {
        let sparse = self.sparse_in(layers);
        let dense = layers.saturating_sub(sparse);
        let attention =
            product(&[4, self.d_model, self.num_heads, self.d_kv]).saturating_add(self.d_model as u128);
        let matrices = self.feed_forward.num_matrices();
        let feed_forward = product(&[matrices, self.d_model, self.d_ff]);
        let experts = self.moe.num_experts.saturating_add(self.moe.shared_experts);
        let experts = product(&[experts, self.expert_size()]);
        let router = product(&[self.moe.num_experts, self.d_model]);
        let terms = [
            (attention.saturating_mul(attentions as u128)).saturating_mul(layers as u128),
            feed_forward.saturating_mul(dense as u128),
            experts.saturating_add(router).saturating_mul(sparse as u128),
            product(&[layers, self.d_model]),
            product(&[self.positions.num_buckets, self.num_heads]),
            self.d_model as u128,
        ];
        terms.into_iter().fold(0, u128::saturating_add)
    }
}

fn product(factors: &[usize]) -> u128 {
    factors.iter().fold(1, |all, factor| all.saturating_mul(*factor as u128))
}

fn clamp(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
