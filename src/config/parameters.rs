//! Parameter counts by formula; no tensor is made.

use super::attention::{Attention, Positions};
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
        let [encoder, decoder] = self.stacks().map(|layers| self.sparse_in(layers));
        let idle = |router: &Router| self.moe.num_experts.saturating_sub(chosen(router));
        let unmet = [(encoder, &self.moe.router), (decoder, self.moe.router_of_decoder())];
        let experts = unmet.map(|(layers, router)| product(&[layers, idle(router), self.expert_size()]));
        self.parameter_count().saturating_sub(clamp(experts[0].saturating_add(experts[1])))
    }

    /// Values of one expert.
    fn expert_size(&self) -> usize {
        clamp(product(&[self.feed_forward.num_matrices(), self.d_model, self.expert_d_ff()])) as usize
    }

    /// Blocks with `attentions` attention layers each, the stack's position biases and its final norm.
    fn stack(&self, layers: usize, attentions: usize) -> u128 {
        let sparse = self.sparse_in(layers);
        let dense = layers.saturating_sub(sparse);
        let norm = self.d_model as u128;
        let attention = self.attention().saturating_add(norm);
        let matrices = self.feed_forward.num_matrices();
        let feed_forward = product(&[matrices, self.d_model, self.d_ff]).saturating_add(norm);
        let experts = self.moe.num_experts.saturating_add(self.moe.shared_experts);
        let experts = product(&[experts, self.expert_size()]);
        let router = product(&[self.moe.num_experts, self.d_model]);
        let after = if self.dense_after_sparse { feed_forward } else { 0 };
        let moe = [experts, router, norm, after].into_iter().fold(0, u128::saturating_add);
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
        let [encoder, decoder] = self.stacks();
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
            times(self.met_matrices(encoder, &self.moe.router), 1, input_length),
            times(self.met_matrices(decoder, self.moe.router_of_decoder()), 1, target_length),
        ];
        clamp(terms.into_iter().fold(0, u128::saturating_add).saturating_mul(2))
    }

    /// Values of all feed-forward networks, routers and chosen experts of a stack that meet one token.
    fn met_matrices(&self, layers: usize, router: &Router) -> u128 {
        let sparse = self.sparse_in(layers);
        let matrices = self.feed_forward.num_matrices();
        let dense = product(&[matrices, self.d_model, self.d_ff]);
        let met = chosen(router).min(self.moe.num_experts).saturating_add(self.moe.shared_experts);
        let experts = product(&[met, self.expert_size()]);
        let router = product(&[self.moe.num_experts, self.d_model]);
        let after = if self.dense_after_sparse { dense } else { 0 };
        let moe = experts.saturating_add(router).saturating_add(after);
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
