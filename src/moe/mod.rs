//! The mixture-of-experts layer: route, dispatch, run the experts, combine.

mod attention;
mod dispatch;
mod experts;
mod layer;
mod router;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use attention::{declare as declare_attention, project};
pub use layer::{EXCHANGED_INPUTS, EXCHANGED_OUTPUTS, MoeShape, Stats, apply, declare};
pub use router::update_bias;
