//! Shape and element-type rules: pure functions of an operation and its operand types.

mod collective;
mod control;
mod data;
mod elementwise;
mod index;
mod linear;

use crate::ir::{Op, TensorType};
use std::fmt;

/// The operands of an operation do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ShapeError {
    /// The operation.
    pub op: &'static str,
    /// The axis at fault, where there is one.
    pub axis: Option<usize>,
    /// What was required and what came.
    pub problem: String,
    /// The types of all operands.
    pub operands: Vec<TensorType>,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.op, self.problem)?;
        if let Some(axis) = self.axis {
            write!(f, ", axis {axis}")?;
        }
        let types: Vec<String> = self.operands.iter().map(TensorType::to_string).collect();
        write!(f, " (operands {})", if types.is_empty() { "none".into() } else { types.join(", ") })
    }
}

/// The result types of `op` on operands of these types.
///
/// Errors: [`ShapeError`] names the operation, the axis and all operand types.
pub fn infer(op: &Op, operands: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
    let cx = Context { op: op.name(), operands };
    let one = |ty: Result<TensorType, ShapeError>| ty.map(|ty| vec![ty]);
    let types = match op {
        Op::Parameter { ty, .. } => one(cx.arity(0).map(|()| ty.clone())),
        Op::Constant(literal) => one(cx.arity(0).map(|()| literal.ty().clone())),
        Op::Iota { ty, dim } => one(elementwise::iota(&cx, ty, *dim)),
        Op::Unary(op) => one(elementwise::unary(&cx, *op)),
        Op::Binary(op) => one(elementwise::binary(&cx, *op)),
        Op::Compare(_) => one(elementwise::compare(&cx)),
        Op::Select => one(elementwise::select(&cx)),
        Op::Clamp => one(elementwise::clamp(&cx)),
        Op::Convert(dtype) => one(cx.arity(1).map(|()| operands[0].with_dtype(*dtype))),
        Op::BitcastConvert(dtype) => one(elementwise::bitcast(&cx, *dtype)),
        Op::StopGradient => one(cx.arity(1).map(|()| operands[0].clone())),
        Op::BroadcastInDim { shape, dims } => one(data::broadcast_in_dim(&cx, shape, dims)),
        Op::Reshape { shape } => one(data::reshape(&cx, shape)),
        Op::Transpose { permutation } => one(data::transpose(&cx, permutation)),
        Op::Reverse { dims } => one(data::reverse(&cx, dims)),
        Op::Slice { starts, limits, strides } => one(data::slice(&cx, starts, limits, strides)),
        Op::Pad { low, high, interior } => one(data::pad(&cx, low, high, interior)),
        Op::Concatenate { dim } => one(data::concatenate(&cx, *dim)),
        Op::DotGeneral { dims, result, .. } => one(linear::dot_general(&cx, dims, *result)),
        Op::Reduce { dims, reducer } => linear::reduce(&cx, dims, *reducer),
        Op::CumSum { dim, .. } => one(linear::cumsum(&cx, *dim)),
        Op::Gather(dims) => one(index::gather(&cx, dims)),
        Op::Scatter { dims, combiner, .. } => one(index::scatter(&cx, dims, *combiner)),
        Op::DynamicSlice { sizes } => one(index::dynamic_slice(&cx, sizes)),
        Op::DynamicUpdateSlice => one(index::dynamic_update_slice(&cx)),
        Op::Sort { dim, comparator, .. } => control::sort(&cx, *dim, comparator),
        Op::RngBitGenerator { ty, .. } => control::rng_bit_generator(&cx, ty),
        Op::OptimizationBarrier => Ok(operands.to_vec()),
        Op::While { cond, body } => control::while_loop(&cx, cond, body),
        Op::Scan(scan) => control::scan(&cx, scan),
        Op::Conditional { branches } => control::conditional(&cx, branches),
        Op::Call(call) => control::call(&cx, call),
        Op::AllReduce { reducer, groups } => one(collective::all_reduce(&cx, *reducer, groups)),
        Op::AllGather { dim, groups } => one(collective::all_gather(&cx, *dim, groups)),
        Op::ReduceScatter { dim, reducer, groups } => {
            one(collective::reduce_scatter(&cx, *dim, *reducer, groups))
        }
        Op::AllToAll { split_dim, concat_dim, groups } => {
            one(collective::all_to_all(&cx, *split_dim, *concat_dim, groups))
        }
        Op::CollectivePermute { pairs } => one(collective::permute(&cx, pairs)),
        Op::ReplicaId | Op::PartitionId => one(collective::id(&cx)),
    }?;
    types.iter().try_for_each(|ty| cx.fits_in_memory(ty))?;
    Ok(types)
}

/// The operation under inference, with the means to complain about it.
struct Context<'a> {
    op: &'static str,
    operands: &'a [TensorType],
}

impl Context<'_> {
    fn error(&self, problem: impl Into<String>) -> ShapeError {
        ShapeError { op: self.op, axis: None, problem: problem.into(), operands: self.operands.to_vec() }
    }

    fn axis_error(&self, axis: usize, problem: impl Into<String>) -> ShapeError {
        ShapeError { axis: Some(axis), ..self.error(problem) }
    }

    fn ensure(&self, holds: bool, problem: impl FnOnce() -> String) -> Result<(), ShapeError> {
        if holds { Ok(()) } else { Err(self.error(problem())) }
    }

    fn arity(&self, expected: usize) -> Result<(), ShapeError> {
        let found = self.operands.len();
        self.ensure(found == expected, || format!("takes {expected} operands, got {found}"))
    }

    /// `dims` are distinct axes below `rank`.
    fn distinct_axes(&self, what: &str, dims: &[usize], rank: usize) -> Result<(), ShapeError> {
        for (i, &dim) in dims.iter().enumerate() {
            if dim >= rank {
                return Err(self.axis_error(dim, format!("{what} {dim} is not below rank {rank}")));
            }
            if dims[..i].contains(&dim) {
                return Err(self.axis_error(dim, format!("{what} {dim} is given twice")));
            }
        }
        Ok(())
    }

    /// Element counts and byte sizes fit 63 bits, as XLA requires.
    fn fits_in_memory(&self, ty: &TensorType) -> Result<(), ShapeError> {
        // An axis of size 0 does not excuse absurd sizes of the others.
        let nonzero = TensorType::new(ty.dtype, ty.shape.iter().map(|&d| d.max(1)).collect::<Vec<_>>());
        let bytes = nonzero.checked_elements().and_then(|n| n.checked_mul(ty.dtype.size_bytes()));
        self.ensure(bytes.is_some_and(|b| b <= i64::MAX as usize), || {
            format!("the result {ty} has more elements than can be counted")
        })
    }
}
