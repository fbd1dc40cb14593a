//! Multi-head attention; with fewer heads of keys and values than of queries it is grouped-query attention.

use super::scores::{Term, mix};
use super::{Context, Kept, Params, output, query_scale};
use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::Value;
use crate::layers::rotary::{self, Rotation};
use crate::shard::{Axis, MODEL, Partition};

/// A matrix from tokens to all heads of queries, keys or values.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    pub name: &'static str,
    /// Of all heads together.
    pub width: usize,
    /// `s` of its first weights.
    pub scale: f64,
}

/// The matrices of queries, keys and values.
pub fn projections(config: &ModelConfig) -> [Projection; 3] {
    let widths = config.attention_widths();
    let scale = config.init_scale;
    [
        Projection { name: "q", width: widths.queries, scale: query_scale(config, config.d_kv) },
        Projection { name: "k", width: widths.keys, scale },
        Projection { name: "v", width: widths.values, scale },
    ]
}

pub fn declare(params: &mut Params, config: &ModelConfig) {
    for Projection { name, width, scale } in projections(config) {
        params.matrix(name, [config.d_model, width], scale).split(-1, Axis::Model);
    }
    declare_output(params, config);
}

/// The matrix from the mixed values of all heads to the result.
pub fn declare_output(params: &mut Params, config: &ModelConfig) {
    let inner = config.attention_widths().output;
    params.matrix("o", [inner, config.d_model], config.init_scale).split(-2, Axis::Model);
}

pub fn kept(kv_heads: usize, width: usize) -> Vec<Kept> {
    let heads =
        |name| Kept { name, shape: vec![kv_heads, width], partition: Partition::whole().split(0, MODEL) };
    vec![heads("k"), heads("v")]
}

/// Queries `[batch, queries, heads, d_kv]`.
pub fn queries(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Value, BuildError> {
    let q = project(b, cx, "q", x)?;
    turned(b, cx, q, rotation)
}

/// Keys and values `[batch, keys, kv_heads, d_kv]`.
pub fn keys(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Vec<Value>, BuildError> {
    let k = project(b, cx, "k", x)?;
    let k = turned(b, cx, k, rotation)?;
    let v = project(b, cx, "v", x)?;
    Ok(vec![k, split(b, cx, v)?])
}

pub fn attend(
    b: &mut Builder,
    cx: &Context,
    q: Value,
    [k, v]: [Value; 2],
    terms: &[Term],
) -> Result<Value, BuildError> {
    let mixed = mix(b, cx, [q, k, v], terms)?; // [batch, queries, heads, d_kv]
    output(b, cx, mixed)
}

/// `[batch, length, heads * d_kv]`: of all heads, those that this device has.
fn project(b: &mut Builder, cx: &Context, name: &str, x: Value) -> Result<Value, BuildError> {
    let weight = cx.weight(b, name)?;
    b.einsum("bld,di->bli", x, weight)
}

/// Projected tokens in heads, turned by their positions: `[batch, length, heads, d_kv]`.
pub fn turned(
    b: &mut Builder,
    cx: &Context,
    projected: Value,
    rotation: Option<Rotation>,
) -> Result<Value, BuildError> {
    let heads = split(b, cx, projected)?;
    rotary::turn(b, heads, rotation)
}

/// `[batch, length, heads * d_kv]` -> `[batch, length, heads, d_kv]`.
pub fn split(b: &mut Builder, cx: &Context, projected: Value) -> Result<Value, BuildError> {
    let shape = b.shape(projected);
    b.reshape(projected, &[shape[0], shape[1], shape[2] / cx.config.d_kv.max(1), cx.config.d_kv])
}
