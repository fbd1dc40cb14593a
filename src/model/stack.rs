//! A stack: segments of blocks with stacked weights, each run by one `scan`.

use super::block::{self, Keys, Sequence, Shared};
use crate::build::{BuildError, Builder, ScanInputs, UnrolledInputs};
use crate::config::{ModelConfig, Positions, Remat, Segment, Side};
use crate::ir::{DType, RematPolicy, TensorType, Value};
use crate::layers::attention::{self, Term};
use crate::layers::rotary::{self, Rotation};
use crate::layers::{Context, ParamDef, Params, dropout, norm, position, row_name};
use crate::moe::Stats;

/// Declares the parameters of a stack.
pub fn declare(params: &mut Params, config: &ModelConfig, side: Side) {
    params.scoped(side.name(), |params| {
        if let Positions::RelativeBuckets(buckets) = config.positions {
            position::declare(params, buckets, config.num_heads);
        }
        for segment in config.segments(side) {
            params.repeated(segment.repeats, |params| {
                for index in 0..segment.period {
                    let sparse = segment.sparse == Some(index);
                    params
                        .scoped(&segment.scope(index), |params| block::declare(params, config, side, sparse));
                }
            });
        }
        norm::declare(params, "final_norm", config.d_model);
    });
}

/// What a stack works on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// `[batch, length, d_model]`.
    pub x: Value,
    /// `f32[batch, length]`: 1 for tokens, 0 for padding.
    pub real: Value,
    /// `s32[batch, length]`: the examples of each row, where rows hold several.
    pub segments: Option<Value>,
    pub memory: Option<Memory>,
}

/// The encoder's output.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// `[batch, keys, d_model]`.
    pub states: Value,
    /// As in [`Inputs`], of the keys.
    pub real: Value,
    pub segments: Option<Value>,
}

/// Runs the stack; the statistics have a leading axis of sparse layers.
pub fn apply(
    b: &mut Builder,
    cx: &Context,
    side: Side,
    defs: &[ParamDef],
    inputs: Inputs,
) -> Result<(Value, Option<Stats>), BuildError> {
    b.scoped(side.name(), |b| {
        let shared = shared(b, cx, side, inputs)?;
        let mut x = dropout::dropout(b, cx, "embedding", cx.config.dropout, inputs.x)?;
        let mut stats = vec![];
        let memory: Vec<Value> = inputs.memory.iter().map(|memory| memory.states).collect();
        let consts = [&memory[..], &shared.values()].concat();
        for segment in cx.config.segments(side) {
            let (carry, ys) = run(b, cx, (side, segment, defs), &consts, &[x], |b, cx, consts, carry, _| {
                let (memory, shared_values) = consts.split_at(memory.len());
                let shared = shared.with(shared_values);
                let mut keys = Sequence { memory: memory.first().copied() };
                let (x, stats) = blocks(b, cx, segment, carry[0], &shared, &mut keys)?;
                Ok((vec![x], stats))
            })?;
            x = carry[0];
            if !ys.is_empty() {
                stats.push(by_depth(b, &ys)?);
            }
        }
        let x = norm::rms_norm(b, cx, "final_norm", x)?;
        let x = dropout::dropout(b, cx, "output", cx.config.dropout, x)?;
        Ok((x, all_layers(b, &stats)?))
    })
}

/// One run of blocks: the new activations, and the statistics of its sparse layers.
pub(super) fn blocks(
    b: &mut Builder,
    cx: &Context,
    segment: Segment,
    mut x: Value,
    shared: &Shared,
    keys: &mut impl Keys,
) -> Result<(Value, Vec<Value>), BuildError> {
    let mut stats = vec![];
    for index in 0..segment.period {
        let sparse = segment.sparse == Some(index);
        let scope = segment.scope(index);
        let (next, found) = b.scoped(&scope, |b| block::apply(b, cx, sparse, x, shared, keys))?;
        x = next;
        stats.extend(found.iter().flat_map(Stats::values));
    }
    Ok((x, stats))
}

/// The statistics of a segment, `[repeats, ..]` for each sparse layer of a run one after the other, as those of one sequence of
/// layers, `[layers, ..]`.
fn by_depth(b: &mut Builder, stats: &[Value]) -> Result<Vec<Value>, BuildError> {
    let layers = stats.len() / Stats::COUNT;
    if layers == 1 {
        return Ok(stats.to_vec());
    }
    let interleave = |i: usize| {
        let mut shape = b.shape(stats[i]);
        shape[0] *= layers;
        let parts = stats.iter().skip(i).step_by(Stats::COUNT).map(|&part| b.expand_dim(part, 1));
        let parts: Vec<Value> = parts.collect::<Result<_, _>>()?;
        let all = b.concatenate(&parts, 1)?;
        b.reshape(all, &shape)
    };
    (0..Stats::COUNT).map(interleave).collect()
}

/// The statistics of all segments, one after the other.
fn all_layers(b: &mut Builder, segments: &[Vec<Value>]) -> Result<Option<Stats>, BuildError> {
    let Some(first) = segments.first() else { return Ok(None) };
    let join = |(i, &value): (usize, &Value)| match segments.len() {
        1 => Ok(value),
        _ => {
            let parts: Vec<Value> = segments.iter().map(|values| values[i]).collect();
            b.concatenate(&parts, 0)
        }
    };
    let values: Vec<Value> = first.iter().enumerate().map(join).collect::<Result<_, _>>()?;
    Ok(Stats::from_values(&values))
}

/// What the blocks of a segment make of it: carries and stacked ys.
pub(super) type Results = (Vec<Value>, Vec<Value>);

/// Runs a segment: `body(consts, carry, row)` for each run of blocks, with its weights; `row u32[]` counts the runs.
pub(super) fn run(
    b: &mut Builder,
    cx: &Context,
    (side, segment, defs): (Side, Segment, &[ParamDef]),
    consts: &[Value],
    carry: &[Value],
    body: impl FnOnce(&mut Builder, &Context, &[Value], &[Value], Value) -> Result<Results, BuildError>,
) -> Result<Results, BuildError> {
    let prefix = format!("{}/{}_", side.name(), segment.name);
    let own: Vec<&ParamDef> = defs.iter().filter(|def| def.name.starts_with(&prefix)).collect();
    let consts = &[&[cx.key], consts].concat()[..];
    let remat = match cx.config.remat {
        // Attention itself sees to its scores.
        Remat::None | Remat::Scores => RematPolicy::SaveAll,
        Remat::Dots => RematPolicy::SaveDots,
        Remat::Full => RematPolicy::SaveNothing,
    };
    let body = |b: &mut Builder, consts: &[Value], carry: &[Value], xs: &[Value]| {
        let (values, row) = xs.split_at(own.len());
        let weights = cx.weights.others(own.iter().copied().zip(values.iter().copied()));
        let key = b.fold_in_value(consts[0], row[0])?;
        let cx = Context { weights: &weights, key, ..*cx };
        body(b, &cx, &consts[1..], carry, row[0])
    };
    match cx.config.scans_blocks(cx.target) {
        true => {
            let xs = own.iter().map(|def| cx.weights.block(&def.name));
            let mut xs: Vec<Value> = xs.collect::<Result<_, _>>()?;
            xs.push(b.iota(TensorType::new(DType::U32, [segment.repeats]), 0)?);
            b.scan(ScanInputs { consts, carry, xs: &xs, length: segment.repeats, remat }, body)
        }
        false => {
            let row = |row: usize| {
                let xs = own.iter().map(|def| cx.weights.block(&row_name(&def.name, row)));
                let mut xs: Vec<Value> = xs.collect::<Result<_, BuildError>>()?;
                xs.push(b.scalar(DType::U32, row as f64)?);
                Ok(xs)
            };
            let rows: Vec<Vec<Value>> = (0..segment.repeats).map(row).collect::<Result<_, BuildError>>()?;
            b.unrolled_scan(UnrolledInputs { consts, carry, rows: &rows, remat }, body)
        }
    }
}

/// What all blocks share when they run over a whole sequence.
pub(super) fn shared(
    b: &mut Builder,
    cx: &Context,
    side: Side,
    inputs: Inputs,
) -> Result<Shared, BuildError> {
    let mut terms = self_bias(b, cx, side, inputs)?;
    terms.push(hidden_keys(b, inputs.segments, (inputs.real, inputs.segments))?);
    let rotation = rotation(b, cx, inputs.real)?;
    let cross = match inputs.memory {
        Some(Memory { real, segments, .. }) => Some(vec![hidden_keys(b, inputs.segments, (real, segments))?]),
        None => None,
    };
    Ok(Shared { side, terms, rotation, real: inputs.real, cross })
}

/// Hides keys that are padding, or, where rows hold several examples, of another example than the query.
fn hidden_keys(
    b: &mut Builder,
    queries: Option<Value>,
    (real, keys): (Value, Option<Value>),
) -> Result<Term, BuildError> {
    match queries.zip(keys) {
        Some((queries, keys)) => {
            Ok(Term { value: attention::hide_others(b, queries, keys)?, axes: &[0, 2, 3] })
        }
        None => padding(b, real),
    }
}

/// Hides keys that are padding: `real f32[batch, keys]`.
pub(super) fn padding(b: &mut Builder, real: Value) -> Result<Term, BuildError> {
    Ok(Term { value: attention::hide_padding(b, real)?, axes: &[0, 3] })
}

/// Position bias and causal mask.
fn self_bias(b: &mut Builder, cx: &Context, side: Side, inputs: Inputs) -> Result<Vec<Term>, BuildError> {
    let length = b.shape(inputs.x)[1];
    let mask = match side {
        Side::Encoder => None,
        Side::Decoder => Some(attention::causal_mask(b, length)?),
    };
    let Positions::RelativeBuckets(buckets) = cx.config.positions else {
        return Ok(mask.map(|value| Term { value, axes: &[2, 3] }).into_iter().collect());
    };
    let mut bias = position::relative_bias(b, cx, buckets, side.sight(), length)?;
    if let Some(mask) = mask {
        let shape = b.shape(bias);
        let mask = b.broadcast_in_dim(mask, &shape, &[1, 2])?;
        bias = b.add(bias, mask)?;
    }
    Ok(vec![Term { value: bias, axes: &[1, 2, 3] }])
}

/// Angles of tokens that are counted without the padding before them.
fn rotation(b: &mut Builder, cx: &Context, real: Value) -> Result<Option<Rotation>, BuildError> {
    let Positions::Rotary(rotary) = cx.config.positions else { return Ok(None) };
    let position = count_positions(b, real)?;
    Ok(Some(rotary::rotation(b, rotary, cx.config.rotary_dim(), position)?))
}

/// The number of tokens before each token of `real f32[batch, length]`: `s32`; 0 for padding before the first.
pub(super) fn count_positions(b: &mut Builder, real: Value) -> Result<Value, BuildError> {
    // Exact in float32: positions stay below 2^24.
    let count = b.cumsum(real, 1, false, false)?;
    let position = b.add_scalar(count, -1.0)?;
    let zero = b.full_like(position, 0.0)?;
    let position = b.max(position, zero)?;
    b.convert(position, DType::S32)
}
