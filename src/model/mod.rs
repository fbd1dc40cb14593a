//! Networks made of layers.

mod stack;
mod transformer;

pub use stack::Side;
pub use transformer::{Batch, Forward, declare, forward, sparse_layers};
