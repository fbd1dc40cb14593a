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
/// Under [`Remat::Scores`] the backward pass has only these inputs and the result, and computes scores and their exponentials again.
pub fn mix(b: &mut Builder, cx: &Context, qkv: [Value; 3], terms: &[Term]) -> Result<Value, BuildError> {
    let sums = match cx.config.remat {
        Remat::Scores => attend_again(b, cx, qkv, terms)?,
        _ => attend(b, cx, qkv, terms)?,
    };
    mean(b, cx, sums)
}

/// [`attend`], which the backward pass runs again.
fn attend_again(
    b: &mut Builder,
    cx: &Context,
    qkv: [Value; 3],
    terms: &[Term],
) -> Result<[Value; 2], BuildError> {
    let values: Vec<Value> = terms.iter().map(|term| term.value).collect();
    let inputs = [&qkv[..], &[cx.key], &values].concat();
    let types = b.types(&inputs);
    let body = b.subgraph(&types, |b, x| {
        let terms = terms.iter().zip(&x[4..]).map(|(term, &value)| Term { value, ..*term });
        let cx = Context { key: x[3], ..*cx };
        Ok(attend(b, &cx, [x[0], x[1], x[2]], &terms.collect::<Vec<_>>())?.to_vec())
    })?;
    let results = b.call_graph("attend", Arc::new(body), RematPolicy::SaveNothing, &inputs)?;
    Ok([results[0], results[1]])
}

/// What [`mean`] takes.
fn attend(
    b: &mut Builder,
    cx: &Context,
    [q, k, v]: [Value; 3],
    terms: &[Term],
) -> Result<[Value; 2], BuildError> {
    let (q_shape, k_shape) = (b.shape(q), b.shape(k));
    let [batch, queries, heads, width] = q_shape[..] else {
        return Err(BuildError::Invalid("internal: queries have four axes".into()));
    };
    let (keys, kv_heads) = (k_shape[1], k_shape[2]);
    if heads == kv_heads {
        let scores = b.einsum_into("bqhd,bkhd->bhqk", q, k, DType::F32, Default::default())?;
        let [weights, inverse] = weights(b, cx, scores, terms)?;
        let sums = b.einsum_into("bhqk,bkhd->bqhd", weights, v, DType::F32, Default::default())?;
        return Ok([sums, inverse]);
    }
    let share = heads / kv_heads;
    let q = b.reshape(q, &[batch, queries, kv_heads, share, width])?;
    let scores = b.einsum_into("bqgsd,bkgd->bgsqk", q, k, DType::F32, Default::default())?;
    let scores = b.reshape(scores, &[batch, heads, queries, keys])?;
    let [weights, inverse] = weights(b, cx, scores, terms)?;
    let weights = b.reshape(weights, &[batch, kv_heads, share, queries, keys])?;
    let sums = b.einsum_into("bgsqk,bkgd->bqgsd", weights, v, DType::F32, Default::default())?;
    let value_width = b.shape(v)[3];
    Ok([b.reshape(sums, &[batch, queries, heads, value_width])?, inverse])
}

/// The softmax of scaled scores `f32[batch, heads, queries, keys]` and their terms, before it is divided by its sums: what is mixed by these
/// weights is smaller, and is divided instead.
///
/// The weights `exp(score - max)` in the element type of activations, after dropout, and `f32[batch, queries, heads]`: 1 over their sums
/// before dropout.
pub fn weights(
    b: &mut Builder,
    cx: &Context,
    scores: Value,
    terms: &[Term],
) -> Result<[Value; 2], BuildError> {
    let shape = b.shape(scores);
    let mut scores = b.mul_scalar(scores, cx.config.score_factor())?;
    for term in terms {
        let term = b.broadcast_in_dim(term.value, &shape, term.axes)?;
        scores = b.add(scores, term)?;
    }
    let [weights, inverse] = exponentials(b, scores, cx.operand_dtype())?;
    let weights = b.convert(weights, cx.dtype())?;
    let weights = dropout::dropout_split(b, cx, ("probs", cx.config.dropout), weights, HEADS)?;
    Ok([weights, b.transpose(inverse, &[0, 2, 1])?])
}

/// `exp(x - max)` over the last axis of float32 scores, kept for the derivative only in `dtype`, and 1 over its sums.
///
/// The maximum counts as a constant: what is mixed and divided does not depend on it.
fn exponentials(b: &mut Builder, scores: Value, dtype: DType) -> Result<[Value; 2], BuildError> {
    let results = b.custom_vjp(
        "softmax",
        &[scores],
        |b, x| {
            let [exp, sum] = b.exponentials(x[0])?;
            let one = b.full_like(sum, 1.0)?;
            Ok((vec![b.convert(exp, dtype)?, b.div(one, sum)?], vec![]))
        },
        |b, args| {
            // e (g - r^2 h), with g and h the cotangents of e and r.
            let exp = b.convert(args.outputs[0], DType::F32)?;
            let g = b.convert(args.cotangents[0], DType::F32)?;
            let square = b.square(args.outputs[1])?;
            let sum = b.mul(square, args.cotangents[1])?;
            let shape = b.shape(g);
            let sum = b.unreduce(sum, &shape, &[shape.len() - 1])?;
            let centred = b.sub(g, sum)?;
            Ok(vec![b.mul(exp, centred)?])
        },
    )?;
    Ok([results[0], results[1]])
}

/// The means of values, from their weighted sums `f32[batch, queries, heads, width]` and 1 over the sums of the weights
/// `f32[batch, queries, heads]`: like the first, in the element type of activations.
///
/// The derivative by the second is read from the result, which the next product needs anyway.
pub fn mean(b: &mut Builder, cx: &Context, sums: [Value; 2]) -> Result<Value, BuildError> {
    let dtype = cx.operand_dtype();
    let results = b.custom_vjp(
        "mean",
        &sums,
        |b, x| {
            let inverse = b.unreduce(x[1], &b.shape(x[0]), &[3])?;
            let mean = b.mul(x[0], inverse)?;
            Ok((vec![b.convert(mean, dtype)?], vec![]))
        },
        |b, args| {
            let g = b.convert(args.cotangents[0], DType::F32)?;
            let mean = b.convert(args.outputs[0], DType::F32)?;
            let inverse = b.unreduce(args.inputs[1], &b.shape(g), &[3])?;
            let product = b.mul(g, mean)?;
            let product = b.sum(product, &[3])?;
            Ok(vec![b.mul(g, inverse)?, b.div(product, args.inputs[1])?])
        },
    )?;
    b.convert(results[0], cx.dtype())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::eval::evaluate;
    use crate::grad::gradients;
    use crate::ir::Literal;
    use crate::layers::{Phase, Weights};

    fn wave(shape: &[usize], seed: f32) -> Literal {
        let data: Vec<f32> =
            (0..shape.iter().product()).map(|i| (seed + 1.7 * i as f32).sin() * 2.0).collect();
        Literal::new(shape.to_vec(), &data).unwrap()
    }

    /// The values mixed, and the derivatives of their weighted sum by queries, keys, values and a term.
    fn found(
        inputs: &[Literal],
        mix: impl Fn(&mut Builder, [Value; 3], Term) -> Result<Value, BuildError>,
    ) -> Vec<Vec<f64>> {
        let types: Vec<TensorType> = inputs.iter().map(|x| x.ty().clone()).collect();
        let graph = Builder::graph(&types, |b, x| {
            let mixed = mix(b, [x[0], x[1], x[2]], Term { value: x[3], axes: &[1, 2, 3] })?;
            let weighted = b.mul(mixed, x[4])?;
            let sum = b.sum_all(weighted)?;
            Ok([vec![mixed], gradients(b, sum, &x[..4])?].concat())
        });
        evaluate(&graph.unwrap(), inputs).unwrap().iter().map(Literal::to_f64).collect()
    }

    #[test]
    fn values_are_mixed_by_the_softmax_of_scores_and_so_are_derivatives() {
        // Two rows, three queries of four heads, five keys.
        for kv_heads in [4, 2] {
            let (keys, values) = ([2, 5, kv_heads, 8], [2, 5, kv_heads, 6]);
            let inputs = [
                wave(&[2, 3, 4, 8], 0.1),
                wave(&keys, 0.2),
                wave(&values, 0.3),
                wave(&[4, 3, 5], 0.4),
                wave(&[2, 3, 4, 6], 0.5),
            ];
            let plain = found(&inputs, |b, [q, k, v], term| {
                let q = b.reshape(q, &[2, 3, kv_heads, 4 / kv_heads, 8])?;
                let scores = b.einsum("bqgsd,bkgd->bgsqk", q, k)?;
                let scores = b.reshape(scores, &[2, 4, 3, 5])?;
                let scores = b.mul_scalar(scores, ModelConfig::default().score_factor())?;
                let term = b.broadcast_in_dim(term.value, &[2, 4, 3, 5], term.axes)?;
                let scores = b.add(scores, term)?;
                let probs = b.softmax(scores)?;
                let probs = b.reshape(probs, &[2, kv_heads, 4 / kv_heads, 3, 5])?;
                let mixed = b.einsum("bgsqk,bkgd->bqgsd", probs, v)?;
                b.reshape(mixed, &[2, 3, 4, 6])
            });
            for remat in [Remat::None, Remat::Scores] {
                let config = ModelConfig { remat, ..ModelConfig::default() };
                let own = found(&inputs, |b, qkv, term| {
                    let weights = Weights::default();
                    let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
                    mix(b, &Context::alone(&config, Phase::Train, &weights, key), qkv, &[term])
                });
                for (own, plain) in own.iter().zip(&plain) {
                    let error = own.iter().zip(plain).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(error < 1e-5, "{kv_heads} heads of keys, {remat:?}: {error}");
                }
            }
        }
    }
}
