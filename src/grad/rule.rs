//! One arm per operation: which family knows its derivative.

use super::call::Bodies;
use super::{GradError, call, collective, control, data, elementwise, index, linear, scan, sort};
use crate::build::{BuildError, Builder};
use crate::ir::{Op, Value};
use std::sync::Arc;

/// One entry per operand, result or input; `None` where nothing flows.
pub(super) type Cotangents = Vec<Option<Value>>;
/// What a rule returns: the cotangents of the operands.
pub(super) type Pulled = Result<Cotangents, BuildError>;

/// A forward node while its rule runs. At least one result has a cotangent, at least one operand is active.
pub(super) struct Site<'a> {
    pub b: &'a mut Builder,
    pub bodies: &'a mut Bodies,
    /// The position of the node.
    pub index: usize,
    pub operands: Vec<Value>,
    pub results: Vec<Value>,
    /// Of the results.
    pub cotangents: Cotangents,
    /// Which operands want a cotangent.
    pub active: Vec<bool>,
    /// The forward scope.
    pub scope: Arc<str>,
}

impl Site<'_> {
    /// The cotangent of the only result.
    pub fn cotangent(&self) -> Result<Value, BuildError> {
        let missing = || BuildError::Invalid("internal: a rule runs without a cotangent".into());
        self.cotangents.first().copied().flatten().ok_or_else(missing)
    }

    /// The contribution to operand `i`, if it wants one.
    pub fn when(
        &mut self,
        i: usize,
        rule: impl FnOnce(&mut Builder) -> Result<Value, BuildError>,
    ) -> Result<Option<Value>, BuildError> {
        if self.active[i] { rule(self.b).map(Some) } else { Ok(None) }
    }

    /// The cotangents of an operation of one operand whose rule needs the cotangent alone.
    pub fn linear(&mut self, rule: impl FnOnce(&mut Builder, Value) -> Result<Value, BuildError>) -> Pulled {
        let g = self.cotangent()?;
        Ok(vec![self.when(0, |b| rule(b, g))?])
    }

    pub fn no_derivative(&self, op: &Op, advice: &'static str) -> BuildError {
        GradError::NoDerivative { op: op.name(), scope: self.scope.to_string(), advice }.into()
    }
}

/// The cotangents of the operands of a node.
pub(super) fn apply(site: &mut Site, op: &Op) -> Pulled {
    match op {
        Op::Unary(unary) => elementwise::unary(site, *unary),
        Op::Binary(binary) => elementwise::binary(site, *binary),
        Op::Select => elementwise::select(site),
        Op::Clamp => elementwise::clamp(site),
        Op::Convert(_) => elementwise::convert(site),
        Op::BroadcastInDim { shape, dims } => data::broadcast_in_dim(site, shape, dims),
        Op::Reshape { .. } => data::reshape(site),
        Op::Transpose { permutation } => data::transpose(site, permutation),
        Op::Reverse { dims } => data::reverse(site, dims),
        Op::Slice { starts, strides, .. } => data::slice(site, starts, strides),
        Op::Pad { low, high, interior } => data::pad(site, low, high, interior),
        Op::Concatenate { dim } => data::concatenate(site, *dim),
        Op::DotGeneral { dims, precision, .. } => linear::dot_general(site, dims, *precision),
        Op::Reduce { dims, reducer } => linear::reduce(site, dims, *reducer),
        Op::CumSum { dim, exclusive, reverse } => linear::cumsum(site, *dim, *exclusive, *reverse),
        Op::Gather(dims) => index::gather(site, dims),
        Op::Scatter { dims, combiner, unique } => index::scatter(site, op, dims, (*combiner, *unique)),
        Op::DynamicSlice { .. } => index::dynamic_slice(site),
        Op::DynamicUpdateSlice => index::dynamic_update_slice(site),
        Op::Sort { dim, comparator, stable } => sort::sort(site, op, *dim, (comparator, *stable)),
        Op::OptimizationBarrier => control::barrier(site),
        Op::While { .. } => Err(site.no_derivative(op, "use a scan, whose length is known when compiling")),
        Op::Scan(scan) => scan::scan(site, scan),
        Op::Conditional { branches } => control::conditional(site, branches),
        Op::Call(call) => call::call(site, call),
        Op::AllReduce { reducer, groups } => collective::all_reduce(site, op, *reducer, groups),
        Op::AllGather { dim, groups } => collective::all_gather(site, *dim, groups),
        Op::ReduceScatter { dim, reducer, groups } => {
            collective::reduce_scatter(site, op, *dim, (*reducer, groups))
        }
        Op::AllToAll { split_dim, concat_dim, groups } => {
            collective::all_to_all(site, *split_dim, *concat_dim, groups)
        }
        Op::CollectivePermute { pairs } => collective::permute(site, pairs),
        Op::Parameter { .. }
        | Op::Constant(_)
        | Op::Iota { .. }
        | Op::Compare(_)
        | Op::BitcastConvert(_)
        | Op::StopGradient
        | Op::RngBitGenerator { .. }
        | Op::ReplicaId
        | Op::PartitionId => Ok(vec![None; site.operands.len()]),
    }
}
