//! One method per primitive.

use crate::infer::{self, ShapeError};
use crate::ir::*;
use std::panic::Location;
use std::sync::Arc;

/// An operation could not be added to the graph; nothing was inserted.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{error}, in scope `{scope}`, built at {location}")]
    Shape { error: Box<ShapeError>, scope: Arc<str>, location: &'static Location<'static> },
    #[error("einsum `{spec}`: {problem} (operands {lhs}, {rhs})")]
    Einsum { spec: String, problem: String, lhs: TensorType, rhs: TensorType },
    #[error(transparent)]
    Literal(#[from] LiteralError),
    #[error(transparent)]
    Grad(#[from] crate::grad::GradError),
    #[error(transparent)]
    Partition(#[from] crate::shard::PartitionError),
    #[error("{0}")]
    Invalid(String),
}

/// Builds one [`Graph`]. Every method checks its operands and returns the new value.
#[derive(Debug, Default)]
pub struct Builder {
    pub(crate) graph: Graph,
    scope: Arc<str>,
}

type Built = Result<Value, BuildError>;

macro_rules! unary_methods {
    ($($method:ident => $op:ident),*) => { $(
        #[track_caller]
        pub fn $method(&mut self, x: Value) -> Built { self.one(Op::Unary(UnaryOp::$op), &[x]) }
    )* };
}

macro_rules! binary_methods {
    ($($method:ident => $op:ident),*) => { $(
        #[track_caller]
        pub fn $method(&mut self, x: Value, y: Value) -> Built { self.one(Op::Binary(BinaryOp::$op), &[x, y]) }
    )* };
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Closes the graph with these outputs.
    pub fn finish(mut self, outputs: &[Value]) -> Graph {
        self.graph.set_outputs(outputs.to_vec());
        self.graph
    }

    /// A graph with inputs of these types whose outputs `body` returns.
    pub fn graph(
        inputs: &[TensorType],
        body: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, BuildError>,
    ) -> Result<Graph, BuildError> {
        Self::new().subgraph(inputs, body)
    }

    /// As [`Builder::graph`], with names below the current scope.
    pub fn subgraph(
        &self,
        inputs: &[TensorType],
        body: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, BuildError>,
    ) -> Result<Graph, BuildError> {
        let mut inner = Builder { graph: Graph::default(), scope: self.scope.clone() };
        let inputs: Vec<Value> =
            inputs.iter().map(|ty| inner.parameter(ty.clone())).collect::<Result<_, _>>()?;
        let outputs = body(&mut inner, &inputs)?;
        Ok(inner.finish(&outputs))
    }

    /// Runs `body` with names below `name`.
    pub fn scoped<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut Self) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let inner: Arc<str> =
            if self.scope.is_empty() { name.into() } else { format!("{}/{name}", self.scope).into() };
        let outer = std::mem::replace(&mut self.scope, inner);
        let result = body(self);
        self.scope = outer;
        result
    }

    /// The path of names at this point.
    pub fn scope(&self) -> Arc<str> {
        self.scope.clone()
    }

    pub(crate) fn set_scope(&mut self, scope: Arc<str>) -> Arc<str> {
        std::mem::replace(&mut self.scope, scope)
    }

    /// Names a value and its axes; the name ends its `op_name` in HLO, where inspection finds it.
    pub fn name(&mut self, value: Value, name: &str, axes: &'static [&'static str]) -> Value {
        let scope = if self.scope.is_empty() { name.into() } else { format!("{}/{name}", self.scope).into() };
        self.graph.set_scope(value, scope);
        self.graph.set_axes(value, axes);
        value
    }

    pub fn ty(&self, value: Value) -> &TensorType {
        self.graph.ty(value)
    }

    pub fn shape(&self, value: Value) -> Vec<usize> {
        self.graph.ty(value).shape.clone()
    }

    pub fn dtype(&self, value: Value) -> DType {
        self.graph.ty(value).dtype
    }

    pub fn types(&self, values: &[Value]) -> Vec<TensorType> {
        self.graph.types(values)
    }

    /// Inserts any operation and returns its results.
    #[track_caller]
    pub fn insert(&mut self, op: Op, operands: &[Value]) -> Result<Vec<Value>, BuildError> {
        let location = Location::caller();
        let types = infer::infer(&op, &self.graph.types(operands)).map_err(|error| BuildError::Shape {
            error: Box::new(error),
            scope: self.scope.clone(),
            location,
        })?;
        Ok(self.graph.push(op, operands.to_vec(), types, self.scope.clone()))
    }

    /// Inserts an operation with one result.
    #[track_caller]
    pub fn one(&mut self, op: Op, operands: &[Value]) -> Built {
        Ok(self.insert(op, operands)?[0])
    }

    /// The next input of the graph.
    pub fn parameter(&mut self, ty: TensorType) -> Built {
        let index = self.graph.inputs().len();
        self.one(Op::Parameter { index, ty }, &[])
    }

    #[track_caller]
    pub fn constant(&mut self, literal: Literal) -> Built {
        self.one(Op::Constant(literal), &[])
    }

    /// Counts 0, 1, 2, .. along `dim`.
    #[track_caller]
    pub fn iota(&mut self, ty: TensorType, dim: usize) -> Built {
        self.one(Op::Iota { ty, dim }, &[])
    }

    unary_methods! {
        neg => Neg, abs => Abs, sign => Sign, exp => Exp, expm1 => Expm1, log => Log, log1p => Log1p, tanh => Tanh,
        logistic => Logistic, sqrt => Sqrt, rsqrt => Rsqrt, sin => Sin, cos => Cos, erf => Erf, floor => Floor,
        ceil => Ceil, round_nearest_even => RoundNearestEven, is_finite => IsFinite, not => Not
    }

    binary_methods! {
        add => Add, sub => Sub, mul => Mul, div => Div, rem => Rem, max => Max, min => Min, pow => Pow, and => And,
        or => Or, xor => Xor, shift_left => ShiftLeft, shift_right => ShiftRight
    }

    #[track_caller]
    pub fn compare(&mut self, direction: Direction, x: Value, y: Value) -> Built {
        self.one(Op::Compare(direction), &[x, y])
    }

    #[track_caller]
    pub fn select(&mut self, pred: Value, on_true: Value, on_false: Value) -> Built {
        self.one(Op::Select, &[pred, on_true, on_false])
    }

    #[track_caller]
    pub fn clamp(&mut self, min: Value, x: Value, max: Value) -> Built {
        self.one(Op::Clamp, &[min, x, max])
    }

    /// Converts the element type; the same value where it already fits.
    #[track_caller]
    pub fn convert(&mut self, x: Value, dtype: DType) -> Built {
        if self.dtype(x) == dtype { Ok(x) } else { self.one(Op::Convert(dtype), &[x]) }
    }

    #[track_caller]
    pub fn bitcast_convert(&mut self, x: Value, dtype: DType) -> Built {
        self.one(Op::BitcastConvert(dtype), &[x])
    }

    #[track_caller]
    pub fn stop_gradient(&mut self, x: Value) -> Built {
        self.one(Op::StopGradient, &[x])
    }

    /// Puts axis `i` of `x` at `dims[i]` of `shape` and repeats along the others.
    #[track_caller]
    pub fn broadcast_in_dim(&mut self, x: Value, shape: &[usize], dims: &[usize]) -> Built {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.one(Op::BroadcastInDim { shape: shape.into(), dims: dims.into() }, &[x])
    }

    #[track_caller]
    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Built {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.one(Op::Reshape { shape: shape.into() }, &[x])
    }

    #[track_caller]
    pub fn transpose(&mut self, x: Value, permutation: &[usize]) -> Built {
        if permutation.iter().copied().eq(0..self.ty(x).rank()) {
            return Ok(x);
        }
        self.one(Op::Transpose { permutation: permutation.into() }, &[x])
    }

    #[track_caller]
    pub fn reverse(&mut self, x: Value, dims: &[usize]) -> Built {
        self.one(Op::Reverse { dims: dims.into() }, &[x])
    }

    #[track_caller]
    pub fn slice(&mut self, x: Value, starts: &[usize], limits: &[usize], strides: &[usize]) -> Built {
        self.one(Op::Slice { starts: starts.into(), limits: limits.into(), strides: strides.into() }, &[x])
    }

    #[track_caller]
    pub fn pad(&mut self, x: Value, value: Value, low: &[i64], high: &[i64], interior: &[usize]) -> Built {
        self.one(Op::Pad { low: low.into(), high: high.into(), interior: interior.into() }, &[x, value])
    }

    #[track_caller]
    pub fn concatenate(&mut self, xs: &[Value], dim: usize) -> Built {
        self.one(Op::Concatenate { dim }, xs)
    }

    /// Result: batch, then free lhs, then free rhs dimensions, of the operands' element type.
    #[track_caller]
    pub fn dot_general(&mut self, lhs: Value, rhs: Value, dims: DotDims) -> Built {
        let result = self.dtype(lhs);
        self.one(Op::DotGeneral { dims, precision: Precision::Default, result }, &[lhs, rhs])
    }

    #[track_caller]
    pub fn reduce(&mut self, x: Value, dims: &[usize], reducer: Reducer) -> Built {
        self.one(Op::Reduce { dims: dims.into(), reducer }, &[x])
    }

    #[track_caller]
    pub fn cumsum(&mut self, x: Value, dim: usize, exclusive: bool, reverse: bool) -> Built {
        self.one(Op::CumSum { dim, exclusive, reverse }, &[x])
    }

    #[track_caller]
    pub fn gather(&mut self, x: Value, start_indices: Value, dims: GatherDims) -> Built {
        self.one(Op::Gather(dims), &[x, start_indices])
    }

    /// `unique` promises that no two updates meet.
    #[track_caller]
    pub fn scatter(
        &mut self,
        (x, indices, updates): (Value, Value, Value),
        dims: ScatterDims,
        combiner: Combiner,
        unique: bool,
    ) -> Built {
        self.one(Op::Scatter { dims, combiner, unique }, &[x, indices, updates])
    }

    #[track_caller]
    pub fn dynamic_slice(&mut self, x: Value, starts: &[Value], sizes: &[usize]) -> Built {
        self.one(Op::DynamicSlice { sizes: sizes.into() }, &[&[x], starts].concat())
    }

    #[track_caller]
    pub fn dynamic_update_slice(&mut self, x: Value, update: Value, starts: &[Value]) -> Built {
        self.one(Op::DynamicUpdateSlice, &[&[x, update], starts].concat())
    }

    #[track_caller]
    pub fn rng_bit_generator(
        &mut self,
        state: Value,
        algorithm: RngAlgorithm,
        ty: TensorType,
    ) -> Result<(Value, Value), BuildError> {
        let results = self.insert(Op::RngBitGenerator { algorithm, ty }, &[state])?;
        Ok((results[0], results[1]))
    }

    /// The same values, behind a wall that no compiler pass moves work across.
    #[track_caller]
    pub fn optimization_barrier(&mut self, xs: &[Value]) -> Result<Vec<Value>, BuildError> {
        self.insert(Op::OptimizationBarrier, xs)
    }
}
