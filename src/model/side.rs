//! What the layers of a stack need to know of it.

use crate::build::{BuildError, Builder};
use crate::config::{ModelConfig, Side};
use crate::ir::Value;
use crate::layers::position::Sight;

impl Side {
    /// The stack of a sparse layer's parameter, and where its layers are among the sparse layers of all stacks, encoder first.
    pub fn sparse_rows(parameter: &str, config: &ModelConfig) -> Option<(Side, Rows)> {
        let scopes = config.moe.sublayers.scopes();
        let mut first = 0;
        for side in Side::BOTH {
            for segment in config.segments(side) {
                let Some(block) = segment.sparse else { continue };
                for (offset, sublayer) in scopes.iter().enumerate() {
                    let scope = format!("{}/{}/{sublayer}/", side.name(), segment.scope(block));
                    if parameter.starts_with(&scope) {
                        return Some((
                            side,
                            Rows { first, offset, every: scopes.len(), count: segment.repeats },
                        ));
                    }
                }
                first += segment.sparse_blocks() * scopes.len();
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

/// Some of the rows of a tensor: of `count` runs of `every` rows each, from row `first` on, the one at this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub first: usize,
    pub offset: usize,
    pub every: usize,
    pub count: usize,
}

impl Rows {
    /// These rows of `x [rows, n]`: `[count, n]`.
    pub fn of(self, b: &mut Builder, x: Value) -> Result<Value, BuildError> {
        let first = self.first + self.offset;
        let last = first + (self.count.max(1) - 1) * self.every;
        let columns = b.shape(x)[1];
        b.slice(x, &[first, 0], &[last + 1, columns], &[self.every, 1])
    }
}
