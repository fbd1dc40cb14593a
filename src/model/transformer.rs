//! The encoder-decoder (T5, Switch) and the decoder alone.

use super::stack::{self, Memory};
use crate::build::{BuildError, Builder};
use crate::config::{Architecture, DecoderInputs, LossConfig, ModelConfig, Padding, Side};
use crate::ir::{DType, Direction, Value};
use crate::layers::vocabulary::{self, Teacher, TokenLoss};
use crate::layers::{Context, ParamDef, Params, embedding};
use crate::moe::Stats;

/// One batch of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// `s32[batch, input_length]`; none for a decoder alone.
    pub inputs: Option<Value>,
    /// `s32[batch, target_length]`.
    pub targets: Value,
    /// `s32[batch, target_length]`, where a row of a decoder alone is an input and its target: 1 for tokens of the input, which
    /// are read, 2 for those of the target, which are predicted too, 0 for padding.
    pub roles: Option<Value>,
    /// Which example of its row each place belongs to, where rows hold several.
    pub segments: Option<Segments>,
}

/// Numbers of the examples of a row, from 1; 0 is padding. Both sides of an example have the same number.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    /// `s32[batch, input_length]`; none for a decoder alone.
    pub inputs: Option<Value>,
    /// `s32[batch, target_length]`.
    pub targets: Value,
}

impl Batch {
    /// All that comes from the data.
    pub fn values(&self) -> Vec<Value> {
        let segments = self.segments.map(|s| [Some(s.targets), s.inputs]);
        let all = [Some(self.targets), self.inputs, self.roles];
        let all = all.into_iter().chain(segments.into_iter().flatten());
        all.flatten().collect()
    }

    /// The same with other values, in the order of [`Batch::values`].
    pub fn with(&self, values: &[Value]) -> Self {
        let mut next = values.iter().copied();
        let mut take = |old: Value| next.next().unwrap_or(old);
        let targets = take(self.targets);
        let inputs = self.inputs.map(&mut take);
        let roles = self.roles.map(&mut take);
        let segments = self.segments.map(|s| {
            let targets = take(s.targets);
            Segments { targets, inputs: s.inputs.map(&mut take) }
        });
        Self { inputs, targets, roles, segments }
    }
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
    /// `s32[batch, target_length]`: what each place predicts.
    pub labels: Value,
    /// `f32[batch, target_length]`: 1 where the prediction counts.
    pub weights: Value,
    /// `s32[batch, target_length]`: the examples of each row, where rows hold several.
    pub segments: Option<Value>,
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

/// Builds the network up to the decoder's last states.
pub fn forward(
    b: &mut Builder,
    cx: &Context,
    defs: &[ParamDef],
    batch: Batch,
) -> Result<Forward, BuildError> {
    let reading = reading(b, cx.config, batch)?;
    let (memory_x, x) = embed_all(b, cx, batch.inputs, reading.tokens)?;
    let mut stats = vec![];
    let memory = match (batch.inputs, memory_x) {
        (Some(tokens), Some(x)) => {
            let real = real(b, cx.config, tokens)?;
            let segments = batch.segments.and_then(|segments| segments.inputs);
            let inputs = stack::Inputs { x, real, segments, memory: None };
            let (memory, found) = stack::apply(b, cx, Side::Encoder, defs, inputs)?;
            stats.extend(found.map(|s| (Side::Encoder, s)));
            Some(Memory { states: memory, real, segments })
        }
        _ => None,
    };
    let segments = batch.segments.map(|segments| segments.targets);
    let real = match cx.config.padding {
        Padding::Excluded => reading.real,
        Padding::Included => b.full_like(reading.real, 1.0)?,
    };
    let inputs = stack::Inputs { x, real, segments, memory };
    let (hidden, found) = stack::apply(b, cx, Side::Decoder, defs, inputs)?;
    stats.extend(found.map(|s| (Side::Decoder, s)));
    let Reading { labels, weights, .. } = reading;
    Ok(Forward { hidden, memory: memory.map(|memory| memory.states), stats, labels, weights, segments })
}

/// What the decoder reads, and what it is to predict: `[batch, target_length]` each.
struct Reading {
    tokens: Value,
    /// Where the decoder runs on a token.
    real: Value,
    labels: Value,
    weights: Value,
}

fn reading(b: &mut Builder, config: &ModelConfig, batch: Batch) -> Result<Reading, BuildError> {
    let targets = batch.targets;
    let real = decoder_real(b, config, batch)?;
    let weights = target_weights(b, config, batch)?;
    match config.decoder_inputs {
        DecoderInputs::ShiftRight => {
            let segments = batch.segments.map(|segments| segments.targets);
            let tokens = embedding::shift_right(b, targets, segments)?;
            Ok(Reading { tokens, real, labels: targets, weights })
        }
        DecoderInputs::Tokens => {
            let labels = embedding::shift_left(b, targets)?;
            Ok(Reading { tokens: targets, real, labels, weights })
        }
    }
}

/// `f32[batch, target_length]`: 1 where the decoder is to predict a token, 0 elsewhere.
pub fn target_weights(b: &mut Builder, config: &ModelConfig, batch: Batch) -> Result<Value, BuildError> {
    let real = decoder_real(b, config, batch)?;
    let wanted = match batch.roles {
        Some(roles) => {
            let target = b.compare_scalar(Direction::Eq, roles, TARGET_ROLE)?;
            b.mask(target, real, 0.0)?
        }
        None => real,
    };
    if config.decoder_inputs == DecoderInputs::ShiftRight {
        return Ok(wanted);
    }
    let next = embedding::shift_left(b, wanted)?;
    let weights = b.mul(real, next)?;
    let Some(Segments { targets, .. }) = batch.segments else { return Ok(weights) };
    // The last token of an example does not predict the first of the next.
    let next = embedding::shift_left(b, targets)?;
    let same = b.compare(Direction::Eq, targets, next)?;
    b.mask(same, weights, 0.0)
}

/// The role of a token that is predicted, see [`Batch::roles`].
const TARGET_ROLE: f64 = 2.0;

/// `f32[batch, target_length]`: 1 for tokens that the decoder runs on, 0 for padding.
fn decoder_real(b: &mut Builder, config: &ModelConfig, batch: Batch) -> Result<Value, BuildError> {
    let real = real(b, config, batch.targets)?;
    let Some(roles) = batch.roles else { return Ok(real) };
    let used = b.compare_scalar(Direction::Gt, roles, 0.0)?;
    b.mask(used, real, 0.0)
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
pub(super) fn real(b: &mut Builder, config: &ModelConfig, tokens: Value) -> Result<Value, BuildError> {
    match config.pad_id {
        Some(pad) => {
            let real = b.compare_scalar(Direction::Ne, tokens, pad as f64)?;
            b.convert(real, DType::F32)
        }
        None => {
            let ty = b.ty(tokens).with_dtype(DType::F32);
            b.full(&ty, 1.0)
        }
    }
}

impl Forward {
    /// Sums of the token losses.
    pub fn token_loss(
        &self,
        b: &mut Builder,
        cx: &Context,
        loss: LossConfig,
        teacher: Option<Teacher>,
    ) -> Result<TokenLoss, BuildError> {
        let operands = (self.hidden, self.labels, self.weights);
        b.scoped("vocabulary", |b| vocabulary::token_loss(b, cx, loss, operands, teacher))
    }

    /// Logits `f32[batch, target_length, vocabulary]`.
    pub fn logits(&self, b: &mut Builder, cx: &Context) -> Result<Value, BuildError> {
        b.scoped("vocabulary", |b| vocabulary::logits(b, cx, self.hidden))
    }
}
