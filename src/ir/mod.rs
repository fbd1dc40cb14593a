//! The intermediate representation: typed values, operations and graphs. Knows nothing of experts or devices.

mod graph;
mod literal;
mod op;
mod types;

pub use graph::{Graph, Node, Value};
pub use literal::{Element, Literal, LiteralError};
pub use op::{
    Accepts, BinaryOp, Call, Combiner, Derivative, Direction, DotDims, GatherDims, Op, Precision, Reducer,
    RematPolicy, ReplicaGroups, RngAlgorithm, Scan, ScatterDims, UnaryOp,
};
pub use types::{DType, Domain, TensorType};
