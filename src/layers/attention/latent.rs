//! Multi-head latent attention: keys and values are linear in a narrow latent, beside one rotated key for all heads.
//!
//! Over a sequence the keys and values are made from the latents. A single query is moved into the latents' space instead
//! (its part without position times the keys' matrix, the mixed latents times the values' matrix), which gives the same
//! numbers to rounding without making keys and values of all earlier tokens again.
//!
//! Source: DeepSeek-V2 (2024), section 2.1; the norms of both latents are those of DeepSeek-V3.

use super::scores::{Term, mean, mix, weights};
use super::{Context, Kept, Params, output, query_scale};
use crate::build::{BuildError, Builder};
use crate::config::{Latent, ModelConfig};
use crate::ir::{DType, Value};
use crate::layers::norm;
use crate::layers::rotary::{self, Rotation};
use crate::shard::{Axis, Partition};

/// Added to the mean square in the norms of latents, whatever that of other norms is.
const NORM_EPSILON: f64 = 1e-6;

/// Queries in two parts.
#[derive(Clone, Copy, Debug)]
pub struct Queries {
    pub widths: Latent,
    /// `[batch, queries, heads, nope_dim]`.
    pub nope: Value,
    /// `[batch, queries, heads, rope_dim]`.
    pub rope: Value,
}

/// What tokens keep for all heads.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// `[batch, keys, kv_rank]`.
    pub latent: Value,
    /// `[batch, keys, rope_dim]`.
    pub rope: Value,
}

pub fn declare(params: &mut Params, config: &ModelConfig, widths: Latent) {
    let Latent { query_rank, kv_rank, nope_dim, rope_dim, value_dim } = widths;
    let (model, heads, key) = (config.d_model, config.num_heads, nope_dim + rope_dim);
    let query = query_scale(config, key);
    match query_rank {
        Some(rank) => {
            params.matrix("q_down", [model, rank], config.init_scale);
            norm::declare(params, "q_norm", rank);
            params.matrix("q_up", [rank, heads * key], query).split(-1, Axis::Model);
        }
        None => drop(params.matrix("q", [model, heads * key], query).split(-1, Axis::Model)),
    }
    params.matrix("kv_down", [model, kv_rank + rope_dim], config.init_scale);
    norm::declare(params, "kv_norm", kv_rank);
    params
        .matrix("kv_up", [kv_rank, heads * (nope_dim + value_dim)], config.init_scale)
        .split(-1, Axis::Model);
    params.matrix("o", [heads * value_dim, model], config.init_scale).split(-2, Axis::Model);
}

pub fn kept(widths: Latent) -> Vec<Kept> {
    // All heads need all of it.
    let whole = |name, width| Kept { name, shape: vec![width], partition: Partition::whole() };
    vec![whole("latent", widths.kv_rank), whole("rope", widths.rope_dim)]
}

/// Latents `[batch, keys, kv_rank]`, normalised, and rotated keys `[batch, keys, rope_dim]`.
pub fn keys(
    b: &mut Builder,
    cx: &Context,
    widths: Latent,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Vec<Value>, BuildError> {
    let rank = widths.kv_rank;
    let down = product(b, cx, "kv_down", x)?;
    let latent = b.slice_axis(down, 2, 0, rank)?;
    let latent = norm::rms_norm_with(b, cx, "kv_norm", NORM_EPSILON, latent)?;
    let rope = b.slice_axis(down, 2, rank, rank + widths.rope_dim)?;
    let rope = b.expand_dim(rope, 2)?; // one head
    let rope = rotary::turn(b, rope, rotation)?;
    let shape = b.shape(rope);
    Ok(vec![latent, b.reshape(rope, &[shape[0], shape[1], shape[3]])?])
}

pub fn attend(
    b: &mut Builder,
    cx: &Context,
    queries: Queries,
    keys: Keys,
    terms: &[Term],
) -> Result<Value, BuildError> {
    let mixed = match b.shape(queries.nope)[1] {
        1 => in_latents(b, cx, queries, keys, terms)?,
        _ => in_heads(b, cx, queries, keys, terms)?,
    }; // [batch, queries, heads, value_dim]
    output(b, cx, mixed)
}

/// The parts of the queries without and with position.
pub fn queries(
    b: &mut Builder,
    cx: &Context,
    widths: Latent,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Queries, BuildError> {
    let q = match widths.query_rank {
        Some(_) => {
            let down = product(b, cx, "q_down", x)?;
            let down = norm::rms_norm_with(b, cx, "q_norm", NORM_EPSILON, down)?;
            product(b, cx, "q_up", down)?
        }
        None => product(b, cx, "q", x)?,
    };
    let shape = b.shape(q);
    let key = widths.nope_dim + widths.rope_dim;
    let q = b.reshape(q, &[shape[0], shape[1], shape[2] / key.max(1), key])?;
    let nope = b.slice_axis(q, 3, 0, widths.nope_dim)?;
    let rope = b.slice_axis(q, 3, widths.nope_dim, key)?;
    Ok(Queries { widths, nope, rope: rotary::turn(b, rope, rotation)? })
}

/// Attention with the keys and values of each head.
fn in_heads(
    b: &mut Builder,
    cx: &Context,
    queries: Queries,
    keys: Keys,
    terms: &[Term],
) -> Result<Value, BuildError> {
    let widths = queries.widths;
    let [k_up, v_up] = up(b, cx, widths)?;
    let k = b.einsum("bkr,rhn->bkhn", keys.latent, k_up)?;
    let v = b.einsum("bkr,rhv->bkhv", keys.latent, v_up)?;
    let mut shape = b.shape(k);
    shape[3] = widths.rope_dim;
    let rope = b.broadcast_in_dim(keys.rope, &shape, &[0, 1, 3])?;
    let k = b.concatenate(&[k, rope], 3)?;
    let q = b.concatenate(&[queries.nope, queries.rope], 3)?;
    mix(b, cx, [q, k, v], terms)
}

/// The same in the space of the latents.
fn in_latents(
    b: &mut Builder,
    cx: &Context,
    queries: Queries,
    keys: Keys,
    terms: &[Term],
) -> Result<Value, BuildError> {
    let [k_up, v_up] = up(b, cx, queries.widths)?;
    let q = b.einsum("bqhn,rhn->bqhr", queries.nope, k_up)?;
    let nope = b.einsum_into("bqhr,bkr->bhqk", q, keys.latent, DType::F32, Default::default())?;
    let turned = b.einsum_into("bqhe,bke->bhqk", queries.rope, keys.rope, DType::F32, Default::default())?;
    let scores = b.add(nope, turned)?;
    let [weights, inverse] = weights(b, cx, scores, terms)?;
    let sums = b.einsum_into("bhqk,bkr->bqhr", weights, keys.latent, DType::F32, Default::default())?;
    let mixed = mean(b, cx, [sums, inverse])?;
    b.einsum("bqhr,rhv->bqhv", mixed, v_up)
}

/// The matrices from latents to keys and to values: `[kv_rank, heads, nope_dim]`, `[kv_rank, heads, value_dim]`.
fn up(b: &mut Builder, cx: &Context, widths: Latent) -> Result<[Value; 2], BuildError> {
    let Latent { kv_rank, nope_dim, value_dim, .. } = widths;
    let weight = cx.weight(b, "kv_up")?;
    // Of all heads, those that this device has.
    let heads = b.shape(weight)[1] / (nope_dim + value_dim).max(1);
    let both = b.reshape(weight, &[kv_rank, heads, nope_dim + value_dim])?;
    Ok([b.slice_axis(both, 2, 0, nope_dim)?, b.slice_axis(both, 2, nope_dim, nope_dim + value_dim)?])
}

fn product(b: &mut Builder, cx: &Context, name: &str, x: Value) -> Result<Value, BuildError> {
    let weight = cx.weight(b, name)?;
    b.einsum("bld,di->bli", x, weight)
}
