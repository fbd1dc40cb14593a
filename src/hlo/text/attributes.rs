//! Attributes of instructions, one arm per family of opcodes.

use super::names::Inside;
use super::quote::{quoted, raw_or_quoted};
use super::sharding::{iota_text, sharding_text};
use super::{DOT_ALGORITHMS, PRECISIONS, braces, calls::calls, frontend_attributes, join, shape::shape_text};
use crate::hlo::proto::*;

/// All attributes of an instruction, in the order of printing.
pub fn of(i: &HloInstructionProto, names: &Inside) -> Vec<String> {
    let mut out = own(i);
    out.extend(calls(i, names));
    if let Some(sharding) = &i.sharding {
        out.push(format!("sharding={}", sharding_text(sharding)));
    }
    if let Some(attributes) = i.frontend_attributes.as_ref().filter(|a| !a.map.is_empty()) {
        out.push(frontend_attributes(attributes));
    }
    if !i.control_predecessor_ids.is_empty() {
        let before = join(i.control_predecessor_ids.iter().map(|&id| names.operand(id)));
        out.push(format!("control-predecessors={{{before}}}"));
    }
    out.extend(i.metadata.as_deref().and_then(metadata));
    if !i.backend_config.is_empty() {
        out.push(format!("backend_config={}", raw_or_quoted(&String::from_utf8_lossy(&i.backend_config))));
    }
    out
}

/// The attributes that belong to the opcode alone.
fn own(i: &HloInstructionProto) -> Vec<String> {
    match i.opcode.as_str() {
        "broadcast" | "concatenate" | "reduce" | "reverse" | "transpose" | "map" => {
            vec![format!("dimensions={}", braces(&i.dimensions))]
        }
        "sort" => {
            let mut out = vec![format!("dimensions={}", braces(&i.dimensions))];
            out.extend(flag("is_stable", i.is_stable));
            out
        }
        "iota" => vec![format!("iota_dimension={}", i.dimensions.first().copied().unwrap_or(0))],
        "get-tuple-element" => vec![format!("index={}", i.tuple_index)],
        "compare" => compare(i),
        "dot" => dot(i),
        "slice" => vec![slice(&i.slice_dimensions)],
        "dynamic-slice" => vec![format!("dynamic_slice_sizes={}", braces(&i.dynamic_slice_sizes))],
        "pad" => i.padding_config.as_deref().map(padding).into_iter().collect(),
        "gather" => gather(i),
        "scatter" => scatter(i),
        "reduce-window" | "select-and-scatter" => i.window.as_deref().and_then(window).into_iter().collect(),
        "rng-bit-generator" => {
            let name = ["rng_default", "rng_three_fry", "rng_philox"];
            vec![format!("algorithm={}", by_number(&name, i.rng_algorithm))]
        }
        "rng" => {
            vec![format!(
                "distribution={}",
                by_number(&["rng_invalid", "rng_uniform", "rng_normal"], i.distribution)
            )]
        }
        "rng-get-and-update-state" => vec![format!("delta={}", i.delta)],
        "reduce-precision" => {
            vec![format!("exponent_bits={}", i.exponent_bits), format!("mantissa_bits={}", i.mantissa_bits)]
        }
        "topk" => vec![format!("k={}", i.k), format!("largest={}", i.largest)],
        "fusion" if !i.fusion_kind.is_empty() => {
            vec![format!("kind={}", super::names::clean(&i.fusion_kind, "kLoop"))]
        }
        "custom-call" => custom_call(i),
        "batch-norm-training" | "batch-norm-inference" | "batch-norm-grad" => {
            vec![format!("epsilon={}", i.epsilon), format!("feature_index={}", i.feature_index)]
        }
        opcode if is_collective(opcode) => collective(i),
        _ => vec![],
    }
}

fn is_collective(opcode: &str) -> bool {
    let base = opcode.strip_suffix("-start").unwrap_or(opcode);
    let plain = ["all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute"];
    plain.contains(&base) || base == "collective-broadcast" || base == "ragged-all-to-all"
}

fn collective(i: &HloInstructionProto) -> Vec<String> {
    let mut out = vec![];
    if i.channel_id > 0 {
        out.push(format!("channel_id={}", i.channel_id));
    }
    if i.opcode.starts_with("collective-permute") {
        let pairs: Vec<String> =
            i.source_target_pairs.iter().map(|p| braces(&[p.source, p.target])).collect();
        out.push(format!("source_target_pairs={{{}}}", pairs.join(",")));
        return out;
    }
    out.push(format!("replica_groups={}", replica_groups(i)));
    out.extend(flag("constrain_layout", i.constrain_layout));
    out.extend(flag("use_global_device_ids", i.use_global_device_ids));
    if !i.dimensions.is_empty() {
        out.push(format!("dimensions={}", braces(&i.dimensions)));
    }
    out
}

/// `{{0,1},{2,3}}`, or `[2,2]<=[4]` where the groups are an iota.
fn replica_groups(i: &HloInstructionProto) -> String {
    let list = i.collective_device_list.as_deref();
    let iota =
        list.and_then(|l| l.iota_replica_group_list.as_ref()).or(i.iota_collective_device_list.as_deref());
    if let Some(iota) = iota {
        let order = iota_text(&iota.iota_reshape_dims, &iota.iota_transpose_perm);
        return format!("[{},{}]{order}", iota.num_replica_groups, iota.num_devices_per_group);
    }
    let groups = list.map_or(&i.replica_groups, |l| &l.replica_groups);
    let groups: Vec<String> = groups.iter().map(|g| braces(&g.replica_ids)).collect();
    format!("{{{}}}", groups.join(","))
}

fn compare(i: &HloInstructionProto) -> Vec<String> {
    let mut out = vec![format!("direction={}", super::names::clean(&i.comparison_direction, "EQ"))];
    // The other types follow from the operands.
    out.extend((i.comparison_type == "TOTALORDER").then(|| "type=TOTALORDER".to_string()));
    out
}

fn dot(i: &HloInstructionProto) -> Vec<String> {
    let empty = DotDimensionNumbers::default();
    let d = i.dot_dimension_numbers.as_deref().unwrap_or(&empty);
    let mut out = vec![];
    out.extend(some_dims("lhs_batch_dims", &d.lhs_batch_dimensions));
    out.push(format!("lhs_contracting_dims={}", braces(&d.lhs_contracting_dimensions)));
    out.extend(some_dims("rhs_batch_dims", &d.rhs_batch_dimensions));
    out.push(format!("rhs_contracting_dims={}", braces(&d.rhs_contracting_dimensions)));
    if let Some(p) = i.precision_config.as_deref() {
        if p.operand_precision.iter().any(|&p| p != 0) {
            let names: Vec<&str> = p.operand_precision.iter().map(|&p| by_number(&PRECISIONS, p)).collect();
            out.push(format!("operand_precision={{{}}}", names.join(",")));
        }
        if p.algorithm != 0 {
            out.push(format!("algorithm={}", by_number(&DOT_ALGORITHMS, p.algorithm)));
        }
    }
    out
}

fn gather(i: &HloInstructionProto) -> Vec<String> {
    let empty = GatherDimensionNumbers::default();
    let d = i.gather_dimension_numbers.as_deref().unwrap_or(&empty);
    let mut out = vec![
        format!("offset_dims={}", braces(&d.offset_dims)),
        format!("collapsed_slice_dims={}", braces(&d.collapsed_slice_dims)),
        format!("start_index_map={}", braces(&d.start_index_map)),
    ];
    out.extend(some_dims("operand_batching_dims", &d.operand_batching_dims));
    out.extend(some_dims("start_indices_batching_dims", &d.start_indices_batching_dims));
    out.push(format!("index_vector_dim={}", d.index_vector_dim));
    out.push(format!("slice_sizes={}", braces(&i.gather_slice_sizes)));
    out.extend(flag("indices_are_sorted", i.indices_are_sorted));
    out
}

fn scatter(i: &HloInstructionProto) -> Vec<String> {
    let empty = ScatterDimensionNumbers::default();
    let d = i.scatter_dimension_numbers.as_deref().unwrap_or(&empty);
    let mut out = vec![
        format!("update_window_dims={}", braces(&d.update_window_dims)),
        format!("inserted_window_dims={}", braces(&d.inserted_window_dims)),
        format!("scatter_dims_to_operand_dims={}", braces(&d.scatter_dims_to_operand_dims)),
    ];
    out.extend(some_dims("input_batching_dims", &d.input_batching_dims));
    out.extend(some_dims("scatter_indices_batching_dims", &d.scatter_indices_batching_dims));
    out.push(format!("index_vector_dim={}", d.index_vector_dim));
    out.extend(flag("indices_are_sorted", i.indices_are_sorted));
    out.extend(flag("unique_indices", i.unique_indices));
    out
}

fn slice(dimensions: &[SliceDimensions]) -> String {
    let ranges = dimensions.iter().map(|d| match d.stride {
        0 | 1 => format!("[{}:{}]", d.start, d.limit),
        stride => format!("[{}:{}:{stride}]", d.start, d.limit),
    });
    format!("slice={{{}}}", join(ranges))
}

fn padding(config: &PaddingConfig) -> String {
    let dims: Vec<String> = config
        .dimensions
        .iter()
        .map(|d| match d.interior_padding {
            0 => format!("{}_{}", d.edge_padding_low, d.edge_padding_high),
            interior => format!("{}_{}_{interior}", d.edge_padding_low, d.edge_padding_high),
        })
        .collect();
    format!("padding={}", dims.join("x"))
}

/// `window={size=2x1 stride=2x1 pad=0_0x1_0}`; parts that hold only defaults are left out.
fn window(window: &Window) -> Option<String> {
    fn part(
        name: &str,
        dims: &[WindowDimension],
        usual: bool,
        text: impl Fn(&WindowDimension) -> String,
    ) -> Option<String> {
        (!usual).then(|| format!("{name}={}", dims.iter().map(text).collect::<Vec<_>>().join("x")))
    }
    let d = &window.dimensions;
    let one = |v: i64| v == 0 || v == 1;
    let parts = [
        part("size", d, d.is_empty(), |d| d.size.to_string()),
        part("stride", d, d.iter().all(|d| one(d.stride)), |d| d.stride.to_string()),
        part("pad", d, d.iter().all(|d| d.padding_low == 0 && d.padding_high == 0), |d| {
            format!("{}_{}", d.padding_low, d.padding_high)
        }),
        part("lhs_dilate", d, d.iter().all(|d| one(d.base_dilation)), |d| d.base_dilation.to_string()),
        part("rhs_dilate", d, d.iter().all(|d| one(d.window_dilation)), |d| d.window_dilation.to_string()),
        part("rhs_reversal", d, !d.iter().any(|d| d.window_reversal), |d| {
            u8::from(d.window_reversal).to_string()
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("window={{{}}}", parts.join(" ")))
}

fn custom_call(i: &HloInstructionProto) -> Vec<String> {
    let versions = [
        "API_VERSION_UNSPECIFIED",
        "API_VERSION_ORIGINAL",
        "API_VERSION_STATUS_RETURNING",
        "API_VERSION_STATUS_RETURNING_UNIFIED",
        "API_VERSION_TYPED_FFI",
    ];
    let mut out = vec![format!("custom_call_target={}", quoted(&i.custom_call_target))];
    if i.constrain_layout {
        let shapes = join(i.operand_shapes_with_layout.iter().map(|s| shape_text(s, true)));
        out.push(format!("operand_layout_constraints={{{shapes}}}"));
    }
    out.extend(flag("custom_call_has_side_effect", i.custom_call_has_side_effect));
    if i.custom_call_api_version > 1 {
        out.push(format!("api_version={}", by_number(&versions, i.custom_call_api_version)));
    }
    if !i.output_operand_aliasing.is_empty() {
        let rows = i.output_operand_aliasing.iter().map(|a| {
            format!(
                "{}: ({}, {})",
                braces(&a.output_shape_index),
                a.operand_index,
                braces(&a.operand_shape_index)
            )
        });
        out.push(format!("output_to_operand_aliasing={{{}}}", join(rows)));
    }
    out
}

fn metadata(m: &OpMetadata) -> Option<String> {
    let texts = [("op_type", &m.op_type), ("op_name", &m.op_name), ("source_file", &m.source_file)];
    let numbers = [
        ("source_line", m.source_line),
        ("source_end_line", m.source_end_line),
        ("source_column", m.source_column),
        ("source_end_column", m.source_end_column),
    ];
    let mut parts: Vec<String> =
        texts.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    parts.extend(numbers.iter().filter(|(_, v)| *v != 0).map(|(k, v)| format!("{k}={v}")));
    (!parts.is_empty()).then(|| format!("metadata={{{}}}", parts.join(" ")))
}

fn flag(name: &str, set: bool) -> Option<String> {
    set.then(|| format!("{name}=true"))
}

fn some_dims(name: &str, dims: &[i64]) -> Option<String> {
    (!dims.is_empty()).then(|| format!("{name}={}", braces(dims)))
}

/// The name of an enumeration value; numbers that are not known print as the first.
fn by_number<'a>(names: &[&'a str], number: i32) -> &'a str {
    usize::try_from(number).ok().and_then(|n| names.get(n)).or(names.first()).copied().unwrap_or("")
}
