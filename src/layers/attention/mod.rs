//! Attention without biases, in three forms with one use: a token's keys are made once, and queries attend to them.
//!
//! | form | what a token keeps |
//! | --- | --- |
//! | `heads`: multi-head (T5), grouped-query (Llama) | keys and values of each head |
//! | `latent` (DeepSeek) | one latent for all heads, and the rotated part of the key |

mod heads;
mod latent;
mod scores;

use super::rotary::Rotation;
use super::{Context, Params};
use crate::build::{BuildError, Builder};
use crate::config::{Attention, ModelConfig, ScoreScale};
use crate::ir::Value;

pub use scores::{Term, causal_mask, hide_others, hide_padding, same_example};

pub fn declare(params: &mut Params, config: &ModelConfig) {
    match config.attention {
        Attention::MultiHead => heads::declare(params, config, config.num_heads),
        Attention::GroupedQuery(grouped) => heads::declare(params, config, grouped.num_kv_heads),
        Attention::Latent(widths) => latent::declare(params, config, widths),
    }
}

/// `s` of the first weights of queries of this width: where scores are not scaled, the queries carry the factor.
fn query_scale(config: &ModelConfig, width: usize) -> f64 {
    match config.score_scale() {
        ScoreScale::None => config.init_scale / width as f64,
        ScoreScale::InverseSqrt => config.init_scale,
    }
}

/// What one token keeps for later queries: a name and a shape each.
pub fn kept(config: &ModelConfig) -> Vec<(&'static str, Vec<usize>)> {
    match config.attention {
        Attention::MultiHead => heads::kept(config.num_heads, config.d_kv),
        Attention::GroupedQuery(grouped) => heads::kept(grouped.num_kv_heads, config.d_kv),
        Attention::Latent(widths) => latent::kept(widths),
    }
}

/// What tokens `x [batch, keys, d_model]` keep: `[batch, keys, ..]` each, in the order of [`kept`].
pub fn keys(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Vec<Value>, BuildError> {
    match cx.config.attention {
        Attention::MultiHead | Attention::GroupedQuery(_) => heads::keys(b, cx, x, rotation),
        Attention::Latent(widths) => latent::keys(b, cx, widths, x, rotation),
    }
}

/// Tokens `x [batch, queries, d_model]` attend to what others kept; `terms` are added to the scores. The result is like `x`.
pub fn attend(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    keys: &[Value],
    terms: &[Term],
    rotation: Option<Rotation>,
) -> Result<Value, BuildError> {
    let &[first, second] = keys else {
        return Err(BuildError::Invalid("internal: attention keeps two tensors per token".into()));
    };
    match cx.config.attention {
        Attention::MultiHead | Attention::GroupedQuery(_) => {
            heads::attend(b, cx, x, [first, second], terms, rotation)
        }
        Attention::Latent(widths) => latent::attend(b, cx, widths, x, [first, second], terms, rotation),
    }
}
