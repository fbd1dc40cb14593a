//! The two stacks of a Transformer.

use crate::config::{ModelConfig, Router, Segment};
use crate::layers::position::Sight;
use std::ops::Range;

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

    /// Number of blocks.
    pub fn layers(self, config: &ModelConfig) -> usize {
        let [encoder, decoder] = config.stacks();
        match self {
            Side::Encoder => encoder,
            Side::Decoder => decoder,
        }
    }

    /// Its blocks, in order.
    pub fn segments(self, config: &ModelConfig) -> Vec<Segment> {
        config.segments(self.layers(config))
    }

    /// Number of sparse layers.
    pub fn sparse_layers(self, config: &ModelConfig) -> usize {
        config.sparse_in(self.layers(config))
    }

    /// How tokens of the stack choose experts.
    pub fn router(self, config: &ModelConfig) -> &Router {
        match self {
            Side::Encoder => &config.moe.router,
            Side::Decoder => config.moe.router_of_decoder(),
        }
    }

    /// The stack of a sparse layer's parameter, and which of the sparse layers of all stacks, encoder first, it belongs to.
    pub fn sparse_rows(parameter: &str, config: &ModelConfig) -> Option<(Side, Range<usize>)> {
        let mut start = 0;
        for side in Side::BOTH {
            for segment in side.segments(config) {
                let rows = start..start + segment.sparse_layers();
                let scope = format!("{}/{}/", side.name(), segment.scope(segment.sparse.unwrap_or(0)));
                if segment.sparse.is_some() && parameter.starts_with(&scope) {
                    return Some((side, rows));
                }
                start = rows.end;
            }
        }
        None
    }

    /// What a token of this stack sees.
    pub fn sight(self) -> Sight {
        match self {
            Side::Encoder => Sight::Both,
            Side::Decoder => Sight::Causal,
        }
    }

    /// Whether its blocks attend to the encoder.
    pub fn has_cross_attention(self, config: &ModelConfig) -> bool {
        self == Side::Decoder && Side::Encoder.layers(config) > 0
    }
}
