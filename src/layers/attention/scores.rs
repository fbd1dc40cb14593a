//! From queries, keys and values to mixed values, and what hides keys from queries.

use crate::build::{BuildError, Builder};
use crate::config::Remat;
use crate::ir::{DType, Direction, RematPolicy, TensorType, Value};
use crate::layers::{Context, dropout};
use crate::shard::{Axis, BATCH, MODEL};
use std::sync::Arc;

/// How `[batch, heads, ..]` is split over the mesh.
const HEADS: &[(usize, &[Axis])] = &[(0, BATCH), (1, MODEL)];

/// What is added to the scores: float32, over these of the axes batch, heads, queries, keys (0 to 3).
#[derive(Clone, Copy, Debug)]
pub struct Term {
    pub value: Value,
    pub axes: &'static [usize],
}

/// Values mixed by the probabilities of their keys.
///
/// Queries `[batch, queries, heads, width]`, keys `[batch, keys, kv_heads, width]`, values `[batch, keys, kv_heads, value_width]`
/// -> `[batch, queries, heads, value_width]`. Query head h meets head `h / (heads / kv_heads)` of keys and values.
///
/// Under [`Remat::Scores`] the backward pass has only these inputs, and computes scores and probabilities again.
pub fn mix(b: &mut Builder, cx: &Context, qkv: [Value; 3], terms: &[Term]) -> Result<Value, BuildError> {
    if cx.config.remat != Remat::Scores {
        return attend(b, cx, qkv, terms);
    }
    let values: Vec<Value> = terms.iter().map(|term| term.value).collect();
    let inputs = [&qkv[..], &[cx.key], &values].concat();
    let types = b.types(&inputs);
    let body = b.subgraph(&types, |b, x| {
        let terms = terms.iter().zip(&x[4..]).map(|(term, &value)| Term { value, ..*term });
        let cx = Context { key: x[3], ..*cx };
        Ok(vec![attend(b, &cx, [x[0], x[1], x[2]], &terms.collect::<Vec<_>>())?])
    })?;
    Ok(b.call_graph("attend", Arc::new(body), RematPolicy::SaveNothing, &inputs)?[0])
}

fn attend(b: &mut Builder, cx: &Context, [q, k, v]: [Value; 3], terms: &[Term]) -> Result<Value, BuildError> {
    let (q_shape, k_shape) = (b.shape(q), b.shape(k));
    let [batch, queries, heads, width] = q_shape[..] else {
        return Err(BuildError::Invalid("internal: queries have four axes".into()));
    };
    let (keys, kv_heads) = (k_shape[1], k_shape[2]);
    if heads == kv_heads {
        let scores = b.einsum_into("bqhd,bkhd->bhqk", q, k, DType::F32, Default::default())?;
        let probs = probabilities(b, cx, scores, terms)?;
        return b.einsum("bhqk,bkhd->bqhd", probs, v);
    }
    let share = heads / kv_heads;
    let q = b.reshape(q, &[batch, queries, kv_heads, share, width])?;
    let scores = b.einsum_into("bqgsd,bkgd->bgsqk", q, k, DType::F32, Default::default())?;
    let scores = b.reshape(scores, &[batch, heads, queries, keys])?;
    let probs = probabilities(b, cx, scores, terms)?;
    let probs = b.reshape(probs, &[batch, kv_heads, share, queries, keys])?;
    let mixed = b.einsum("bgsqk,bkgd->bqgsd", probs, v)?;
    let value_width = b.shape(v)[3];
    b.reshape(mixed, &[batch, queries, heads, value_width])
}

/// Scaled scores `f32[batch, heads, queries, keys]` and their terms as probabilities in the element type of activations.
pub fn probabilities(
    b: &mut Builder,
    cx: &Context,
    scores: Value,
    terms: &[Term],
) -> Result<Value, BuildError> {
    let shape = b.shape(scores);
    let mut scores = b.mul_scalar(scores, cx.config.score_factor())?;
    for term in terms {
        let term = b.broadcast_in_dim(term.value, &shape, term.axes)?;
        scores = b.add(scores, term)?;
    }
    let probs = softmax(b, scores, cx.operand_dtype())?;
    let probs = b.convert(probs, cx.dtype())?;
    dropout::dropout_split(b, cx, ("probs", cx.config.dropout), probs, HEADS)
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
