//! The models of the family, computed by the plain evaluator: against published implementations, with and without a cache,
//! scanned and unrolled, and their gradients.

mod attention_experts;
mod generation;
mod gradients;
mod model;
mod pairs;
mod presets;
mod reference;
