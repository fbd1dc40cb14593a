//! HLO modules: the proto messages, their text form, reading, writing and structural checks.

mod check;
mod literal;
mod parse;
mod primitive;
mod proto;
mod shape;
mod text;
mod wire;

pub use check::{StructureError, check};
pub use literal::{literal_from, literal_of, scalar_integer};
pub use parse::{TextError, parse};
pub use primitive::{
    OPAQUE, PRIMITIVES, Primitive, TOKEN, TUPLE, dtype_of, primitive, primitive_named, primitive_of,
};
pub use proto::*;
pub use shape::{array_shape, default_layout, program_shape, shape_of, tuple_shape};
pub use text::print;
pub use wire::{MAX_BYTES, MAX_INSTRUCTIONS, ReadError, decode, encode, read_module};
