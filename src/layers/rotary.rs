//! Rotary positions: pairs of elements of queries and keys turn by angles that grow with the position, so that a score depends on
//! the distance alone.

use crate::build::{BuildError, Builder};
use crate::config::{Pairing, Rotary};
use crate::ir::{DType, Literal, Value};

/// The angles of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// `f32[batch, length, width / 2]`.
    pub cos: Value,
    pub sin: Value,
    pub pairing: Pairing,
}

/// The angles of tokens at `positions s32[batch, length]`, for heads of this width.
pub fn rotation(
    b: &mut Builder,
    rotary: Rotary,
    width: usize,
    positions: Value,
) -> Result<Rotation, BuildError> {
    let shape = b.shape(positions);
    let full = [shape[0], shape[1], width / 2];
    let angle = b.constant(Literal::new([width / 2], &rotary.angles(width))?)?;
    let angle = b.broadcast_in_dim(angle, &full, &[2])?;
    let position = b.convert(positions, DType::F32)?;
    let position = b.broadcast_in_dim(position, &full, &[0, 1])?;
    let angle = b.mul(position, angle)?;
    let (cos, sin) = (b.cos(angle)?, b.sin(angle)?);
    let factor = rotary.table_factor();
    let (cos, sin) = (b.mul_scalar(cos, factor)?, b.mul_scalar(sin, factor)?);
    Ok(Rotation { cos, sin, pairing: rotary.pairing })
}

/// Turns `x [batch, length, heads, width]`; the first elements of all pairs come before the second ones, whatever the pairing,
/// which changes no product of a query and a key.
pub fn turn(b: &mut Builder, x: Value, rotation: Option<Rotation>) -> Result<Value, BuildError> {
    let Some(Rotation { cos, sin, pairing }) = rotation else { return Ok(x) };
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let [first, second] = pairs(b, x, pairing)?;
    let half = [shape[0], shape[1], shape[2], shape[3] / 2];
    let mut table = |table| -> Result<Value, BuildError> {
        let table = b.convert(table, dtype)?;
        b.broadcast_in_dim(table, &half, &[0, 1, 3])
    };
    let (cos, sin) = (table(cos)?, table(sin)?);
    let (a, c) = (b.mul(first, cos)?, b.mul(second, sin)?);
    let left = b.sub(a, c)?;
    let (a, c) = (b.mul(second, cos)?, b.mul(first, sin)?);
    let right = b.add(a, c)?;
    b.concatenate(&[left, right], 3)
}

/// First and second elements of the pairs along the last axis.
fn pairs(b: &mut Builder, x: Value, pairing: Pairing) -> Result<[Value; 2], BuildError> {
    let limits = b.shape(x);
    let width = limits[3];
    match pairing {
        Pairing::Halves => Ok([b.slice_axis(x, 3, 0, width / 2)?, b.slice_axis(x, 3, width / 2, width)?]),
        Pairing::Interleaved => {
            let first = b.slice(x, &[0; 4], &limits, &[1, 1, 1, 2])?;
            Ok([first, b.slice(x, &[0, 0, 0, 1], &limits, &[1, 1, 1, 2])?])
        }
    }
}
