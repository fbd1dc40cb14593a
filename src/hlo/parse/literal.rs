//! Constants: `{ { 1, 2 }, { 3, 4 } }`, scalars, tuples, and the elided `{...}`.

use super::TextError;
use super::cursor::{Cursor, MAX_DEPTH};
use crate::hlo::primitive::primitive;
use crate::hlo::proto::{LiteralProto, ShapeProto};
use crate::hlo::shape::array_shape;
use half::{bf16, f16};

/// Reads a constant of this shape; `None` where it is elided or of a type without a text form here.
///
/// The data is kept in row-major order whatever the layout of the instruction is.
pub fn literal(c: &mut Cursor, shape: &ShapeProto) -> Result<Option<LiteralProto>, TextError> {
    nested(c, shape, 0)
}

fn nested(c: &mut Cursor, shape: &ShapeProto, depth: usize) -> Result<Option<LiteralProto>, TextError> {
    let mut ahead = c.clone();
    if ahead.eat("{") && ahead.eat("...") && ahead.eat("}") {
        *c = ahead;
        return Ok(None);
    }
    if !shape.is_tuple() {
        return array(c, shape);
    }
    if depth >= MAX_DEPTH {
        return Err(c.error(format!("at most {MAX_DEPTH} nested tuples")));
    }
    let mut shapes = shape.tuple_shapes.iter();
    let start = c.clone();
    let elements = c.list(("(", ")"), |c| match shapes.next() {
        Some(shape) => nested(c, shape, depth + 1),
        None => Err(c.error("no more elements than the shape has")),
    })?;
    if elements.len() != shape.tuple_shapes.len() {
        return Err(start.error(format!("{} elements", shape.tuple_shapes.len())));
    }
    let elements: Option<Vec<LiteralProto>> = elements.into_iter().collect();
    Ok(elements.map(|e| LiteralProto { shape: Some(shape.clone()), tuple_literals: e, ..Default::default() }))
}

fn array(c: &mut Cursor, shape: &ShapeProto) -> Result<Option<LiteralProto>, TextError> {
    let plain = array_shape(shape.element_type, shape.dimensions.clone());
    let mut out = LiteralProto { shape: Some(plain), ..Default::default() };
    let name = primitive(shape.element_type).map_or("", |p| p.name);
    if !["pred", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64", "f16", "bf16", "f32", "f64"]
        .contains(&name)
    {
        while !c.sees(")") && !c.rest().is_empty() {
            c.raw_value()?;
            c.eat(",");
        }
        return Ok(None);
    }
    let start = c.clone();
    let count = values(c, shape.dimensions.len(), |c| value(c, name, &mut out))?;
    if count != shape.elements() {
        return Err(start.error(format!("{} values for {}", shape.elements(), shape.brief())));
    }
    Ok(Some(out))
}

/// Reads values between braces nested `rank` deep; returns how many.
fn values(
    c: &mut Cursor,
    rank: usize,
    mut value: impl FnMut(&mut Cursor) -> Result<(), TextError>,
) -> Result<u64, TextError> {
    let mut depth = 0;
    let mut count = 0;
    loop {
        if depth < rank && c.eat("{") {
            depth += 1;
        } else if depth > 0 && c.eat("}") {
            depth -= 1;
        } else if depth == rank {
            value(c)?;
            count += 1;
        } else {
            return Err(c.error(format!("braces nested {rank} deep")));
        }
        if depth == 0 {
            return Ok(count);
        }
        c.eat(",");
    }
}

/// Reads one value and appends it to the field of its type.
fn value(c: &mut Cursor, name: &str, out: &mut LiteralProto) -> Result<(), TextError> {
    c.space();
    let start = c.clone();
    let word = c.take_while(|x| x.is_ascii_alphanumeric() || matches!(x, '+' | '-' | '.'));
    let payload = if word.ends_with("nan") && c.eat_here('(') {
        let hex = c.take_while(|x| x.is_ascii_alphanumeric());
        c.expect(")")?;
        hex.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok())
    } else {
        None
    };
    push(out, name, word, payload).ok_or_else(|| start.error(format!("a value of type {name}")))
}

fn push(out: &mut LiteralProto, name: &str, word: &str, payload: Option<u64>) -> Option<()> {
    let float = |exponent, mantissa| float_bits(word, payload, exponent, mantissa);
    match name {
        "pred" => out.preds.push(match word {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return None,
        }),
        "s8" => out.s8s.push(word.parse::<i8>().ok()? as u8),
        "u8" => out.u8s.push(word.parse().ok()?),
        "s16" => out.s16s.extend(word.parse::<i16>().ok()?.to_le_bytes()),
        "u16" => out.u16s.extend(word.parse::<u16>().ok()?.to_le_bytes()),
        "s32" => out.s32s.push(word.parse().ok()?),
        "s64" => out.s64s.push(word.parse().ok()?),
        "u32" => out.u32s.push(word.parse().ok()?),
        "u64" => out.u64s.push(word.parse().ok()?),
        "f16" => out.f16s.extend(match float(5, 10) {
            Some(bits) => (bits as u16).to_le_bytes(),
            None => f16::from_f64(word.parse().ok()?).to_le_bytes(),
        }),
        "bf16" => out.bf16s.extend(match float(8, 7) {
            Some(bits) => (bits as u16).to_le_bytes(),
            None => bf16::from_f64(word.parse().ok()?).to_le_bytes(),
        }),
        "f32" => out.f32s.push(match float(8, 23) {
            Some(bits) => f32::from_bits(bits as u32),
            None => word.parse().ok()?,
        }),
        "f64" => out.f64s.push(match float(11, 52) {
            Some(bits) => f64::from_bits(bits),
            None => word.parse().ok()?,
        }),
        _ => return None,
    }
    Some(())
}

/// The bits of a NaN in a format with this many exponent and mantissa bits; `None` for other numbers.
fn float_bits(word: &str, payload: Option<u64>, exponent: u32, mantissa: u32) -> Option<u64> {
    let (negative, word) = word.strip_prefix('-').map_or((false, word), |w| (true, w));
    if word != "nan" {
        return None;
    }
    let mask = (1u64 << mantissa) - 1;
    let payload = payload.map(|p| p & mask).filter(|&p| p != 0).unwrap_or(1 << (mantissa - 1));
    let sign = u64::from(negative) << (exponent + mantissa);
    Some(sign | (((1 << exponent) - 1) << mantissa) | payload)
}
