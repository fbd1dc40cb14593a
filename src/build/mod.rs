//! The graph builder: infers types while inserting, keeps the scope of names, and knows common composites.

mod compose;
mod control;
mod einsum;
mod insert;
mod random;

pub use control::{ScanInputs, UnrolledInputs, VjpArgs};
pub use insert::{BuildError, Builder};
pub use random::{Window, stream_of};
