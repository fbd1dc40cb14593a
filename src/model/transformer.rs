//! The encoder-decoder (T5, Switch) and the decoder alone.

use super::stack::{self, Side};
use crate::build::{BuildError, Builder};
use crate::config::{Architecture, LossConfig, ModelConfig};
use crate::ir::{DType, Direction, Value};
use crate::layers::vocabulary::{self, TokenLoss};
use crate::layers::{Context, ParamDef, Params, embedding};
use crate::moe::Stats;

/// Token 0 is padding.
const PAD: f64 = 0.0;

/// One batch of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// `s32[batch, input_length]`; none for a decoder alone.
    pub inputs: Option<Value>,
    /// `s32[batch, target_length]`.
    pub targets: Value,
    /// `f32[batch, target_length]`: 1 where the decoder runs on a token; by default where the target is not padding.
    pub real_targets: Option<Value>,
}

/// What the network makes of a batch.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The decoder's last states `[batch, target_length, d_model]`.
    pub hidden: Value,
    /// The encoder's last states `[batch, input_length, d_model]`.
    pub memory: Option<Value>,
    /// Of each stack with sparse layers: a leading axis of layers.
    pub stats: Vec<(Side, Stats)>,
    /// `f32[batch, target_length]`: 1 where the target counts.
    pub weights: Value,
}

/// All parameters, in the order of the state.
pub fn declare(config: &ModelConfig) -> Vec<ParamDef> {
    let mut params = Params::default();
    params.scoped("shared", |params| embedding::declare(params, config.vocab_size, config.d_model));
    if config.architecture == Architecture::EncoderDecoder {
        stack::declare(&mut params, config, Side::Encoder);
    }
    stack::declare(&mut params, config, Side::Decoder);
    vocabulary::declare(&mut params, config);
    params.into_defs()
}

/// Number of sparse layers in all stacks.
pub fn sparse_layers(config: &ModelConfig) -> usize {
    [Side::Encoder, Side::Decoder].iter().map(|side| side.sparse_layers(config)).sum()
}

/// Builds the network up to the decoder's last states.
pub fn forward(
    b: &mut Builder,
    cx: &Context,
    defs: &[ParamDef],
    batch: Batch,
) -> Result<Forward, BuildError> {
    let weights = match batch.real_targets {
        Some(real) => real,
        None => real(b, batch.targets)?,
    };
    let decoder_inputs = embedding::shift_right(b, batch.targets)?;
    let (memory_x, x) = embed_all(b, cx, batch.inputs, decoder_inputs)?;
    let mut stats = vec![];
    let memory = match (batch.inputs, memory_x) {
        (Some(tokens), Some(x)) => {
            let real = real(b, tokens)?;
            let inputs = stack::Inputs { x, real, memory: None };
            let (memory, found) = stack::apply(b, cx, Side::Encoder, defs, inputs)?;
            stats.extend(found.map(|s| (Side::Encoder, s)));
            Some((memory, real))
        }
        _ => None,
    };
    let inputs = stack::Inputs { x, real: weights, memory };
    let (hidden, found) = stack::apply(b, cx, Side::Decoder, defs, inputs)?;
    stats.extend(found.map(|s| (Side::Decoder, s)));
    Ok(Forward { hidden, memory: memory.map(|m| m.0), stats, weights })
}

/// Embeds both sides by one lookup, whose derivative is then one pass over the table.
fn embed_all(
    b: &mut Builder,
    cx: &Context,
    inputs: Option<Value>,
    targets: Value,
) -> Result<(Option<Value>, Value), BuildError> {
    b.scoped("shared", |b| {
        let Some(inputs) = inputs else { return Ok((None, embedding::embed(b, cx, targets)?)) };
        let [batch, n, m] = [b.shape(targets)[0], b.shape(inputs)[1], b.shape(targets)[1]];
        let flat = [b.reshape(inputs, &[batch * n])?, b.reshape(targets, &[batch * m])?];
        let tokens = b.concatenate(&flat, 0)?;
        let rows = embedding::embed(b, cx, tokens)?;
        let d = cx.config.d_model;
        let first = b.slice_axis(rows, 0, 0, batch * n)?;
        let second = b.slice_axis(rows, 0, batch * n, batch * (n + m))?;
        Ok((Some(b.reshape(first, &[batch, n, d])?), b.reshape(second, &[batch, m, d])?))
    })
}

/// `f32`: 1 for tokens, 0 for padding.
fn real(b: &mut Builder, tokens: Value) -> Result<Value, BuildError> {
    let real = b.compare_scalar(Direction::Ne, tokens, PAD)?;
    b.convert(real, DType::F32)
}

impl Forward {
    /// Sums of the token losses.
    pub fn token_loss(
        &self,
        b: &mut Builder,
        cx: &Context,
        loss: LossConfig,
        targets: Value,
    ) -> Result<TokenLoss, BuildError> {
        b.scoped("vocabulary", |b| vocabulary::token_loss(b, cx, loss, (self.hidden, targets, self.weights)))
    }

    /// Logits `f32[batch, target_length, vocabulary]`.
    pub fn logits(&self, b: &mut Builder, cx: &Context) -> Result<Value, BuildError> {
        b.scoped("vocabulary", |b| vocabulary::logits(b, cx, self.hidden))
    }
}
