//! Networks made of layers.

mod block;
mod cache;
mod generation;
mod held;
mod side;
mod stack;
mod transformer;

pub use cache::{Cache, CacheShape, CacheTensor};
pub use generation::{Prompt, decode, prefill_decoder, prefill_encoder, token_logits};
pub use held::{held, join, split};
pub use transformer::{Batch, Forward, Segments, declare, forward, target_weights};
