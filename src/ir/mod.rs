//! The intermediate representation: typed values, operations and graphs. Knows nothing of experts or devices.

mod graph;
mod literal;
mod op;
mod pass;
mod print;
pub(crate) mod scope;
mod types;
mod verify;

pub use graph::{Graph, Node, Value};
pub use literal::{Element, Literal, LiteralError};
pub use op::{
    Accepts, BinaryOp, Call, Combiner, Derivative, Direction, DotDims, GatherDims, Op, Precision, Reducer,
    RematPolicy, ReplicaGroups, RngAlgorithm, Scan, ScatterDims, UnaryOp,
};
pub(crate) use pass::{Address, shared_bodies};
pub use pass::{inline_calls, join_contractions, optimize, prune, simplify};
pub use types::{DType, Domain, TensorType};
pub use verify::{Fault, Problem, VerifyError, verify};
