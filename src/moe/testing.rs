//! Helpers of the tests of this room.

use super::layer::MoeShape;
use crate::build::{BuildError, Builder};
use crate::config::Router;
use crate::eval::evaluate;
use crate::ir::{Literal, TensorType, Value};
use crate::shard::Mesh;

/// Evaluates what `body` makes of the inputs.
pub fn outputs(
    inputs: &[Literal],
    body: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, BuildError>,
) -> Vec<Vec<f64>> {
    let types: Vec<TensorType> = inputs.iter().map(|x| x.ty().clone()).collect();
    let graph = Builder::graph(&types, body).unwrap();
    evaluate(&graph, inputs).unwrap().iter().map(Literal::to_f64).collect()
}

/// A layer of `[groups, tokens, experts]` of width 2.
pub fn shape(
    router: &Router,
    [groups, tokens, experts]: [usize; 3],
    capacity: usize,
    sequences: usize,
) -> MoeShape {
    let choices = router.experts_per_token().unwrap_or(experts);
    MoeShape { groups, tokens, experts, capacity, choices, width: 2, sequences, mesh: Mesh::default() }
}

/// Asserts that all elements are within `tolerance`.
pub fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "found {found:?}, expected {expected:?}");
    let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > tolerance || a.is_nan());
    assert!(!far, "found {found:?}, expected {expected:?}");
}
