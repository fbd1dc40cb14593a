//! Networks made of layers.

mod block;
mod cache;
mod generation;
mod side;
mod stack;
mod transformer;

pub use cache::{Cache, CacheShape, CacheTensor};
pub use generation::{Prompt, decode, prefill_decoder, prefill_encoder, token_logits};
pub use transformer::{Batch, Forward, Segments, declare, forward, target_weights};
