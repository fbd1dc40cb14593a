//! The closed set of operations. `operands` are values; everything here is a static attribute.

use super::graph::Graph;
use super::literal::Literal;
use super::types::{DType, Domain, TensorType};
use std::sync::Arc;

/// What element types an elementwise operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    Float,
    Number,
    /// `pred` and integers.
    Bits,
    Any,
}

impl Accepts {
    /// Whether `dtype` is accepted.
    pub fn contains(self, dtype: DType) -> bool {
        match self {
            Accepts::Float => dtype.is_float(),
            Accepts::Number => dtype.domain() != Domain::Bool,
            Accepts::Bits => !dtype.is_float(),
            Accepts::Any => true,
        }
    }

    /// The words of an error message.
    pub fn words(self) -> &'static str {
        match self {
            Accepts::Float => "a float",
            Accepts::Number => "a number",
            Accepts::Bits => "pred or an integer",
            Accepts::Any => "any",
        }
    }
}

macro_rules! elementwise {
    ($(#[$doc:meta])* $enum:ident { $($op:ident: $opcode:literal, $accepts:ident;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $enum { $($op),* }

        impl $enum {
            /// Every operation of the family.
            pub const ALL: &'static [$enum] = &[$($enum::$op),*];

            /// The HLO opcode.
            pub fn opcode(self) -> &'static str {
                match self { $($enum::$op => $opcode),* }
            }

            /// The element types taken.
            pub fn accepts(self) -> Accepts {
                match self { $($enum::$op => Accepts::$accepts),* }
            }
        }
    };
}

elementwise! {
    /// One operand, one result of the same shape.
    UnaryOp {
        Neg: "negate", Number;
        Abs: "abs", Number;
        Sign: "sign", Number;
        Exp: "exponential", Float;
        Expm1: "exponential-minus-one", Float;
        Log: "log", Float;
        Log1p: "log-plus-one", Float;
        Tanh: "tanh", Float;
        Logistic: "logistic", Float;
        Sqrt: "sqrt", Float;
        Rsqrt: "rsqrt", Float;
        Sin: "sine", Float;
        Cos: "cosine", Float;
        Erf: "erf", Float;
        Floor: "floor", Float;
        Ceil: "ceil", Float;
        RoundNearestEven: "round-nearest-even", Float;
        IsFinite: "is-finite", Float;
        Not: "not", Bits;
    }
}

elementwise! {
    /// Two operands of one type, one result of that type.
    BinaryOp {
        Add: "add", Number;
        Sub: "subtract", Number;
        Mul: "multiply", Number;
        Div: "divide", Number;
        Rem: "remainder", Number;
        Max: "maximum", Any;
        Min: "minimum", Any;
        Pow: "power", Float;
        And: "and", Bits;
        Or: "or", Bits;
        Xor: "xor", Bits;
        ShiftLeft: "shift-left", Bits;
        ShiftRight: "shift-right-logical", Bits;
    }
}

/// The direction of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Direction {
    pub const ALL: [Direction; 6] =
        [Direction::Eq, Direction::Ne, Direction::Lt, Direction::Le, Direction::Gt, Direction::Ge];

    /// The name in HLO.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Eq => "EQ",
            Direction::Ne => "NE",
            Direction::Lt => "LT",
            Direction::Le => "LE",
            Direction::Gt => "GT",
            Direction::Ge => "GE",
        }
    }
}

/// An associative combination with a neutral element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reducer {
    Add,
    Mul,
    Max,
    Min,
    And,
    Or,
}

impl Reducer {
    pub const ALL: [Reducer; 6] =
        [Reducer::Add, Reducer::Mul, Reducer::Max, Reducer::Min, Reducer::And, Reducer::Or];

    /// The operation that combines two elements.
    pub fn binary(self) -> BinaryOp {
        match self {
            Reducer::Add => BinaryOp::Add,
            Reducer::Mul => BinaryOp::Mul,
            Reducer::Max => BinaryOp::Max,
            Reducer::Min => BinaryOp::Min,
            Reducer::And => BinaryOp::And,
            Reducer::Or => BinaryOp::Or,
        }
    }

    /// The neutral element for this element type.
    pub fn neutral(self, dtype: DType) -> Literal {
        match self {
            Reducer::Add | Reducer::Or => Literal::zeros(TensorType::scalar(dtype)),
            Reducer::Mul => Literal::scalar_of(dtype, 1.0),
            Reducer::And => all_ones(dtype),
            Reducer::Max => extreme(dtype, f64::NEG_INFINITY),
            Reducer::Min => extreme(dtype, f64::INFINITY),
        }
    }
}

/// The least or the greatest value; casts to integers saturate.
fn extreme(dtype: DType, infinity: f64) -> Literal {
    match dtype {
        DType::Pred => Literal::scalar_of(dtype, if infinity > 0.0 { 1.0 } else { 0.0 }),
        _ => Literal::scalar_of(dtype, infinity),
    }
}

fn all_ones(dtype: DType) -> Literal {
    match dtype {
        DType::S8 | DType::S32 | DType::S64 => Literal::scalar_of(dtype, -1.0),
        _ => extreme(dtype, f64::INFINITY),
    }
}

/// How exactly a matrix product rounds its float inputs on hardware with reduced-precision units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    #[default]
    Default,
    High,
    Highest,
}

/// Dimension numbers of `dot_general`. The result has the batch, then the free lhs, then the free rhs dimensions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DotDims {
    pub lhs_batch: Vec<usize>,
    pub rhs_batch: Vec<usize>,
    pub lhs_contracting: Vec<usize>,
    pub rhs_contracting: Vec<usize>,
}

/// Dimension numbers of `gather`, as XLA defines them (with batching dimensions).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GatherDims {
    pub offset_dims: Vec<usize>,
    pub collapsed_slice_dims: Vec<usize>,
    pub start_index_map: Vec<usize>,
    pub operand_batching_dims: Vec<usize>,
    pub start_indices_batching_dims: Vec<usize>,
    pub index_vector_dim: usize,
    pub slice_sizes: Vec<usize>,
}

/// Dimension numbers of `scatter`, as XLA defines them (with batching dimensions).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScatterDims {
    pub update_window_dims: Vec<usize>,
    pub inserted_window_dims: Vec<usize>,
    pub scatter_dims_to_operand_dims: Vec<usize>,
    pub input_batching_dims: Vec<usize>,
    pub scatter_indices_batching_dims: Vec<usize>,
    pub index_vector_dim: usize,
}

/// What `scatter` does where an update falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Combiner {
    /// The update replaces the element; indices must be unique for a defined result.
    Assign,
    Reduce(Reducer),
}

/// The generator behind `rng_bit_generator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RngAlgorithm {
    ThreeFry,
    Philox,
}

/// Which replicas take part in a collective together.
pub type ReplicaGroups = Vec<Vec<usize>>;

/// Which forward values a backward pass may keep; the rest it computes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RematPolicy {
    /// Everything may be kept.
    #[default]
    SaveAll,
    /// Only results of matrix products and of calls with a derivative of their own.
    SaveDots,
    /// Only the inputs of the body.
    SaveNothing,
}

/// A loop over the leading axis of `xs` with a carry: `body(consts, carry, x) -> (carry, y)`.
///
/// Operands: consts, initial carry, stacked xs `[length, ..]`. Results: final carry, stacked ys `[length, ..]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    pub body: Arc<Graph>,
    pub length: usize,
    pub num_consts: usize,
    pub num_carry: usize,
    /// Runs from the last element of `xs` to the first.
    pub reverse: bool,
    pub remat: RematPolicy,
}

/// A named composite. Operands are the inputs of `body`, results its outputs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub name: String,
    pub body: Arc<Graph>,
    pub derivative: Derivative,
}

/// Where the derivative of a [`Call`] comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Derivative {
    /// Differentiates the body; the policy says what is kept for it.
    Body(RematPolicy),
    /// `vjp(inputs, outputs, cotangents) -> input cotangents`: inputs and outputs are all those of the body, cotangents those
    /// of its first `num_primals` outputs that are floats, and the results belong to the float inputs, in order. Later
    /// outputs of the body are residuals.
    Custom { vjp: Arc<Graph>, num_primals: usize },
}

/// An operation: what it does to its operands, with all static attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Parameter {
        index: usize,
        ty: TensorType,
    },
    Constant(Literal),
    Iota {
        ty: TensorType,
        dim: usize,
    },
    Unary(UnaryOp),
    Binary(BinaryOp),
    Compare(Direction),
    /// `select(pred, on_true, on_false)`.
    Select,
    /// `clamp(min, x, max)`, all of one type.
    Clamp,
    Convert(DType),
    BitcastConvert(DType),
    /// The same value; no gradient passes.
    StopGradient,
    BroadcastInDim {
        shape: Vec<usize>,
        dims: Vec<usize>,
    },
    Reshape {
        shape: Vec<usize>,
    },
    Transpose {
        permutation: Vec<usize>,
    },
    Reverse {
        dims: Vec<usize>,
    },
    Slice {
        starts: Vec<usize>,
        limits: Vec<usize>,
        strides: Vec<usize>,
    },
    /// `pad(x, value)`; negative `low` and `high` remove elements.
    Pad {
        low: Vec<i64>,
        high: Vec<i64>,
        interior: Vec<usize>,
    },
    Concatenate {
        dim: usize,
    },
    DotGeneral {
        dims: DotDims,
        precision: Precision,
        result: DType,
    },
    /// Of tensors of one type, each for itself; compilers make one pass over all of them.
    Reduce {
        dims: Vec<usize>,
        reducer: Reducer,
    },
    CumSum {
        dim: usize,
        /// Leaves out the element itself.
        exclusive: bool,
        reverse: bool,
    },
    /// `gather(operand, start_indices)`; indices are clamped.
    Gather(GatherDims),
    /// `scatter(operand, indices, updates)`; updates out of bounds are skipped.
    Scatter {
        dims: ScatterDims,
        combiner: Combiner,
        unique: bool,
    },
    /// `dynamic_slice(x, start per axis..)`; starts are clamped.
    DynamicSlice {
        sizes: Vec<usize>,
    },
    /// `dynamic_update_slice(x, update, start per axis..)`; starts are clamped.
    DynamicUpdateSlice,
    /// Sorts all operands together along `dim`; `comparator(a0, b0, a1, b1, ..)` says whether a comes before b.
    Sort {
        dim: usize,
        comparator: Arc<Graph>,
        stable: bool,
    },
    /// `rng_bit_generator(state u64[2]) -> (state, bits)`.
    RngBitGenerator {
        algorithm: RngAlgorithm,
        ty: TensorType,
    },
    OptimizationBarrier,
    /// `while cond(state) { state = body(state) }`.
    While {
        cond: Arc<Graph>,
        body: Arc<Graph>,
    },
    Scan(Scan),
    /// `branches[index](operands)`; an index out of range takes the last branch.
    Conditional {
        branches: Vec<Arc<Graph>>,
    },
    Call(Call),
    AllReduce {
        reducer: Reducer,
        groups: ReplicaGroups,
    },
    AllGather {
        dim: usize,
        groups: ReplicaGroups,
    },
    ReduceScatter {
        dim: usize,
        reducer: Reducer,
        groups: ReplicaGroups,
    },
    AllToAll {
        split_dim: usize,
        concat_dim: usize,
        groups: ReplicaGroups,
    },
    CollectivePermute {
        pairs: Vec<(usize, usize)>,
    },
    ReplicaId,
    PartitionId,
}

impl Op {
    /// The name used in messages and in the printed IR.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Parameter { .. } => "parameter",
            Op::Constant(_) => "constant",
            Op::Iota { .. } => "iota",
            Op::Unary(op) => op.opcode(),
            Op::Binary(op) => op.opcode(),
            Op::Compare(_) => "compare",
            Op::Select => "select",
            Op::Clamp => "clamp",
            Op::Convert(_) => "convert",
            Op::BitcastConvert(_) => "bitcast_convert",
            Op::StopGradient => "stop_gradient",
            Op::BroadcastInDim { .. } => "broadcast_in_dim",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Reverse { .. } => "reverse",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Concatenate { .. } => "concatenate",
            Op::DotGeneral { .. } => "dot_general",
            Op::Reduce { .. } => "reduce",
            Op::CumSum { .. } => "cumsum",
            Op::Gather(_) => "gather",
            Op::Scatter { .. } => "scatter",
            Op::DynamicSlice { .. } => "dynamic_slice",
            Op::DynamicUpdateSlice => "dynamic_update_slice",
            Op::Sort { .. } => "sort",
            Op::RngBitGenerator { .. } => "rng_bit_generator",
            Op::OptimizationBarrier => "optimization_barrier",
            Op::While { .. } => "while",
            Op::Scan(_) => "scan",
            Op::Conditional { .. } => "conditional",
            Op::Call(_) => "call",
            Op::AllReduce { .. } => "all_reduce",
            Op::AllGather { .. } => "all_gather",
            Op::ReduceScatter { .. } => "reduce_scatter",
            Op::AllToAll { .. } => "all_to_all",
            Op::CollectivePermute { .. } => "collective_permute",
            Op::ReplicaId => "replica_id",
            Op::PartitionId => "partition_id",
        }
    }
}
