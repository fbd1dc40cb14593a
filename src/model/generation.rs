//! Generation with a cache of static shape: what is given is read once, then one token per call.
//!
//! A slot of the cache holds one token of the decoder. Slots of all rows are filled together; padding, on either side of a
//! prompt, leaves slots that no query sees, and positions count real tokens only.

use super::block::Shared;
use super::cache::{Cache, CacheShape, Cached, MEMORY_REAL, Noted, POSITION, REAL, names};
use super::stack::{self, Inputs};
use super::transformer;
use crate::build::{BuildError, Builder};
use crate::config::{Positions, Side};
use crate::ir::{DType, TensorType, Value};
use crate::layers::attention::{self, Term};
use crate::layers::{Context, ParamDef, embedding, norm, position, rotary, vocabulary};

/// What a decoder alone reads first; token 0 stands at its beginning where the model was trained so.
#[derive(Clone, Copy, Debug)]
pub struct Prompt {
    /// `s32[batch, slots]`.
    pub tokens: Value,
    /// `f32[batch, slots]`: 1 for tokens, 0 for padding.
    pub real: Value,
}

/// Runs the encoder on `inputs s32[batch, input_length]`; the decoder has read nothing yet.
pub fn prefill_encoder(
    b: &mut Builder,
    cx: &Context,
    defs: &[ParamDef],
    shape: CacheShape,
    inputs: Value,
) -> Result<Cache, BuildError> {
    let real = transformer::real(b, cx.config, inputs)?;
    let x = b.scoped("shared", |b| embedding::embed(b, cx, inputs))?;
    let (states, _) =
        stack::apply(b, cx, Side::Encoder, defs, Inputs { x, real, segments: None, memory: None })?;
    let mut cache = Cache::default();
    for tensor in shape.tensors(cx.config) {
        let block = tensor.partition.block(&cx.mesh, &tensor.ty)?;
        cache.set(&tensor.name, b.zeros(&block)?);
    }
    cache.set(MEMORY_REAL, real);
    b.scoped(Side::Decoder.name(), |b| {
        for segment in cx.config.segments(Side::Decoder) {
            let place = (Side::Decoder, segment, defs);
            let (_, ys) = stack::run(b, cx, place, &[states], &[], |b, cx, consts, _, _| {
                let mut keys = vec![];
                for index in 0..segment.period {
                    let scope = format!("{}/cross_attention", segment.scope(index));
                    keys.extend(b.scoped(&scope, |b| attention::keys(b, cx, consts[0], None))?);
                }
                Ok((vec![], keys))
            })?;
            let cross = names(cx.config, segment).into_iter().filter(|name| name.cross);
            cross.zip(ys).for_each(|(name, keys)| cache.set(&name.path, keys));
        }
        Ok(cache)
    })
}

/// Runs the decoder on a prompt: the cache, and the states `[batch, 1, d_model]` of each row's last token.
pub fn prefill_decoder(
    b: &mut Builder,
    cx: &Context,
    defs: &[ParamDef],
    prompt: Prompt,
) -> Result<(Cache, Value), BuildError> {
    let Prompt { tokens, real } = prompt;
    let x = b.scoped("shared", |b| embedding::embed(b, cx, tokens))?;
    let mut cache = Cache::default();
    cache.set(REAL, real);
    cache.set(POSITION, stack::count_positions(b, real)?);
    b.scoped(Side::Decoder.name(), |b| {
        let shared = stack::shared(b, cx, Side::Decoder, Inputs { x, real, segments: None, memory: None })?;
        let mut x = x;
        for segment in cx.config.segments(Side::Decoder) {
            let place = (Side::Decoder, segment, defs);
            let (carry, ys) = stack::run(b, cx, place, &shared.values(), &[x], |b, cx, consts, carry, _| {
                let shared = shared.with(consts);
                let mut noted = Noted::default();
                let (x, _) = stack::blocks(b, cx, segment, carry[0], &shared, &mut noted)?;
                Ok((vec![x], noted.keys))
            })?;
            x = carry[0];
            names(cx.config, segment).iter().zip(ys).for_each(|(name, keys)| cache.set(&name.path, keys));
        }
        let last = last_real(b, x, real)?;
        Ok((cache, norm::rms_norm(b, cx, "final_norm", last)?))
    })
}

/// The states of each row's last token: `x [batch, slots, d_model]`, `real f32[batch, slots]` -> `[batch, 1, d_model]`.
fn last_real(b: &mut Builder, x: Value, real: Value) -> Result<Value, BuildError> {
    let ty = b.ty(real).clone();
    let place = b.iota(ty.clone(), 1)?;
    let place = b.mul(place, real)?;
    let last = b.reduce(place, &[1], crate::ir::Reducer::Max)?;
    let last = b.convert(last, DType::S32)?;
    let last = b.expand_dim(last, 1)?;
    b.take_rows_grouped(x, last)
}

/// Runs the decoder on `tokens s32[batch]`, one per row, and puts them at `slot s32[]`: the new cache, and their states
/// `[batch, 1, d_model]`.
pub fn decode(
    b: &mut Builder,
    cx: &Context,
    defs: &[ParamDef],
    mut cache: Cache,
    (tokens, slot): (Value, Value),
) -> Result<(Cache, Value), BuildError> {
    let tokens = b.expand_dim(tokens, 1)?;
    let x = b.scoped("shared", |b| embedding::embed(b, cx, tokens))?;
    b.scoped(Side::Decoder.name(), |b| {
        let shared = place_token(b, cx, &mut cache, slot)?;
        let mut x = x;
        for segment in cx.config.segments(Side::Decoder) {
            let all = names(cx.config, segment);
            let pick = |cross: bool| -> Result<Vec<Value>, BuildError> {
                all.iter().filter(|name| name.cross == cross).map(|name| cache.get(&name.path)).collect()
            };
            let (own, cross) = (pick(false)?, pick(true)?);
            let consts = [&cross[..], &[slot], &shared.values()].concat();
            let carry = [&[x], &own[..]].concat();
            let place = (Side::Decoder, segment, defs);
            let (carry, _) = stack::run(b, cx, place, &consts, &carry, |b, cx, consts, carry, row| {
                let (cross, rest) = consts.split_at(cross.len());
                let shared = shared.with(&rest[1..]);
                let row = b.convert(row, DType::S32)?;
                let own = carry[1..].to_vec();
                let mut keys = Cached { own, cross, row, slot: rest[0], used: [0; 2] };
                let (x, _) = stack::blocks(b, cx, segment, carry[0], &shared, &mut keys)?;
                Ok(([&[x], &keys.own[..]].concat(), vec![]))
            })?;
            x = carry[0];
            let own = all.iter().filter(|name| !name.cross);
            own.zip(&carry[1..]).for_each(|(name, &keys)| cache.set(&name.path, keys));
        }
        Ok((cache, norm::rms_norm(b, cx, "final_norm", x)?))
    })
}

/// Marks the slot as taken, and says what its token sees.
fn place_token(b: &mut Builder, cx: &Context, cache: &mut Cache, slot: Value) -> Result<Shared, BuildError> {
    let (real, positions) = (cache.get(REAL)?, cache.get(POSITION)?);
    let batch = b.shape(real)[0];
    let zero = b.scalar(DType::S32, 0.0)?;
    let one = b.full(&TensorType::new(DType::F32, [batch, 1]), 1.0)?;
    let count = b.sum(real, &[1])?;
    let count = b.convert(count, DType::S32)?; // [batch]
    let position = b.expand_dim(count, 1)?; // [batch, 1]
    let real = b.dynamic_update_slice(real, one, &[zero, slot])?;
    let positions = b.dynamic_update_slice(positions, position, &[zero, slot])?;
    cache.set(REAL, real);
    cache.set(POSITION, positions);

    let mut terms = vec![stack::padding(b, real)?];
    let mut rotation = None;
    match cx.config.positions {
        Positions::RelativeBuckets(buckets) => {
            let shape = b.shape(positions);
            let own = b.broadcast_in_dim(count, &shape, &[0])?;
            let distance = b.sub(positions, own)?;
            let bias = position::bias_of_distances(b, cx, buckets, Side::Decoder.sight(), distance)?;
            terms.push(Term { value: bias, axes: &[0, 1, 3] });
        }
        Positions::Rotary(turn) => {
            rotation = Some(rotary::rotation(b, turn, cx.config.rotary_dim(), position)?);
        }
    }
    let cross = match Side::Decoder.has_cross_attention(cx.config) {
        true => {
            let real = cache.get(MEMORY_REAL)?;
            Some(vec![stack::padding(b, real)?])
        }
        false => None,
    };
    Ok(Shared { side: Side::Decoder, terms, rotation, real: one, cross })
}

/// Logits `f32[batch, vocabulary]` of states `[batch, 1, d_model]`.
pub fn token_logits(b: &mut Builder, cx: &Context, hidden: Value) -> Result<Value, BuildError> {
    let logits = b.scoped("vocabulary", |b| vocabulary::logits(b, cx, hidden))?;
    let batch = b.shape(logits)[0];
    b.reshape(logits, &[batch, cx.config.vocab_size])
}
