//! Shapes with layouts: `f32[8,<=128]{1,0:T(8,128)S(1)}`, tuples.

use super::TextError;
use super::cursor::{Cursor, MAX_DEPTH};
use crate::hlo::primitive::primitive_named;
use crate::hlo::proto::{LayoutProto, ShapeProto, TileProto};
use crate::hlo::shape::{default_layout, tuple_shape};

/// Reads a shape; arrays without a layout get the default one.
pub fn shape(c: &mut Cursor) -> Result<ShapeProto, TextError> {
    nested(c, 0)
}

fn nested(c: &mut Cursor, depth: usize) -> Result<ShapeProto, TextError> {
    if !c.sees("(") {
        return array(c);
    }
    if depth >= MAX_DEPTH {
        return Err(c.error(format!("at most {MAX_DEPTH} nested tuples")));
    }
    Ok(tuple_shape(c.list(("(", ")"), |c| nested(c, depth + 1))?))
}

fn array(c: &mut Cursor) -> Result<ShapeProto, TextError> {
    let start = c.clone();
    let name = c.word("a shape")?;
    let Some(primitive) = primitive_named(name).filter(|p| p.name != "tuple") else {
        return Err(start.error("a shape, which starts with an element type such as `f32`"));
    };
    let dims = c.list(("[", "]"), dimension)?;
    let (dimensions, is_dynamic_dimension): (Vec<i64>, Vec<bool>) = dims.into_iter().unzip();
    let mut shape =
        ShapeProto { element_type: primitive.number, dimensions, is_dynamic_dimension, ..Default::default() };
    // A brace further on opens a computation, not a layout.
    if c.rest().starts_with('{') {
        shape.layout = Some(Box::new(layout(c, shape.dimensions.len())?));
    } else if primitive.bits > 0 {
        shape.layout = Some(Box::new(default_layout(shape.dimensions.len())));
    }
    Ok(shape)
}

/// A size, `<=5` (dynamic) or `?` (unbounded).
fn dimension(c: &mut Cursor) -> Result<(i64, bool), TextError> {
    if c.eat("?") {
        return Ok((i64::MIN, true));
    }
    let dynamic = c.eat("<=");
    let start = c.clone();
    match c.integer()? {
        ..0 => Err(start.error("a dimension of at least 0")),
        size => Ok((size, dynamic)),
    }
}

fn layout(c: &mut Cursor, rank: usize) -> Result<LayoutProto, TextError> {
    let start = c.clone();
    c.expect("{")?;
    let mut out = LayoutProto { tail_padding_alignment_in_elements: 1, ..Default::default() };
    while !c.sees("}") && !c.sees(":") {
        if !out.minor_to_major.is_empty() {
            c.expect(",")?;
        }
        out.minor_to_major.push(c.integer()?);
    }
    if c.eat(":") {
        while !c.sees("}") {
            layout_part(c, &mut out)?;
        }
    }
    c.expect("}")?;
    let mut sorted = out.minor_to_major.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank as i64) {
        return Err(start.error(format!("a layout that orders {rank} dimensions")));
    }
    Ok(out)
}

/// `T(8,128)(2,1)`, `S(1)`, `E(4)`, `L(8)`; other parts are skipped.
fn layout_part(c: &mut Cursor, out: &mut LayoutProto) -> Result<(), TextError> {
    let start = c.clone();
    let key = c.take_while(|x| x.is_ascii_alphabetic() || matches!(x, '#' | '*'));
    let one = |c: &mut Cursor| -> Result<i64, TextError> {
        c.expect("(")?;
        let value = c.integer()?;
        c.expect(")")?;
        Ok(value)
    };
    match key {
        "T" => {
            while c.sees("(") {
                out.tiles.push(TileProto { dimensions: c.list(("(", ")"), tile)? });
            }
        }
        "S" => out.memory_space = one(c)?,
        "E" => out.element_size_in_bits = one(c)?,
        "L" => out.tail_padding_alignment_in_elements = one(c)?,
        "" => return Err(start.error("a part of a layout, such as `T(8,128)`")),
        _ if c.sees("(") => drop(c.list(("(", ")"), |c| c.raw_value().map(drop))?),
        _ => {}
    }
    Ok(())
}

fn tile(c: &mut Cursor) -> Result<i64, TextError> {
    if c.eat("*") { Ok(i64::MIN) } else { c.integer() }
}
