//! Parameter counts by formula; no tensor is made.

use super::attention::{Attention, Positions};
use super::model::{Architecture, ModelConfig};
use super::router::Router;
use super::side::Side;

impl ModelConfig {
    /// Number of trained values: embeddings, attention, position biases, norms, feed-forward networks, routers, experts.
    ///
    /// Saturates at `u64::MAX`, which no validated configuration reaches.
    /// Source: the shapes of T5 and Switch Transformer; no layer has an additive bias.
    pub fn parameter_count(&self) -> u64 {
        let stacks = match self.architecture {
            Architecture::EncoderDecoder => {
                self.stack(Side::Encoder, 1).saturating_add(self.stack(Side::Decoder, 2))
            }
            Architecture::DecoderOnly => self.stack(Side::Decoder, 1),
        };
        let tables = if self.tie_embeddings { 1 } else { 2 };
        let embeddings = product(&[tables, self.vocab_size, self.d_model]);
        clamp(stacks.saturating_add(embeddings))
    }

    /// Values that one token meets: each sparse layer counts as many experts as a token chooses (one, where experts choose).
    pub fn active_parameter_count(&self) -> u64 {
        let size =
            [self.feed_forward_expert(), self.attention_expert()].into_iter().fold(0, u128::saturating_add);
        let experts = Side::BOTH.map(|side| {
            let idle = self.moe.num_experts.saturating_sub(chosen(side.router(self)));
            product(&[self.sparse_blocks(side), idle]).saturating_mul(size)
        });
        self.parameter_count().saturating_sub(clamp(experts[0].saturating_add(experts[1])))
    }

    /// Values of one expert in the place of the feed-forward network; 0 where there is none.
    fn feed_forward_expert(&self) -> u128 {
        match self.moe.sublayers.feed_forward() {
            true => product(&[self.feed_forward.num_matrices(), self.d_model, self.expert_d_ff()]),
            false => 0,
        }
    }

    /// Values of one expert in self-attention; 0 where there is none.
    fn attention_expert(&self) -> u128 {
        let widths = self.attention_widths();
        let all = widths.queries.saturating_add(widths.keys).saturating_add(widths.values);
        if self.moe.sublayers.attention() { product(&[self.d_model, all]) } else { 0 }
    }

    /// Values of what stands in a sparse block for its feed-forward network, if each token meets so many of the experts that
    /// it is routed to.
    fn sparse_feed_forward(&self, met: usize) -> u128 {
        let dense = product(&[self.feed_forward.num_matrices(), self.d_model, self.d_ff]);
        if !self.moe.sublayers.feed_forward() {
            return dense;
        }
        let met = met.saturating_add(self.moe.shared_experts) as u128;
        let router = product(&[self.moe.num_experts, self.d_model]);
        let after = if self.dense_after_sparse { dense } else { 0 };
        self.feed_forward_expert().saturating_mul(met).saturating_add(router).saturating_add(after)
    }

    /// What experts add to the projections of self-attention in a sparse block, if each token meets so many of them.
    fn sparse_attention(&self, met: usize) -> u128 {
        if !self.moe.sublayers.attention() {
            return 0;
        }
        let router = product(&[self.moe.num_experts, self.d_model]);
        self.attention_expert().saturating_mul(met.saturating_sub(1) as u128).saturating_add(router)
    }

    /// Blocks with `attentions` attention layers each, the stack's position biases and its final norm.
    fn stack(&self, side: Side, attentions: usize) -> u128 {
        let (layers, sparse) = (side.layers(self), self.sparse_blocks(side));
        let dense = layers.saturating_sub(sparse);
        let norm = self.d_model as u128;
        let attention = self.attention().saturating_add(norm);
        let matrices = self.feed_forward.num_matrices();
        let feed_forward = product(&[matrices, self.d_model, self.d_ff]).saturating_add(norm);
        let experts = self.moe.num_experts;
        let after = if self.dense_after_sparse { norm } else { 0 };
        let moe = [self.sparse_feed_forward(experts), self.sparse_attention(experts), norm, after];
        let moe = moe.into_iter().fold(0, u128::saturating_add);
        let bias = match self.positions {
            Positions::RelativeBuckets(buckets) => product(&[buckets.num_buckets, self.num_heads]),
            Positions::Rotary(_) => 0,
        };
        let terms = [
            attention.saturating_mul(attentions as u128).saturating_mul(layers as u128),
            feed_forward.saturating_mul(dense as u128),
            moe.saturating_mul(sparse as u128),
            bias,
            norm,
        ];
        terms.into_iter().fold(0, u128::saturating_add)
    }

    /// The matrices of one attention layer and the norms inside it.
    fn attention(&self) -> u128 {
        let parts = self.attention_parts();
        [parts.queries, parts.keys, parts.norms].into_iter().fold(0, u128::saturating_add)
    }

    /// Values of one attention layer that meet each query, each key, and those of its norms.
    fn attention_parts(&self) -> AttentionParts {
        let (d, widths) = (self.d_model, self.attention_widths());
        let output = product(&[widths.output, d]);
        match self.attention {
            Attention::MultiHead | Attention::GroupedQuery(_) => {
                let queries = product(&[d, widths.queries]).saturating_add(output);
                let keys = product(&[d, widths.keys]).saturating_add(product(&[d, widths.values]));
                AttentionParts { queries, keys, norms: 0 }
            }
            Attention::Latent(latent) => {
                let kv = latent.kv_rank;
                let up = self.num_heads.saturating_mul(latent.nope_dim.saturating_add(latent.value_dim));
                let queries = match latent.query_rank {
                    Some(rank) => product(&[d, rank]).saturating_add(product(&[rank, widths.queries])),
                    None => product(&[d, widths.queries]),
                };
                let down = product(&[d, kv.saturating_add(latent.rope_dim)]);
                let norms = latent.query_rank.unwrap_or(0).saturating_add(kv) as u128;
                let keys = down.saturating_add(product(&[kv, up]));
                AttentionParts { queries: queries.saturating_add(output), keys, norms }
            }
        }
    }

    /// Floating-point operations of one sequence's forward pass in products with weights, two per multiply-add.
    ///
    /// Each token counts the experts that it chooses. Scores of attention, dispatch and the output head are left out, as in
    /// the paper's table 9.
    pub fn forward_flops(&self, input_length: usize, target_length: usize) -> u64 {
        let [encoder, decoder] = Side::BOTH.map(|side| side.layers(self));
        let attention = self.attention_parts();
        let all = attention.queries.saturating_add(attention.keys);
        let times = |count: u128, layers: usize, tokens: usize| {
            count.saturating_mul(layers as u128).saturating_mul(tokens as u128)
        };
        let cross = if encoder > 0 { decoder } else { 0 };
        let terms = [
            times(all, encoder, input_length),
            times(all, decoder, target_length),
            times(attention.queries, cross, target_length),
            times(attention.keys, cross, input_length),
            times(self.met_matrices(Side::Encoder), 1, input_length),
            times(self.met_matrices(Side::Decoder), 1, target_length),
        ];
        clamp(terms.into_iter().fold(0, u128::saturating_add).saturating_mul(2))
    }

    /// Values of all feed-forward networks, routers and chosen experts of a stack that meet one token, beside the projections of
    /// one expert in attention.
    fn met_matrices(&self, side: Side) -> u128 {
        let (layers, sparse) = (side.layers(self), self.sparse_blocks(side));
        let dense = product(&[self.feed_forward.num_matrices(), self.d_model, self.d_ff]);
        let met = chosen(side.router(self)).min(self.moe.num_experts);
        let moe = self.sparse_feed_forward(met).saturating_add(self.sparse_attention(met));
        let denses = dense.saturating_mul(layers.saturating_sub(sparse) as u128);
        denses.saturating_add(moe.saturating_mul(sparse as u128))
    }
}

/// Numbers of values of one attention layer.
struct AttentionParts {
    queries: u128,
    keys: u128,
    norms: u128,
}

/// Experts that a token goes to (one, where experts choose).
fn chosen(router: &Router) -> usize {
    router.experts_per_token().unwrap_or(1).max(1)
}

fn product(factors: &[usize]) -> u128 {
    factors.iter().fold(1, |all, factor| all.saturating_mul(*factor as u128))
}

fn clamp(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
