//! The two stacks of a Transformer.

use super::model::{Architecture, ModelConfig};
use super::router::Router;

/// A stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Encoder,
    Decoder,
}

impl Side {
    /// Both, in the order in which they run.
    pub const BOTH: [Side; 2] = [Side::Encoder, Side::Decoder];

    /// The scope of the stack.
    pub fn name(self) -> &'static str {
        match self {
            Side::Encoder => "encoder",
            Side::Decoder => "decoder",
        }
    }

    /// Number of blocks; a decoder alone has an encoder of none.
    pub fn layers(self, config: &ModelConfig) -> usize {
        match (self, config.architecture) {
            (Side::Encoder, Architecture::EncoderDecoder) => config.num_encoder_layers,
            (Side::Encoder, Architecture::DecoderOnly) => 0,
            (Side::Decoder, _) => config.num_decoder_layers,
        }
    }

    /// How tokens of the stack choose experts.
    pub fn router(self, config: &ModelConfig) -> &Router {
        let moe = &config.moe;
        match self {
            Side::Encoder => &moe.router,
            Side::Decoder => moe.decoder_router.as_ref().unwrap_or(&moe.router),
        }
    }
}
