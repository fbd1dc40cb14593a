//! Dense layers of the Transformer. A layer declares its parameters and applies them; scopes name both alike.

pub mod attention;
pub mod dropout;
pub mod embedding;
pub mod feed_forward;
pub mod norm;
pub mod position;
pub mod rotary;
pub mod vocabulary;

mod context;
mod params;

pub use context::{Context, Phase, dtype};
pub use params::{Init, ParamDef, Params, Weights, row_name, row_of};
