//! Attributes of instructions: `key=value`.

use super::TextError;
use super::cursor::Cursor;
use super::header::frontend_attributes;
use super::instruction::Scope;
use super::shape::shape;
use super::sharding::{iota, sharding};
use crate::hlo::proto::*;
use crate::hlo::text::{DOT_ALGORITHMS, PRECISIONS};

/// Called computations by the name of the attribute, put in the order of the proto at the end.
#[derive(Default)]
pub struct Calls {
    body: Option<i64>,
    condition: Option<i64>,
    on_true: Option<i64>,
    on_false: Option<i64>,
    others: Vec<i64>,
}

impl Calls {
    pub fn into_ids(self) -> Vec<i64> {
        let named = [self.body, self.condition, self.on_true, self.on_false];
        named.into_iter().flatten().chain(self.others).collect()
    }
}

type Read = Result<(), TextError>;

/// Reads the value of one attribute into the instruction; keys that are not known are skipped.
pub fn attribute<'a>(
    c: &mut Cursor<'a>,
    key: &str,
    scope: &Scope<'a, '_>,
    i: &mut HloInstructionProto,
    calls: &mut Calls,
) -> Read {
    match key {
        "body" => calls.body = Some(scope.computation(c)?),
        "condition" => calls.condition = Some(scope.computation(c)?),
        "true_computation" => calls.on_true = Some(scope.computation(c)?),
        "false_computation" => calls.on_false = Some(scope.computation(c)?),
        "to_apply" | "select" | "scatter" => calls.others.push(scope.computation(c)?),
        "calls" | "branch_computations" | "called_computations" if c.sees("{") => {
            calls.others.extend(c.list(("{", "}"), |c| scope.computation(c))?);
        }
        "calls" => calls.others.push(scope.computation(c)?),
        "control-predecessors" => {
            i.control_predecessor_ids = c.list(("{", "}"), |c| scope.instruction(c))?;
        }
        "metadata" => i.metadata = Some(Box::new(metadata(c)?)),
        "sharding" => i.sharding = sharding(c)?.map(Box::new),
        "frontend_attributes" => i.frontend_attributes = Some(Box::new(frontend_attributes(c)?)),
        "backend_config" => {
            let text = if c.sees("\"") { c.string()? } else { c.raw_value()?.to_string() };
            i.backend_config = text.into_bytes();
        }
        _ => return own(c, key, i),
    }
    Ok(())
}

/// Attributes that name nothing.
fn own(c: &mut Cursor, key: &str, i: &mut HloInstructionProto) -> Read {
    match key {
        "dimensions" => i.dimensions = c.integers()?,
        "iota_dimension" => i.dimensions = vec![c.integer()?],
        "index" => i.tuple_index = c.integer()?,
        "slice" => i.slice_dimensions = c.list(("{", "}"), slice)?,
        "dynamic_slice_sizes" => i.dynamic_slice_sizes = c.integers()?,
        "slice_sizes" => i.gather_slice_sizes = c.integers()?,
        "padding" => i.padding_config = Some(Box::new(padding(c)?)),
        "window" => i.window = Some(Box::new(window(c)?)),
        "direction" => i.comparison_direction = c.word("a direction")?.into(),
        "type" if i.opcode == "compare" => i.comparison_type = c.word("a type")?.into(),
        "is_stable" => i.is_stable = c.boolean()?,
        "indices_are_sorted" => i.indices_are_sorted = c.boolean()?,
        "unique_indices" => i.unique_indices = c.boolean()?,
        "exponent_bits" => i.exponent_bits = small(c)?,
        "mantissa_bits" => i.mantissa_bits = small(c)?,
        "epsilon" => i.epsilon = c.raw_value()?.parse().map_err(|_| c.error("a number before"))?,
        "feature_index" => i.feature_index = c.integer()?,
        "feature_group_count" => i.feature_group_count = c.integer()?,
        "batch_group_count" => i.batch_group_count = c.integer()?,
        "delta" => i.delta = c.integer()?,
        "k" => i.k = c.integer()?,
        "largest" => i.largest = c.boolean()?,
        "kind" => i.fusion_kind = c.word("a kind of fusion")?.into(),
        "algorithm" => algorithm(c, i)?,
        "distribution" => i.distribution = one_of(c, &["rng_invalid", "rng_uniform", "rng_normal"])?,
        "operand_precision" => {
            precision(i).operand_precision = c.list(("{", "}"), |c| one_of(c, &PRECISIONS))?;
        }
        "channel_id" => i.channel_id = c.integer()?,
        "replica_groups" => groups(c, i)?,
        "source_target_pairs" => i.source_target_pairs = c.list(("{", "}"), pair)?,
        "constrain_layout" => i.constrain_layout = c.boolean()?,
        "use_global_device_ids" => i.use_global_device_ids = c.boolean()?,
        "async_execution_thread" => i.async_execution_thread = c.string()?,
        "custom_call_target" => i.custom_call_target = c.string()?,
        "custom_call_has_side_effect" => i.custom_call_has_side_effect = c.boolean()?,
        "api_version" => i.custom_call_api_version = api_version(c)?,
        "operand_layout_constraints" => {
            i.constrain_layout = true;
            i.operand_shapes_with_layout = c.list(("{", "}"), shape)?;
        }
        "output_to_operand_aliasing" => i.output_operand_aliasing = c.list(("{", "}"), operand_alias)?,
        _ => return dimension_numbers(c, key, i),
    }
    Ok(())
}

/// Dimension numbers of `dot`, `gather` and `scatter`.
fn dimension_numbers(c: &mut Cursor, key: &str, i: &mut HloInstructionProto) -> Read {
    match i.opcode.as_str() {
        "dot" => {
            let d = i.dot_dimension_numbers.get_or_insert_default();
            match key {
                "lhs_batch_dims" => d.lhs_batch_dimensions = c.integers()?,
                "rhs_batch_dims" => d.rhs_batch_dimensions = c.integers()?,
                "lhs_contracting_dims" => d.lhs_contracting_dimensions = c.integers()?,
                "rhs_contracting_dims" => d.rhs_contracting_dimensions = c.integers()?,
                _ => return c.raw_value().map(drop),
            }
        }
        "gather" => {
            let d = i.gather_dimension_numbers.get_or_insert_default();
            match key {
                "offset_dims" => d.offset_dims = c.integers()?,
                "collapsed_slice_dims" => d.collapsed_slice_dims = c.integers()?,
                "start_index_map" => d.start_index_map = c.integers()?,
                "operand_batching_dims" => d.operand_batching_dims = c.integers()?,
                "start_indices_batching_dims" => d.start_indices_batching_dims = c.integers()?,
                "index_vector_dim" => d.index_vector_dim = c.integer()?,
                _ => return c.raw_value().map(drop),
            }
        }
        "scatter" => {
            let d = i.scatter_dimension_numbers.get_or_insert_default();
            match key {
                "update_window_dims" => d.update_window_dims = c.integers()?,
                "inserted_window_dims" => d.inserted_window_dims = c.integers()?,
                "scatter_dims_to_operand_dims" => d.scatter_dims_to_operand_dims = c.integers()?,
                "input_batching_dims" => d.input_batching_dims = c.integers()?,
                "scatter_indices_batching_dims" => d.scatter_indices_batching_dims = c.integers()?,
                "index_vector_dim" => d.index_vector_dim = c.integer()?,
                _ => return c.raw_value().map(drop),
            }
        }
        _ => return c.raw_value().map(drop),
    }
    Ok(())
}

fn metadata(c: &mut Cursor) -> Result<OpMetadata, TextError> {
    let mut out = OpMetadata::default();
    c.expect("{")?;
    while !c.eat("}") {
        let key = c.word("a key of the metadata or `}`")?;
        c.expect("=")?;
        match key {
            "op_type" => out.op_type = c.string()?,
            "op_name" => out.op_name = c.string()?,
            "source_file" => out.source_file = c.string()?,
            "scheduling_name" => out.scheduling_name = c.string()?,
            "source_line" => out.source_line = small(c)?,
            "source_end_line" => out.source_end_line = small(c)?,
            "source_column" => out.source_column = small(c)?,
            "source_end_column" => out.source_end_column = small(c)?,
            _ => drop(c.raw_value()?),
        }
    }
    Ok(out)
}

/// `[0:8]` or `[0:8:2]`.
fn slice(c: &mut Cursor) -> Result<SliceDimensions, TextError> {
    c.expect("[")?;
    let start = c.integer()?;
    c.expect(":")?;
    let limit = c.integer()?;
    let stride = if c.eat(":") { c.integer()? } else { 1 };
    c.expect("]")?;
    Ok(SliceDimensions { start, limit, stride })
}

/// Numbers joined by `_`, dimensions by `x`: `0_1_0x2_2`.
fn crossed(c: &mut Cursor) -> Result<Vec<Vec<i64>>, TextError> {
    c.space();
    let start = c.clone();
    let text = c.take_while(|x| x.is_ascii_digit() || matches!(x, '-' | '_' | 'x'));
    if text.is_empty() {
        return Ok(vec![]);
    }
    let dims = text.split('x').map(|dim| dim.split('_').map(str::parse).collect());
    dims.collect::<Result<_, _>>().map_err(|_| start.error("numbers such as `0_1x2_2`"))
}

fn padding(c: &mut Cursor) -> Result<PaddingConfig, TextError> {
    let start = c.clone();
    let dimension = |d: Vec<i64>| {
        let (edge_padding_low, edge_padding_high, interior_padding) = match *d.as_slice() {
            [low, high] => (low, high, 0),
            [low, high, interior] => (low, high, interior),
            _ => return Err(start.error("two or three numbers for each dimension")),
        };
        Ok(PaddingConfigDimension { edge_padding_low, edge_padding_high, interior_padding })
    };
    Ok(PaddingConfig { dimensions: crossed(c)?.into_iter().map(dimension).collect::<Result<_, _>>()? })
}

fn window(c: &mut Cursor) -> Result<Window, TextError> {
    let mut dims: Vec<WindowDimension> = vec![];
    c.expect("{")?;
    while !c.eat("}") {
        let start = c.clone();
        let key = c.word("a part of a window or `}`")?;
        c.expect("=")?;
        let values = crossed(c)?;
        let one = WindowDimension {
            size: 1,
            stride: 1,
            window_dilation: 1,
            base_dilation: 1,
            ..Default::default()
        };
        if dims.is_empty() {
            dims = vec![one; values.len()];
        }
        if dims.len() != values.len() {
            return Err(start.error(format!("{} dimensions, as in the parts before", dims.len())));
        }
        for (dim, value) in dims.iter_mut().zip(&values) {
            match (key, value.as_slice()) {
                ("size", [v]) => dim.size = *v,
                ("stride", [v]) => dim.stride = *v,
                ("pad", [low, high]) => (dim.padding_low, dim.padding_high) = (*low, *high),
                ("lhs_dilate", [v]) => dim.base_dilation = *v,
                ("rhs_dilate", [v]) => dim.window_dilation = *v,
                ("rhs_reversal", [v]) => dim.window_reversal = *v != 0,
                _ => return Err(start.error("a part of a window, such as `size=2x2`")),
            }
        }
    }
    Ok(Window { dimensions: dims })
}

/// `{{0,1},{2,3}}` or `[2,2]<=[4]`.
fn groups(c: &mut Cursor, i: &mut HloInstructionProto) -> Read {
    if !c.sees("[") {
        i.replica_groups = c.list(("{", "}"), |c| Ok(ReplicaGroup { replica_ids: c.integers()? }))?;
        return Ok(());
    }
    let start = c.clone();
    let dims = c.list(("[", "]"), Cursor::integer)?;
    let [num_replica_groups, num_devices_per_group] = *dims.as_slice() else {
        return Err(start.error("`[groups,devices]<=[..]`"));
    };
    let (iota_reshape_dims, iota_transpose_perm) = iota(c)?;
    i.iota_collective_device_list = Some(Box::new(IotaReplicaGroupListProto {
        num_replica_groups,
        num_devices_per_group,
        iota_reshape_dims,
        iota_transpose_perm,
    }));
    Ok(())
}

fn pair(c: &mut Cursor) -> Result<SourceTarget, TextError> {
    let start = c.clone();
    match *c.integers()?.as_slice() {
        [source, target] => Ok(SourceTarget { source, target }),
        _ => Err(start.error("a pair such as `{0,1}`")),
    }
}

/// `{0}: (1, {})`; a kind behind it is skipped.
fn operand_alias(c: &mut Cursor) -> Result<OutputOperandAliasing, TextError> {
    let output_shape_index = c.integers()?;
    c.expect(":")?;
    c.expect("(")?;
    let operand_index = c.integer()?;
    c.expect(",")?;
    let operand_shape_index = c.integers()?;
    if c.eat(",") {
        c.word("a kind")?;
    }
    c.expect(")")?;
    Ok(OutputOperandAliasing { output_shape_index, operand_index, operand_shape_index })
}

/// Of `rng-bit-generator` or of `dot`.
fn algorithm(c: &mut Cursor, i: &mut HloInstructionProto) -> Read {
    match i.opcode.as_str() {
        "rng-bit-generator" => i.rng_algorithm = one_of(c, &["rng_default", "rng_three_fry", "rng_philox"])?,
        "dot" => precision(i).algorithm = one_of(c, &DOT_ALGORITHMS)?,
        _ => drop(c.raw_value()?),
    }
    Ok(())
}

fn precision(i: &mut HloInstructionProto) -> &mut PrecisionConfig {
    i.precision_config.get_or_insert_default()
}

fn api_version(c: &mut Cursor) -> Result<i32, TextError> {
    let names = [
        "API_VERSION_UNSPECIFIED",
        "API_VERSION_ORIGINAL",
        "API_VERSION_STATUS_RETURNING",
        "API_VERSION_STATUS_RETURNING_UNIFIED",
        "API_VERSION_TYPED_FFI",
    ];
    one_of(c, &names)
}

/// The place of the word among these names.
fn one_of(c: &mut Cursor, names: &[&str]) -> Result<i32, TextError> {
    let start = c.clone();
    let word = c.word("a name")?;
    let at = names.iter().position(|n| *n == word);
    at.map(|n| n as i32).ok_or_else(|| start.error(format!("one of {}", names.join(", "))))
}

fn small(c: &mut Cursor) -> Result<i32, TextError> {
    c.space();
    let start = c.clone();
    i32::try_from(c.integer()?).map_err(|_| start.error("an integer of at most 32 bits"))
}
