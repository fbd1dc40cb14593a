//! Token embedding.

use super::{Context, Init, Params};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Direction, Value};

pub fn declare(params: &mut Params, vocab_size: usize, d_model: usize) {
    params.add("embedding", &[vocab_size, d_model], Init::TruncatedNormal(1.0));
}

/// Rows of the table `[vocabulary, d_model]` for `s32[..]` tokens, in the element type of activations; not scaled.
pub fn embed(b: &mut Builder, cx: &Context, tokens: Value) -> Result<Value, BuildError> {
    let table = cx.weights.path(b, "shared/embedding", DType::F32)?;
    let rows = b.take_rows(table, tokens)?;
    b.convert(rows, cx.dtype())
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
