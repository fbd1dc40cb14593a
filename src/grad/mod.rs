//! Reverse-mode differentiation as a graph-to-graph transform.
//!
//! Cotangents are added to the graph under construction: [`vjp`] walks its nodes from last to first and asks each family
//! for its rule. A cotangent always has the type of its value. Integer and `pred` values have none.
//!
//! Bodies of loops and calls are differentiated in a *joint graph* (the body, then its backward pass), which is then cut
//! in two: see `partition` for what the forward pass keeps.

mod active;
mod call;
mod collective;
mod control;
mod data;
mod elementwise;
mod extract;
mod index;
mod joint;
mod linear;
mod partition;
mod reverse;
mod rule;
mod scan;
mod sort;
#[cfg(test)]
mod tests;

pub(crate) use extract::extract;

use crate::build::{BuildError, Builder};
use crate::ir::{TensorType, Value};

/// A gradient that does not exist was asked for.
#[derive(Debug, thiserror::Error)]
pub enum GradError {
    #[error("{op} has no reverse-mode derivative, in scope `{scope}`: {advice}")]
    NoDerivative { op: &'static str, scope: String, advice: &'static str },
    #[error("gradients: the loss must be a float scalar, is {found}; sum or average it first")]
    Loss { found: TensorType },
    #[error("vjp: {value} has type {ty}, only floats have gradients; leave it out or convert it first")]
    NotFloat { value: Value, ty: TensorType },
    #[error("vjp: the cotangent of {value} must be {expected}, is {found}, in scope `{scope}`")]
    Cotangent { value: Value, expected: TensorType, found: TensorType, scope: String },
}

/// Adds to the graph the gradients of `outputs` weighted by their cotangents with respect to `wrt`; zeros where nothing
/// flows. `outputs`: pairs of a value and its cotangent, of one type. Results have the types of `wrt`.
///
/// Nodes that are added later play no part. Loops and calls may get more results (what the backward pass needs again).
///
/// Errors: [`GradError`] in [`BuildError::Grad`], if a value is no float, a cotangent has another type than its value, or the
/// way from `wrt` to `outputs` leads through an operation without derivative.
pub fn vjp(b: &mut Builder, outputs: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Value>, BuildError> {
    for &value in outputs.iter().map(|(output, _)| output).chain(wrt) {
        if !b.dtype(value).is_float() {
            return Err(GradError::NotFloat { value, ty: b.ty(value).clone() }.into());
        }
    }
    let cotangents = reverse::pull(b, outputs, wrt)?;
    wrt.iter().zip(cotangents).map(|(&value, cotangent)| reverse::or_zeros(b, cotangent, value)).collect()
}

/// Adds to the graph the derivative of the scalar float `loss` with respect to each of `wrt`.
///
/// Errors: as [`vjp`], and [`GradError::Loss`].
pub fn gradients(b: &mut Builder, loss: Value, wrt: &[Value]) -> Result<Vec<Value>, BuildError> {
    let found = b.ty(loss).clone();
    if found.rank() != 0 || !found.dtype.is_float() {
        return Err(GradError::Loss { found }.into());
    }
    let one = b.scalar(found.dtype, 1.0)?;
    vjp(b, &[(loss, one)], wrt)
}
