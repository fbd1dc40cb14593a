//! Shapes: `f32[8,128]{1,0:T(8,128)}`, `(s32[], f32[2]{0})`.

use crate::hlo::primitive::{TUPLE, primitive};
use crate::hlo::proto::{LayoutProto, ShapeProto};

/// The text of a shape, with its layouts if asked; every fifth element of a tuple is numbered, as XLA does.
pub fn shape_text(shape: &ShapeProto, layouts: bool) -> String {
    let mut out = String::new();
    push_shape(&mut out, shape, layouts);
    out
}

fn push_shape(out: &mut String, shape: &ShapeProto, layouts: bool) {
    if shape.element_type == TUPLE {
        return push_tuple(out, &shape.tuple_shapes, layouts);
    }
    out.push_str(primitive(shape.element_type).map_or("invalid", |p| p.name));
    out.push('[');
    for (i, &d) in shape.dimensions.iter().enumerate() {
        let dynamic = shape.is_dynamic_dimension.get(i) == Some(&true);
        out.push_str(if i == 0 { "" } else { "," });
        match (dynamic, d) {
            (_, ..0) => out.push('?'),
            (true, d) => out.push_str(&format!("<={d}")),
            (false, d) => out.push_str(&d.to_string()),
        }
    }
    out.push(']');
    if layouts && let Some(layout) = &shape.layout {
        push_layout(out, layout);
    }
}

fn push_tuple(out: &mut String, elements: &[ShapeProto], layouts: bool) {
    out.push('(');
    for (i, element) in elements.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        if i > 0 && i % 5 == 0 {
            out.push_str(&format!("/*index={i}*/"));
        }
        push_shape(out, element, layouts);
    }
    out.push(')');
}

fn push_layout(out: &mut String, layout: &LayoutProto) {
    let mut parts = String::new();
    if !layout.tiles.is_empty() {
        parts.push('T');
        for tile in &layout.tiles {
            // The smallest number stands for "this dimension is joined with the next".
            let dims =
                tile.dimensions.iter().map(|&d| if d == i64::MIN { "*".into() } else { d.to_string() });
            parts.push_str(&format!("({})", dims.collect::<Vec<String>>().join(",")));
        }
    }
    if layout.tail_padding_alignment_in_elements > 1 {
        parts.push_str(&format!("L({})", layout.tail_padding_alignment_in_elements));
    }
    if layout.element_size_in_bits != 0 {
        parts.push_str(&format!("E({})", layout.element_size_in_bits));
    }
    if layout.memory_space != 0 {
        parts.push_str(&format!("S({})", layout.memory_space));
    }
    if layout.minor_to_major.is_empty() && parts.is_empty() {
        return; // scalars print without layout
    }
    let order: Vec<String> = layout.minor_to_major.iter().map(i64::to_string).collect();
    out.push_str(&format!("{{{}", order.join(",")));
    if !parts.is_empty() {
        out.push_str(&format!(":{parts}"));
    }
    out.push('}');
}
