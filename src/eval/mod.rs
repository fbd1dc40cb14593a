//! A slow, plain evaluator of the IR: the oracle that compiled programs are tested against.
//!
//! It computes from the meaning of each operation, not through shape inference, and compares what comes out with the types
//! in the graph. Floats are held as `f64` and rounded to their element type after every operation; sums and products of
//! many elements are accumulated in `f64` and rounded once. Integers wrap around. Rules at the edges (division by zero,
//! shifts past the width, positions out of bounds, NaN) are XLA's.

mod collective;
mod control;
mod data;
mod elementwise;
mod index;
mod linear;
mod machine;
mod random;
mod sort;
mod tensor;

pub use machine::EvalError;

use crate::ir::{Graph, Literal};

/// The outputs of `graph` for these inputs, on one replica.
///
/// Errors: [`EvalError`] where inputs do not fit the graph, or the graph has collectives over more than one replica.
pub fn evaluate(graph: &Graph, inputs: &[Literal]) -> Result<Vec<Literal>, EvalError> {
    let outputs = evaluate_replicas(graph, std::slice::from_ref(&inputs.to_vec()))?;
    Ok(outputs.into_iter().next().unwrap_or_default())
}

/// The outputs of `graph` on each of N replicas that run in lockstep: `inputs[replica][input]` to `[replica][output]`.
///
/// Errors: as [`evaluate`], and where replicas meet in a collective that some of them do not reach.
pub fn evaluate_replicas(graph: &Graph, inputs: &[Vec<Literal>]) -> Result<Vec<Vec<Literal>>, EvalError> {
    machine::evaluate(graph, inputs)
}
