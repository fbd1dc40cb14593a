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
use crate::shard::{MODEL, Partition};

pub use heads::{Projection, declare_output, projections};
pub use scores::{Term, causal_mask, hide_others, hide_padding, same_example};

pub fn declare(params: &mut Params, config: &ModelConfig) {
    match config.attention {
        Attention::MultiHead | Attention::GroupedQuery(_) => heads::declare(params, config),
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

/// One tensor that a token keeps for later queries.
#[derive(Clone, Debug)]
pub struct Kept {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub partition: Partition,
}

/// What one token keeps for later queries.
pub fn kept(config: &ModelConfig) -> Vec<Kept> {
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

/// What tokens look for, `[batch, queries, heads, ..]`.
#[derive(Clone, Copy, Debug)]
pub enum Queries {
    Heads(Value),
    Latent(latent::Queries),
}

/// What tokens `x [batch, queries, d_model]` look for.
pub fn queries(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Queries, BuildError> {
    match cx.config.attention {
        Attention::MultiHead | Attention::GroupedQuery(_) => {
            Ok(Queries::Heads(heads::queries(b, cx, x, rotation)?))
        }
        Attention::Latent(widths) => Ok(Queries::Latent(latent::queries(b, cx, widths, x, rotation)?)),
    }
}

/// Keys and queries made of projections `[batch, length, width]`, in the order of [`projections`].
pub fn from_projections(
    b: &mut Builder,
    cx: &Context,
    [q, k, v]: [Value; 3],
    rotation: Option<Rotation>,
) -> Result<(Vec<Value>, Queries), BuildError> {
    let q = heads::turned(b, cx, q, rotation)?;
    let k = heads::turned(b, cx, k, rotation)?;
    Ok((vec![k, heads::split(b, cx, v)?], Queries::Heads(q)))
}

/// Queries attend to what tokens kept; `terms` are added to the scores. The result is `[batch, queries, d_model]`.
pub fn attend(
    b: &mut Builder,
    cx: &Context,
    queries: Queries,
    keys: &[Value],
    terms: &[Term],
) -> Result<Value, BuildError> {
    let &[first, second] = keys else {
        return Err(BuildError::Invalid("internal: attention keeps two tensors per token".into()));
    };
    match queries {
        Queries::Heads(q) => heads::attend(b, cx, q, [first, second], terms),
        Queries::Latent(queries) => {
            let keys = latent::Keys { latent: first, rope: second };
            latent::attend(b, cx, queries, keys, terms)
        }
    }
}

/// Mixed values `[batch, queries, heads, value_width]` -> `[batch, queries, d_model]`.
fn output(b: &mut Builder, cx: &Context, mixed: Value) -> Result<Value, BuildError> {
    let shape = b.shape(mixed);
    let mixed = b.reshape(mixed, &[shape[0], shape[1], shape[2] * shape[3]])?;
    let o = cx.weight(b, "o")?;
    let output = b.einsum("bqi,id->bqd", mixed, o)?;
    cx.mesh.sum(b, output, MODEL)
}
