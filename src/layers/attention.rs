//! Multi-head attention without biases and without scaling of the scores (T5).

use super::{Context, Params, dropout};
use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::{DType, Direction, TensorType, Value};

pub fn declare(params: &mut Params, config: &ModelConfig) {
    let (model, inner) = (config.d_model, config.attention_width());
    // Scores are not scaled, so the query matrix carries the factor 1 / sqrt(d_kv).
    params.matrix("q", [model, inner], config.init_scale / config.d_kv as f64);
    params.matrix("k", [model, inner], config.init_scale);
    params.matrix("v", [model, inner], config.init_scale);
    params.matrix("o", [inner, model], config.init_scale);
}

/// Who attends to what.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// `[batch, queries, d_model]`.
    pub queries: Value,
    /// `[batch, keys, d_model]`.
    pub keys: Value,
    /// `f32[heads, queries, keys]`, added to the scores: position bias and causal mask.
    pub bias: Option<Value>,
    /// `f32[batch, keys]` or `f32[batch, queries, keys]`, added to the scores: 0 for keys that are seen, else very negative.
    pub key_mask: Option<Value>,
}

/// Attention over all heads: `[batch, queries, d_model]`.
pub fn attend(b: &mut Builder, cx: &Context, inputs: Inputs) -> Result<Value, BuildError> {
    let q = project(b, cx, "q", inputs.queries)?; // [batch, queries, heads, d_kv]
    let k = project(b, cx, "k", inputs.keys)?;
    let v = project(b, cx, "v", inputs.keys)?;
    let scores = b.einsum_into("bqhd,bkhd->bhqk", q, k, DType::F32, Default::default())?;
    let shape = b.shape(scores);
    let scores = match inputs.bias {
        Some(bias) => {
            let bias = b.broadcast_in_dim(bias, &shape, &[1, 2, 3])?;
            b.add(scores, bias)?
        }
        None => scores,
    };
    let scores = match inputs.key_mask {
        Some(mask) => {
            let axes: &[usize] = if b.ty(mask).rank() == 2 { &[0, 3] } else { &[0, 2, 3] };
            let mask = b.broadcast_in_dim(mask, &shape, axes)?;
            b.add(scores, mask)?
        }
        None => scores,
    };
    let probs = softmax(b, scores, cx.dtype())?; // [batch, heads, queries, keys]
    let probs = dropout::dropout(b, cx, "probs", cx.config.dropout, probs)?;
    let mixed = b.einsum("bhqk,bkhd->bqhd", probs, v)?;
    let [batch, queries] = [shape[0], shape[2]];
    let mixed = b.reshape(mixed, &[batch, queries, cx.config.attention_width()])?;
    let o = cx.weight(b, "o")?;
    b.einsum("bqi,id->bqd", mixed, o)
}

fn project(b: &mut Builder, cx: &Context, name: &str, x: Value) -> Result<Value, BuildError> {
    let weight = cx.weight(b, name)?;
    let projected = b.einsum("bld,di->bli", x, weight)?;
    let shape = b.shape(projected);
    b.reshape(projected, &[shape[0], shape[1], cx.config.num_heads, cx.config.d_kv])
}

/// Softmax of float32 scores over the last axis, kept for the derivative only in `dtype`.
fn softmax(b: &mut Builder, scores: Value, dtype: DType) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "softmax",
        &[scores],
        |b, x| {
            let probs = b.softmax(x[0])?;
            Ok((vec![b.convert(probs, dtype)?], vec![]))
        },
        |b, args| {
            // p * (g - sum(g * p))
            let probs = b.convert(args.outputs[0], DType::F32)?;
            let g = b.convert(args.cotangents[0], DType::F32)?;
            let shape = b.shape(g);
            let last = [shape.len() - 1];
            let weighted = b.mul(g, probs)?;
            let sum = b.sum(weighted, &last)?;
            let sum = b.unreduce(sum, &shape, &last)?;
            let centred = b.sub(g, sum)?;
            Ok(vec![b.mul(probs, centred)?])
        },
    )?;
    Ok(results[0])
}

/// What hides a key from a query: far below any score, yet finite, so that a row of hidden keys stays defined.
const HIDDEN: f64 = -1e9;

/// `f32[queries, keys]`: 0 where the key is not after the query, else very negative.
pub fn causal_mask(b: &mut Builder, length: usize) -> Result<Value, BuildError> {
    let ty = TensorType::new(DType::S32, [length, length]);
    let query = b.iota(ty.clone(), 0)?;
    let key = b.iota(ty, 1)?;
    let seen = b.compare(Direction::Le, key, query)?;
    hide_unless(b, seen)
}

/// `f32` of the shape of `seen`: 0 where it holds, else very negative.
fn hide_unless(b: &mut Builder, seen: Value) -> Result<Value, BuildError> {
    let ty = b.ty(seen).with_dtype(DType::F32);
    let zero = b.zeros(&ty)?;
    b.mask(seen, zero, HIDDEN)
}

/// `f32` like `real`: 0 for tokens, very negative for padding.
pub fn hide_padding(b: &mut Builder, real: Value) -> Result<Value, BuildError> {
    let seen = b.compare_scalar(Direction::Gt, real, 0.0)?;
    hide_unless(b, seen)
}

/// `f32[batch, queries, keys]`: 0 where query and key are of the same example of a packed row, else very negative.
///
/// `queries s32[batch, queries]` and `keys s32[batch, keys]` number the examples of a row from 1; 0 is padding.
pub fn hide_others(b: &mut Builder, queries: Value, keys: Value) -> Result<Value, BuildError> {
    let seen = same_example(b, queries, keys)?;
    hide_unless(b, seen)
}

/// `pred[batch, n, m]`: whether the numbers `s32[batch, n]` and `s32[batch, m]` are of the same example, not of padding.
pub fn same_example(b: &mut Builder, n: Value, m: Value) -> Result<Value, BuildError> {
    let shape = [b.shape(n)[0], b.shape(n)[1], b.shape(m)[1]];
    let real = b.compare_scalar(Direction::Gt, n, 0.0)?;
    let real = b.broadcast_in_dim(real, &shape, &[0, 1])?;
    let n = b.broadcast_in_dim(n, &shape, &[0, 1])?;
    let m = b.broadcast_in_dim(m, &shape, &[0, 2])?;
    let same = b.compare(Direction::Eq, n, m)?;
    b.and(same, real)
}
