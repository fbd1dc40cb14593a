//! T5's relative position bias.

use super::{Context, Init, Params};
use crate::build::{BuildError, Builder};
use crate::config::RelativeBuckets;
use crate::ir::{DType, Direction, TensorType, Value};
use crate::shard::Axis;

/// Whether keys after the query are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Both,
    Causal,
}

pub fn declare(params: &mut Params, positions: RelativeBuckets, num_heads: usize) {
    let buckets = positions.num_buckets;
    // Variance scaling by the mean of both fans.
    let deviation = (2.0 / (buckets + num_heads) as f64).sqrt();
    let bias = params.add("relative_bias", &[buckets, num_heads], Init::TruncatedNormal(deviation));
    bias.split(-1, Axis::Model).factored = false;
}

/// The bias of attention scores: `f32[heads, queries, keys]` with as many keys as queries.
///
/// One row per distance is looked up by a product with a one-hot matrix and then laid along the diagonals by padding and
/// reshaping, so that the derivative needs no scatter.
pub fn relative_bias(
    b: &mut Builder,
    cx: &Context,
    positions: RelativeBuckets,
    sight: Sight,
    length: usize,
) -> Result<Value, BuildError> {
    let table = cx.weights.get(b, "relative_bias")?;
    let heads = b.shape(table)[1];
    // Every distance from -(length - 1) on.
    let index = b.iota(TensorType::new(DType::S32, [2 * length - 1]), 0)?;
    let distance = b.add_scalar(index, 1.0 - length as f64)?;
    let bucket = bucket_of(b, positions, sight, distance)?;
    let one_hot = b.one_hot(bucket, positions.num_buckets, DType::F32)?;
    let rows = b.einsum("nb,bh->hn", one_hot, table)?; // [heads, 2 length - 1]
    diagonals(b, rows, heads, length)
}

/// `[heads, 2n - 1]`, indexed by `key - query + n - 1` -> `[heads, queries, keys]`.
fn diagonals(b: &mut Builder, rows: Value, heads: usize, n: usize) -> Result<Value, BuildError> {
    let zero = b.scalar(DType::F32, 0.0)?;
    // Rows of 2n elements, cut again into rows of 2n - 1: row i starts i elements later. With queries in reverse order that
    // gives query n - 1 - i the distances from -(n - 1) + i on.
    let padded = b.pad(rows, zero, &[0, 0], &[0, 1], &[0, 0])?;
    let wide = b.broadcast_in_dim(padded, &[heads, n, 2 * n], &[0, 2])?;
    let flat = b.reshape(wide, &[heads, 2 * n * n])?;
    let cut = b.slice_axis(flat, 1, 0, n * (2 * n - 1))?;
    let skewed = b.reshape(cut, &[heads, n, 2 * n - 1])?;
    // Row i of `skewed` is `rows` rotated right by i: entry n - 1 + j is distance j - i.
    b.slice_axis(skewed, 2, n - 1, 2 * n - 1)
}

/// The bias of one query per row: `f32[batch, heads, keys]` for `distance s32[batch, keys]`, key minus query.
pub fn bias_of_distances(
    b: &mut Builder,
    cx: &Context,
    positions: RelativeBuckets,
    sight: Sight,
    distance: Value,
) -> Result<Value, BuildError> {
    let table = cx.weights.get(b, "relative_bias")?;
    let bucket = bucket_of(b, positions, sight, distance)?;
    let one_hot = b.one_hot(bucket, positions.num_buckets, DType::F32)?;
    b.einsum("bkn,nh->bhk", one_hot, table)
}

/// The bucket of each distance, key minus query: `s32` of the same shape.
fn bucket_of(
    b: &mut Builder,
    positions: RelativeBuckets,
    sight: Sight,
    distance: Value,
) -> Result<Value, BuildError> {
    match sight {
        Sight::Both => {
            let side = positions.num_buckets / 2;
            let size = b.abs(distance)?;
            let bucket = count_thresholds(b, size, &thresholds(side, positions.max_distance))?;
            let after = b.compare_scalar(Direction::Gt, distance, 0.0)?;
            let after = b.convert(after, DType::S32)?;
            let after = b.mul_scalar(after, side as f64)?;
            b.add(bucket, after)
        }
        Sight::Causal => {
            let back = b.neg(distance)?;
            let zero = b.full_like(back, 0.0)?;
            let back = b.max(back, zero)?;
            count_thresholds(b, back, &thresholds(positions.num_buckets, positions.max_distance))
        }
    }
}

/// How many thresholds each distance reaches: its bucket.
fn count_thresholds(b: &mut Builder, distance: Value, thresholds: &[usize]) -> Result<Value, BuildError> {
    let mut bucket = b.full_like(distance, 0.0)?;
    for &threshold in thresholds {
        let reached = b.compare_scalar(Direction::Ge, distance, threshold as f64)?;
        let reached = b.convert(reached, DType::S32)?;
        bucket = b.add(bucket, reached)?;
    }
    Ok(bucket)
}

/// The first distance of each bucket from 1 on: half of them exact, the rest logarithmic up to `max_distance`.
///
/// Integers, because in float32 the logarithm of a power of two falls on either side of its edge.
pub fn thresholds(num_buckets: usize, max_distance: usize) -> Vec<usize> {
    let exact = (num_buckets / 2).max(1);
    let ratio = (max_distance as f64 / exact as f64).max(1.0);
    let log = |i: usize| exact as f64 * ratio.powf(i as f64 / (num_buckets - exact) as f64);
    let first = |i: usize| {
        let edge = log(i);
        // An edge that is an integer but for rounding is that integer.
        let near = edge.round();
        if (edge - near).abs() < 1e-9 * near { near as usize } else { edge.ceil() as usize }
    };
    (1..=exact).chain((1..num_buckets - exact).map(first)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoder_buckets_begin_at_the_published_distances() {
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        assert_eq!(thresholds(16, 128), expected);
    }

    #[test]
    fn decoder_buckets_begin_at_the_published_distances() {
        let expected = [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113];
        assert_eq!(thresholds(32, 128)[15..], expected);
    }

    #[test]
    fn the_diagonals_hold_the_distance_of_key_and_query() {
        // Row n holds its own index, so entry (query, key) must be key - query + length - 1.
        let mut b = Builder::new();
        let rows = b.parameter(TensorType::new(DType::F32, [1, 5])).unwrap();
        let out = diagonals(&mut b, rows, 1, 3).unwrap();
        let graph = b.finish(&[out]);
        let input = crate::ir::Literal::new([1, 5], &[0f32, 1., 2., 3., 4.]).unwrap();
        let result = crate::eval::evaluate(&graph, &[input]).unwrap();
        assert_eq!(result[0].to_f64(), [2., 3., 4., 1., 2., 3., 0., 1., 2.]);
    }
}
