//! Constants: `{ { 1, 2 }, { 3, 4 } }`, scalars bare, elided ones `{...}`.

use super::number::{BF16, F16, F32, F64, float_text};
use crate::hlo::primitive::{TUPLE, primitive};
use crate::hlo::proto::{LiteralProto, ShapeProto};
use half::{bf16, f16};

/// Appends the text of a constant; without a value of the size that its shape asks for, `{...}`.
pub fn push_literal(out: &mut String, literal: Option<&LiteralProto>) {
    let Some((literal, shape)) = literal.and_then(|l| Some((l, l.shape.as_ref()?))) else {
        return out.push_str("{...}");
    };
    if shape.element_type == TUPLE {
        out.push('(');
        for (i, element) in literal.tuple_literals.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { ", " });
            push_literal(out, Some(element));
        }
        return out.push(')');
    }
    let dims: Option<Vec<usize>> = shape.dimensions.iter().map(|&d| usize::try_from(d).ok()).collect();
    let count = dims.as_ref().and_then(|d| d.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
    match (dims, texts(literal, shape)) {
        (Some(dims), Some(values)) if count == Some(values.len()) && printable(&dims, values.len()) => {
            let order = physical_order(&dims, shape);
            let mut logical = order.into_iter().map(|at| values.get(at).cloned().unwrap_or_default());
            let space = if dims.len() > 1 { " " } else { "" };
            push_array(out, &dims, space, &mut logical);
        }
        _ => out.push_str("{...}"),
    }
}

/// For each element in row-major order its place in the data, which lies in the order of the layout.
fn physical_order(dims: &[usize], shape: &ShapeProto) -> Vec<usize> {
    let count = dims.iter().product();
    let mut strides = vec![0usize; dims.len()];
    let mut stride = 1;
    let order = shape.layout.as_ref().map(|l| l.minor_to_major.as_slice()).unwrap_or_default();
    for &d in order {
        let Some((slot, &dim)) =
            usize::try_from(d).ok().and_then(|d| Some((strides.get_mut(d)?, dims.get(d)?)))
        else {
            return (0..count).collect();
        };
        *slot = stride;
        stride = stride.saturating_mul(dim);
    }
    if order.len() != dims.len() || order.windows(2).all(|w| w[0] > w[1]) {
        return (0..count).collect(); // no layout, or row-major
    }
    let place = |mut at: usize| {
        let mut sum = 0usize;
        for (dim, stride) in dims.iter().zip(&strides).rev() {
            sum = sum.saturating_add((at % dim).saturating_mul(*stride));
            at /= dim;
        }
        sum
    };
    (0..count).map(place).collect()
}

/// Whether the braces stay in proportion to the values: an empty array can ask for any number of them.
fn printable(dims: &[usize], values: usize) -> bool {
    let mut braces = 1usize;
    for &d in dims.split_last().map_or(&[][..], |(_, outer)| outer) {
        braces = braces.saturating_mul(d.max(1));
    }
    dims.len() <= 64 && braces <= values.max(1 << 12).saturating_mul(2)
}

fn push_array(out: &mut String, dims: &[usize], space: &str, values: &mut impl Iterator<Item = String>) {
    let Some((&first, rest)) = dims.split_first() else {
        return out.push_str(&values.next().unwrap_or_default());
    };
    if first == 0 {
        return out.push_str("{}");
    }
    out.push('{');
    out.push_str(space);
    for i in 0..first {
        out.push_str(if i == 0 { "" } else { ", " });
        push_array(out, rest, space, values);
    }
    out.push_str(space);
    out.push('}');
}

/// The values as texts, or `None` for element types without a text form here.
fn texts(l: &LiteralProto, shape: &ShapeProto) -> Option<Vec<String>> {
    let scalar = shape.dimensions.is_empty();
    fn all<T: ToString>(values: &[T]) -> Vec<String> {
        values.iter().map(T::to_string).collect()
    }
    Some(match primitive(shape.element_type)?.name {
        "pred" => l.preds.iter().map(|&b| pred_text(b, scalar).to_string()).collect(),
        "s8" => l.s8s.iter().map(|&b| (b as i8).to_string()).collect(),
        "u8" => all(&l.u8s),
        "s16" => pairs(&l.s16s, |b| i16::from_le_bytes(b).to_string()),
        "u16" => pairs(&l.u16s, |b| u16::from_le_bytes(b).to_string()),
        "s32" => all(&l.s32s),
        "s64" => all(&l.s64s),
        "u32" => all(&l.u32s),
        "u64" => all(&l.u64s),
        "f16" => pairs(&l.f16s, |b| {
            let v = f16::from_le_bytes(b);
            float_text(v.into(), v.to_bits().into(), &F16, |_| true)
        }),
        "bf16" => pairs(&l.bf16s, |b| {
            let v = bf16::from_le_bytes(b);
            float_text(v.into(), v.to_bits().into(), &BF16, |_| true)
        }),
        "f32" => l
            .f32s
            .iter()
            .map(|&v| float_text(v.into(), v.to_bits().into(), &F32, |t| t.parse() == Ok(v)))
            .collect(),
        "f64" => l.f64s.iter().map(|&v| float_text(v, v.to_bits(), &F64, |t| t.parse() == Ok(v))).collect(),
        _ => return None,
    })
}

fn pred_text(value: bool, scalar: bool) -> &'static str {
    match (scalar, value) {
        (true, true) => "true",
        (true, false) => "false",
        (false, true) => "1",
        (false, false) => "0",
    }
}

fn pairs(bytes: &[u8], text: impl Fn([u8; 2]) -> String) -> Vec<String> {
    bytes.chunks_exact(2).map(|c| text([c[0], c[1]])).collect()
}
