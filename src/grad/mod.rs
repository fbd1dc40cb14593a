//! Reverse-mode differentiation as a graph-to-graph transform.

/// A gradient that does not exist was asked for.
#[derive(Debug, thiserror::Error)]
pub enum GradError {
    #[error("{op} has no reverse-mode derivative, in scope `{scope}`: {advice}")]
    NoDerivative { op: &'static str, scope: String, advice: &'static str },
}
