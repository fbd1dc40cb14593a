//! Multi-head attention; with fewer heads of keys and values than of queries it is grouped-query attention.

use super::scores::{Term, mix};
use super::{Context, Params, query_scale};
use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::Value;
use crate::layers::rotary::{self, Rotation};
use crate::shard::{Axis, MODEL};

pub fn declare(params: &mut Params, config: &ModelConfig, kv_heads: usize) {
    let [model, inner, shared] = [config.d_model, config.num_heads * config.d_kv, kv_heads * config.d_kv];
    params.matrix("q", [model, inner], query_scale(config, config.d_kv)).split(-1, Axis::Model);
    params.matrix("k", [model, shared], config.init_scale).split(-1, Axis::Model);
    params.matrix("v", [model, shared], config.init_scale).split(-1, Axis::Model);
    params.matrix("o", [inner, model], config.init_scale).split(-2, Axis::Model);
}

pub fn kept(kv_heads: usize, width: usize) -> Vec<(&'static str, Vec<usize>)> {
    vec![("k", vec![kv_heads, width]), ("v", vec![kv_heads, width])]
}

/// Keys and values `[batch, keys, kv_heads, d_kv]`.
pub fn keys(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    rotation: Option<Rotation>,
) -> Result<Vec<Value>, BuildError> {
    let k = project(b, cx, "k", x)?;
    let k = rotary::turn(b, k, rotation)?;
    Ok(vec![k, project(b, cx, "v", x)?])
}

pub fn attend(
    b: &mut Builder,
    cx: &Context,
    x: Value,
    [k, v]: [Value; 2],
    terms: &[Term],
    rotation: Option<Rotation>,
) -> Result<Value, BuildError> {
    let q = project(b, cx, "q", x)?; // [batch, queries, heads, d_kv]
    let q = rotary::turn(b, q, rotation)?;
    let mixed = mix(b, cx, [q, k, v], terms)?; // [batch, queries, heads, d_kv]
    let shape = b.shape(mixed);
    let mixed = b.reshape(mixed, &[shape[0], shape[1], shape[2] * shape[3]])?;
    let o = cx.weight(b, "o")?;
    let output = b.einsum("bqi,id->bqd", mixed, o)?;
    cx.mesh.sum(b, output, MODEL)
}

/// `[batch, length, heads, d_kv]`: of all heads, those that this device has.
fn project(b: &mut Builder, cx: &Context, name: &str, x: Value) -> Result<Value, BuildError> {
    let weight = cx.weight(b, name)?;
    let projected = b.einsum("bld,di->bli", x, weight)?;
    let shape = b.shape(projected);
    b.reshape(projected, &[shape[0], shape[1], shape[2] / cx.config.d_kv.max(1), cx.config.d_kv])
}
