//! The intermediate representation: typed values, operations and graphs.

mod literal;
mod types;

pub use literal::{Element, Literal, LiteralError};
pub use types::{DType, Domain, TensorType};
