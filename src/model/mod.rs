//! Networks made of layers.

mod stack;
mod transformer;

pub use stack::Side;
pub use transformer::{Batch, Forward, Segments, declare, forward, sparse_layers};
