//! One operation of the IR as HLO instructions.

use super::function::{Function, Inst, Module};
use super::{collective, control, prefix_sum};
use crate::hlo::{
    DotDimensionNumbers, GatherDimensionNumbers, PaddingConfig, PaddingConfigDimension, PrecisionConfig,
    ScatterDimensionNumbers, ShapeProto, SliceDimensions, shape_of, tuple_shape,
};
use crate::ir::*;

/// Where instructions go: the module and the computation at hand.
pub(super) struct Target<'a> {
    pub module: &'a mut Module,
    pub f: &'a mut Function,
}

impl Target<'_> {
    pub fn emit(
        &mut self,
        opcode: &str,
        shape: ShapeProto,
        operands: &[&Inst],
        attributes: impl FnOnce(&mut crate::hlo::HloInstructionProto),
    ) -> Inst {
        self.f.emit(self.module, opcode, shape, operands, attributes)
    }
}

/// `usize` dimensions as the proto has them.
pub(super) fn longs(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|&d| d as i64).collect()
}

/// Emits `node`, whose operands and result types are given; returns its results.
pub(super) fn lower(t: &mut Target, node: &Node, x: &[&Inst], types: &[TensorType]) -> Vec<Inst> {
    let shapes = || -> Vec<ShapeProto> { types.iter().map(shape_of).collect() };
    match &node.op {
        Op::While { cond, body } => control::while_loop(t, cond, body, x),
        Op::Conditional { branches } => control::conditional(t, branches, x, shapes()),
        Op::Sort { dim, comparator, stable } => control::sort(t, (*dim, comparator, *stable), x, shapes()),
        Op::Call(call) => control::inline(t, &call.body, x),
        Op::RngBitGenerator { algorithm, .. } => {
            let algorithm = match algorithm {
                RngAlgorithm::ThreeFry => 1,
                RngAlgorithm::Philox => 2,
            };
            let both = t.emit("rng-bit-generator", tuple_shape(shapes()), x, |p| p.rng_algorithm = algorithm);
            t.f.untuple(t.module, &both)
        }
        Op::Reduce { dims, reducer } => reduce(t, (dims, *reducer), x, types),
        Op::OptimizationBarrier => {
            let tuple = t.f.tuple(t.module, &control::owned(x));
            let shape = t.f.shape(&tuple);
            let wall = t.emit("opt-barrier", shape, &[&tuple], |_| ());
            t.f.untuple(t.module, &wall)
        }
        op => vec![single(t, op, x, &types[0])],
    }
}

/// Reductions of tensors of one type, in one pass over all of them.
fn reduce(
    t: &mut Target,
    (dims, reducer): (&[usize], Reducer),
    x: &[&Inst],
    types: &[TensorType],
) -> Vec<Inst> {
    let dtype = types[0].dtype;
    let init = t.f.constant(t.module, &reducer.neutral(dtype));
    let combine = t.module.reducer(Some(reducer), dtype, x.len());
    let shapes: Vec<ShapeProto> = types.iter().map(shape_of).collect();
    let shape = if let [shape] = &shapes[..] { shape.clone() } else { tuple_shape(shapes) };
    let results = t.emit("reduce", shape, &[x, &vec![&init; x.len()]].concat(), |p| {
        p.dimensions = longs(dims);
        p.called_computation_ids = vec![combine];
    });
    if x.len() == 1 { vec![results] } else { t.f.untuple(t.module, &results) }
}

/// Operations with one result.
fn single(t: &mut Target, op: &Op, x: &[&Inst], ty: &TensorType) -> Inst {
    let shape = shape_of(ty);
    match op {
        Op::Parameter { .. } => t.f.parameter(t.module, shape),
        Op::Constant(literal) => t.f.constant(t.module, literal),
        Op::Iota { dim, .. } => t.emit("iota", shape, x, |p| p.dimensions = vec![*dim as i64]),
        // XLA has no `abs` of unsigned numbers.
        Op::Unary(UnaryOp::Abs) if ty.dtype.domain() == Domain::Unsigned => *x[0],
        Op::Unary(op) => t.emit(op.opcode(), shape, x, |_| ()),
        Op::Binary(op) => t.emit(op.opcode(), shape, x, |_| ()),
        Op::Compare(direction) => {
            t.emit("compare", shape, x, |p| p.comparison_direction = direction.name().into())
        }
        Op::Select => t.emit("select", shape, x, |_| ()),
        Op::Clamp => t.emit("clamp", shape, x, |_| ()),
        Op::Convert(_) => t.emit("convert", shape, x, |_| ()),
        Op::BitcastConvert(_) => t.emit("bitcast-convert", shape, x, |_| ()),
        Op::StopGradient => *x[0],
        Op::BroadcastInDim { dims, .. } => t.emit("broadcast", shape, x, |p| p.dimensions = longs(dims)),
        Op::Reshape { .. } => t.emit("reshape", shape, x, |_| ()),
        Op::Transpose { permutation } => t.emit("transpose", shape, x, |p| p.dimensions = longs(permutation)),
        Op::Reverse { dims } => t.emit("reverse", shape, x, |p| p.dimensions = longs(dims)),
        Op::Slice { starts, limits, strides } => {
            t.emit("slice", shape, x, |p| p.slice_dimensions = slice_dimensions(starts, limits, strides))
        }
        Op::Pad { low, high, interior } => {
            t.emit("pad", shape, x, |p| p.padding_config = Some(Box::new(padding(low, high, interior))))
        }
        Op::Concatenate { dim } => t.emit("concatenate", shape, x, |p| p.dimensions = vec![*dim as i64]),
        Op::DotGeneral { dims, precision, .. } => t.emit("dot", shape, x, |p| {
            p.dot_dimension_numbers = Some(Box::new(dot_dimensions(dims)));
            p.precision_config = Some(Box::new(precision_config(*precision)));
        }),
        Op::CumSum { dim, exclusive, reverse } => {
            prefix_sum::cumsum(t, x[0], ty, *dim, (*exclusive, *reverse))
        }
        Op::Gather(dims) => t.emit("gather", shape, x, |p| {
            p.gather_slice_sizes = longs(&dims.slice_sizes);
            p.gather_dimension_numbers = Some(Box::new(gather_dimensions(dims)));
        }),
        Op::Scatter { dims, combiner, unique } => {
            let reducer = match combiner {
                Combiner::Assign => None,
                Combiner::Reduce(reducer) => Some(*reducer),
            };
            let combine = t.module.reducer(reducer, ty.dtype, 1);
            t.emit("scatter", shape, x, |p| {
                p.scatter_dimension_numbers = Some(Box::new(scatter_dimensions(dims)));
                p.called_computation_ids = vec![combine];
                p.unique_indices = *unique;
            })
        }
        Op::DynamicSlice { sizes } => {
            t.emit("dynamic-slice", shape, x, |p| p.dynamic_slice_sizes = longs(sizes))
        }
        Op::DynamicUpdateSlice => t.emit("dynamic-update-slice", shape, x, |_| ()),
        Op::AllReduce { reducer, groups } => collective::all_reduce(t, x[0], ty, *reducer, groups),
        Op::AllGather { dim, groups } => collective::all_gather(t, x[0], ty, *dim, groups),
        Op::ReduceScatter { dim, reducer, groups } => {
            collective::reduce_scatter(t, x[0], ty, (*dim, *reducer), groups)
        }
        Op::AllToAll { split_dim, concat_dim, groups } => {
            collective::all_to_all(t, x[0], ty, (*split_dim, *concat_dim), groups)
        }
        Op::CollectivePermute { pairs } => collective::permute(t, x[0], ty, pairs),
        Op::ReplicaId => t.emit("replica-id", shape, x, |_| ()),
        Op::PartitionId => t.emit("partition-id", shape, x, |_| ()),
        Op::While { .. }
        | Op::Scan(_)
        | Op::Conditional { .. }
        | Op::Sort { .. }
        | Op::Call(_)
        | Op::Reduce { .. }
        | Op::RngBitGenerator { .. }
        | Op::OptimizationBarrier => unreachable!("internal: {} has several results", op.name()),
    }
}

fn slice_dimensions(starts: &[usize], limits: &[usize], strides: &[usize]) -> Vec<SliceDimensions> {
    let dim = |((&start, &limit), &stride)| SliceDimensions {
        start: start as i64,
        limit: limit as i64,
        stride: stride as i64,
    };
    starts.iter().zip(limits).zip(strides).map(dim).collect()
}

pub(super) fn padding(low: &[i64], high: &[i64], interior: &[usize]) -> PaddingConfig {
    let dim = |((&low, &high), &interior): ((&i64, &i64), &usize)| PaddingConfigDimension {
        edge_padding_low: low,
        edge_padding_high: high,
        interior_padding: interior as i64,
    };
    PaddingConfig { dimensions: low.iter().zip(high).zip(interior).map(dim).collect() }
}

fn dot_dimensions(dims: &DotDims) -> DotDimensionNumbers {
    DotDimensionNumbers {
        lhs_contracting_dimensions: longs(&dims.lhs_contracting),
        rhs_contracting_dimensions: longs(&dims.rhs_contracting),
        lhs_batch_dimensions: longs(&dims.lhs_batch),
        rhs_batch_dimensions: longs(&dims.rhs_batch),
    }
}

fn precision_config(precision: Precision) -> PrecisionConfig {
    let level = match precision {
        Precision::Default => 0,
        Precision::High => 1,
        Precision::Highest => 2,
    };
    PrecisionConfig { operand_precision: vec![level; 2], ..Default::default() }
}

fn gather_dimensions(dims: &GatherDims) -> GatherDimensionNumbers {
    GatherDimensionNumbers {
        offset_dims: longs(&dims.offset_dims),
        collapsed_slice_dims: longs(&dims.collapsed_slice_dims),
        start_index_map: longs(&dims.start_index_map),
        index_vector_dim: dims.index_vector_dim as i64,
        operand_batching_dims: longs(&dims.operand_batching_dims),
        start_indices_batching_dims: longs(&dims.start_indices_batching_dims),
    }
}

fn scatter_dimensions(dims: &ScatterDims) -> ScatterDimensionNumbers {
    ScatterDimensionNumbers {
        update_window_dims: longs(&dims.update_window_dims),
        inserted_window_dims: longs(&dims.inserted_window_dims),
        scatter_dims_to_operand_dims: longs(&dims.scatter_dims_to_operand_dims),
        index_vector_dim: dims.index_vector_dim as i64,
        input_batching_dims: longs(&dims.input_batching_dims),
        scatter_indices_batching_dims: longs(&dims.scatter_indices_batching_dims),
    }
}
