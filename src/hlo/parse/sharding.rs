//! Shardings; forms that are not known are read as text and dropped.

use super::TextError;
use super::cursor::{Cursor, MAX_DEPTH};
use crate::hlo::proto::OpSharding;

/// Reads `{replicated}`, `{maximal device=0}`, `{devices=[2,1]<=[2] ..}` or a tuple of them.
pub fn sharding(c: &mut Cursor) -> Result<Option<OpSharding>, TextError> {
    let mut ahead = c.clone();
    let known = nested(&mut ahead, 0);
    match known {
        Ok(sharding) => {
            *c = ahead;
            Ok(Some(sharding))
        }
        Err(_) => c.raw_value().map(|_| None),
    }
}

fn plain(name: &str) -> Option<i32> {
    match name {
        "replicated" => Some(0),
        "manual" => Some(4),
        "unknown" => Some(5),
        "unreduced" => Some(6),
        _ => None,
    }
}

fn nested(c: &mut Cursor, depth: usize) -> Result<OpSharding, TextError> {
    if depth >= MAX_DEPTH {
        return Err(c.error("less nesting"));
    }
    let mut ahead = c.clone();
    if ahead.eat("{") && (ahead.sees("{") || ahead.sees("}")) {
        let tuple_shardings = c.list(("{", "}"), |c| nested(c, depth + 1))?;
        return Ok(OpSharding { r#type: 2, tuple_shardings, ..Default::default() });
    }
    c.expect("{")?;
    let start = c.clone();
    let mut out = OpSharding { r#type: 3, ..Default::default() };
    match c.word("a sharding")? {
        "maximal" => {
            out.r#type = 1;
            c.expect("device")?;
            c.expect("=")?;
            out.tile_assignment_dimensions = vec![1];
            out.tile_assignment_devices = vec![c.integer()?];
        }
        "devices" => tiles(c, &mut out)?,
        name => out.r#type = plain(name).ok_or_else(|| start.error("a sharding"))?,
    }
    c.expect("}")?;
    Ok(out)
}

fn tiles(c: &mut Cursor, out: &mut OpSharding) -> Result<(), TextError> {
    c.expect("=")?;
    out.tile_assignment_dimensions = c.list(("[", "]"), Cursor::integer)?;
    if c.sees("<=") {
        (out.iota_reshape_dims, out.iota_transpose_perm) = iota(c)?;
    } else {
        out.tile_assignment_devices.push(c.integer()?);
        while c.eat(",") {
            out.tile_assignment_devices.push(c.integer()?);
        }
    }
    out.replicate_on_last_tile_dim = c.eat("last_tile_dim_replicate");
    if c.eat("last_tile_dims") {
        c.expect("=")?;
        out.last_tile_dims = c.list(("{", "}"), |c| {
            let start = c.clone();
            plain(c.word("a kind")?).ok_or_else(|| start.error("a kind of sharding"))
        })?;
    }
    Ok(())
}

/// `<=[4,2]T(1,0)`: reshaped dimensions and their transposition, the identity where it is not given.
pub fn iota(c: &mut Cursor) -> Result<(Vec<i64>, Vec<i32>), TextError> {
    c.expect("<=")?;
    let reshape = c.list(("[", "]"), Cursor::integer)?;
    let start = c.clone();
    let transpose = match c.eat("T") {
        true => c.list(("(", ")"), Cursor::integer)?,
        false => (0..reshape.len() as i64).collect(),
    };
    let transpose: Result<Vec<i32>, _> = transpose.into_iter().map(i32::try_from).collect();
    Ok((reshape, transpose.map_err(|_| start.error("a transposition"))?))
}
