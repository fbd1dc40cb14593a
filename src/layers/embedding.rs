//! Token embedding.

use super::{Context, Init, Params};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Direction, Value};
use crate::shard::Mesh;

/// The name of the table.
pub const TABLE: &str = "shared/embedding";

pub fn declare(params: &mut Params, vocab_size: usize, d_model: usize) {
    params.add("embedding", &[vocab_size, d_model], Init::TruncatedNormal(1.0));
}

/// Rows of the table `[vocabulary, d_model]` for `s32[..]` tokens, in the element type of activations; not scaled.
///
/// Where words are split over devices, the one that has a word gives its row, and the others zeros.
pub fn embed(b: &mut Builder, cx: &Context, tokens: Value) -> Result<Value, BuildError> {
    let table = cx.weights.path(b, TABLE, DType::F32)?;
    let axes = cx.mesh.vocabulary();
    if cx.mesh.parts(axes) == 1 {
        let rows = b.take_rows(table, tokens)?;
        return b.convert(rows, cx.dtype());
    }
    let words = b.shape(table)[0];
    let places = places(b, cx.mesh, tokens, words)?;
    let here = inside(b, places, words)?;
    let places = b.mask(here, places, 0.0)?;
    let rows = b.take_rows(table, places)?;
    let shape = b.shape(rows);
    let here = b.unreduce(here, &shape, &[shape.len() - 1])?;
    let rows = b.mask(here, rows, 0.0)?;
    let rows = b.convert(rows, cx.dtype())?;
    cx.mesh.sum(b, rows, axes)
}

/// The places of tokens `s32[..]` among the words of this device, of which there are so many; below 0 or past the end for those of
/// others.
pub fn places(b: &mut Builder, mesh: Mesh, tokens: Value, words: usize) -> Result<Value, BuildError> {
    let axes = mesh.vocabulary();
    if mesh.parts(axes) == 1 {
        return Ok(tokens);
    }
    let place = mesh.place(b, axes)?;
    let place = b.convert(place, DType::S32)?;
    let first = b.mul_scalar(place, words as f64)?;
    let first = b.splat(first, tokens)?;
    b.sub(tokens, first)
}

/// `pred`: which of these places are among so many words.
pub fn inside(b: &mut Builder, places: Value, words: usize) -> Result<Value, BuildError> {
    let begun = b.compare_scalar(Direction::Ge, places, 0.0)?;
    let before_end = b.compare_scalar(Direction::Lt, places, words as f64)?;
    b.and(begun, before_end)
}

/// The decoder's input: `s32[batch, length]` shifted right by one behind the start token 0.
///
/// Where a row holds several examples, numbered by `segments s32[batch, length]`, each of them begins with the start token.
pub fn shift_right(b: &mut Builder, tokens: Value, segments: Option<Value>) -> Result<Value, BuildError> {
    let shift = |b: &mut Builder, x: Value| {
        let zero = b.scalar(DType::S32, 0.0)?;
        b.pad(x, zero, &[0, 1], &[0, -1], &[0, 0])
    };
    let shifted = shift(b, tokens)?;
    let Some(segments) = segments else { return Ok(shifted) };
    let before = shift(b, segments)?;
    let inside = b.compare(Direction::Eq, before, segments)?;
    b.mask(inside, shifted, 0.0)
}

/// `[batch, length]` shifted left by one; 0 comes last.
pub fn shift_left(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let dtype = b.dtype(x);
    let zero = b.scalar(dtype, 0.0)?;
    b.pad(x, zero, &[0, -1], &[0, 1], &[0, 0])
}
