//! A stack of blocks: runs of `every` blocks with stacked weights, repeated by one `scan`.

use crate::build::{BuildError, Builder, ScanInputs};
use crate::config::{ModelConfig, Remat, Router};
use crate::ir::{DType, RematPolicy, TensorType, Value};
use crate::layers::{Context, ParamDef, Params, Weights, attention, dropout, feed_forward, norm, position};
use crate::moe::{self, Stats};
use std::ops::Range;

/// The two stacks of a Transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Encoder,
    Decoder,
}

impl Side {
    /// The scope of the stack.
    pub fn name(self) -> &'static str {
        match self {
            Side::Encoder => "encoder",
            Side::Decoder => "decoder",
        }
    }

    fn layers(self, config: &ModelConfig) -> usize {
        match self {
            Side::Encoder => config.num_encoder_layers,
            Side::Decoder => config.num_decoder_layers,
        }
    }

    /// Blocks in one run, and how often the run repeats.
    fn runs(self, config: &ModelConfig) -> (usize, usize) {
        let period = if config.moe.num_experts > 0 { config.moe.every.max(1) } else { 1 };
        (period, self.layers(config) / period)
    }

    /// Number of sparse layers.
    pub fn sparse_layers(self, config: &ModelConfig) -> usize {
        if config.moe.num_experts > 0 { self.runs(config).1 } else { 0 }
    }

    /// The stack in whose scope a parameter lies.
    pub fn of(name: &str) -> Option<Side> {
        let scope = name.split('/').next();
        [Side::Encoder, Side::Decoder].into_iter().find(|side| scope == Some(side.name()))
    }

    /// Which of the sparse layers of all stacks, encoder first, are this stack's.
    pub fn sparse_rows(self, config: &ModelConfig) -> Range<usize> {
        let start = match self {
            Side::Encoder => 0,
            Side::Decoder => Side::Encoder.sparse_layers(config),
        };
        start..start + self.sparse_layers(config)
    }

    /// How tokens of the stack choose experts.
    pub fn router(self, config: &ModelConfig) -> &Router {
        match self {
            Side::Encoder => &config.moe.router,
            Side::Decoder => config.moe.router_of_decoder(),
        }
    }

    fn sight(self) -> position::Sight {
        match self {
            Side::Encoder => position::Sight::Both,
            Side::Decoder => position::Sight::Causal,
        }
    }

    fn has_cross_attention(self, config: &ModelConfig) -> bool {
        self == Side::Decoder && config.num_encoder_layers > 0
    }
}

/// Declares the parameters of a stack.
pub fn declare(params: &mut Params, config: &ModelConfig, side: Side) {
    let (period, repeats) = side.runs(config);
    params.scoped(side.name(), |params| {
        position::declare(params, config);
        params.repeated(repeats, |params| {
            for index in 0..period {
                params.scoped(&block_name(index), |params| declare_block(params, config, side, index));
            }
        });
        norm::declare(params, "final_norm", config.d_model);
    });
}

fn block_name(index: usize) -> String {
    format!("block_{index}")
}

fn declare_block(params: &mut Params, config: &ModelConfig, side: Side, index: usize) {
    let sublayer = |params: &mut Params, name: &str, declare: &dyn Fn(&mut Params)| {
        params.scoped(name, |params| {
            norm::declare(params, "norm", config.d_model);
            declare(params);
        });
    };
    sublayer(params, "attention", &|p| attention::declare(p, config));
    if side.has_cross_attention(config) {
        sublayer(params, "cross_attention", &|p| attention::declare(p, config));
    }
    if config.is_sparse(index) {
        sublayer(params, "moe", &|p| moe::declare(p, config, side.router(config)));
    } else {
        sublayer(params, "mlp", &|p| feed_forward::declare(p, config));
    }
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
        let x = dropout::dropout(b, cx, "embedding", cx.config.dropout, inputs.x)?;
        let (x, stats) = blocks(b, cx, side, defs, Inputs { x, ..inputs })?;
        let x = norm::rms_norm(b, cx, "final_norm", x)?;
        let x = dropout::dropout(b, cx, "output", cx.config.dropout, x)?;
        Ok((x, stats))
    })
}

fn blocks(
    b: &mut Builder,
    cx: &Context,
    side: Side,
    defs: &[ParamDef],
    inputs: Inputs,
) -> Result<(Value, Option<Stats>), BuildError> {
    let (period, repeats) = side.runs(cx.config);
    let prefix = format!("{}/block_", side.name());
    let names: Vec<&str> = defs.iter().map(|d| d.name.as_str()).filter(|n| n.starts_with(&prefix)).collect();
    let mut xs: Vec<Value> = names.iter().map(|n| cx.weights.path(n)).collect::<Result<_, _>>()?;
    xs.push(b.iota(TensorType::new(DType::U32, [repeats]), 0)?);

    let mut consts = vec![cx.key, self_bias(b, cx, side, inputs)?, inputs.real];
    consts.push(hidden_keys(b, inputs.segments, (inputs.real, inputs.segments))?);
    if let Some(Memory { states, real, segments }) = inputs.memory {
        consts.push(states);
        consts.push(hidden_keys(b, inputs.segments, (real, segments))?);
    }
    let scan = ScanInputs {
        consts: &consts,
        carry: &[inputs.x],
        xs: &xs,
        length: repeats,
        remat: match cx.config.remat {
            Remat::None => RematPolicy::SaveAll,
            Remat::Dots => RematPolicy::SaveDots,
            Remat::Full => RematPolicy::SaveNothing,
        },
    };
    let body = |b: &mut Builder, consts: &[Value], carry: &[Value], xs: &[Value]| {
        let (values, index) = xs.split_at(names.len());
        let weights = Weights::new(names.iter().map(|n| n.to_string()).zip(values.iter().copied()));
        let key = b.fold_in_value(consts[0], index[0])?;
        let cx = Context { weights: &weights, key, ..*cx };
        let shared = Shared {
            router: side.router(cx.config),
            bias: consts[1],
            real: consts[2],
            padding: consts[3],
            memory: consts.get(4).copied().zip(consts.get(5).copied()),
        };
        run(b, &cx, period, carry[0], &shared)
    };
    let (carry, ys) = if cx.config.scan_blocks { b.scan(scan, body)? } else { b.unrolled_scan(scan, body)? };
    Ok((carry[0], Stats::from_values(&ys)))
}

/// What all blocks of a stack share.
struct Shared<'a> {
    router: &'a Router,
    bias: Value,
    real: Value,
    padding: Value,
    memory: Option<(Value, Value)>,
}

/// One run of blocks: the new activations, and the statistics of its sparse block.
fn run(
    b: &mut Builder,
    cx: &Context,
    period: usize,
    x: Value,
    shared: &Shared,
) -> Result<(Vec<Value>, Vec<Value>), BuildError> {
    let mut x = x;
    let mut stats = vec![];
    for index in 0..period {
        let (next, found) = b.scoped(&block_name(index), |b| block(b, cx, index, x, shared))?;
        x = next;
        stats.extend(found.iter().flat_map(Stats::values));
    }
    Ok((vec![x], stats))
}

fn block(
    b: &mut Builder,
    cx: &Context,
    index: usize,
    x: Value,
    shared: &Shared,
) -> Result<(Value, Option<Stats>), BuildError> {
    let (x, ()) = residual(b, cx, "attention", x, |b, x| {
        let inputs = attention::Inputs {
            queries: x,
            keys: x,
            bias: Some(shared.bias),
            key_mask: Some(shared.padding),
        };
        Ok((attention::attend(b, cx, inputs)?, ()))
    })?;
    let x = match shared.memory {
        Some((memory, padding)) => {
            let (x, ()) = residual(b, cx, "cross_attention", x, |b, x| {
                let inputs =
                    attention::Inputs { queries: x, keys: memory, bias: None, key_mask: Some(padding) };
                Ok((attention::attend(b, cx, inputs)?, ()))
            })?;
            x
        }
        None => x,
    };
    if cx.config.is_sparse(index) {
        let (x, stats) =
            residual(b, cx, "moe", x, |b, x| moe::apply(b, cx, shared.router, (x, shared.real)))?;
        Ok((x, Some(stats)))
    } else {
        let (x, ()) = residual(b, cx, "mlp", x, |b, x| Ok((feed_forward::apply(b, cx, x)?, ())))?;
        Ok((x, None))
    }
}

/// `x + dropout(layer(norm(x)))`.
fn residual<T>(
    b: &mut Builder,
    cx: &Context,
    name: &str,
    x: Value,
    layer: impl FnOnce(&mut Builder, Value) -> Result<(Value, T), BuildError>,
) -> Result<(Value, T), BuildError> {
    b.scoped(name, |b| {
        let normal = norm::rms_norm(b, cx, "norm", x)?;
        let (y, extra) = layer(b, normal)?;
        let y = dropout::dropout(b, cx, "output", cx.config.dropout, y)?;
        Ok((b.add(x, y)?, extra))
    })
}

/// Hides keys that are padding, or, where rows hold several examples, of another example than the query.
fn hidden_keys(
    b: &mut Builder,
    queries: Option<Value>,
    (real, keys): (Value, Option<Value>),
) -> Result<Value, BuildError> {
    match queries.zip(keys) {
        Some((queries, keys)) => attention::hide_others(b, queries, keys),
        None => attention::hide_padding(b, real),
    }
}

/// Position bias, with the causal mask in the decoder: `f32[heads, length, length]`.
fn self_bias(b: &mut Builder, cx: &Context, side: Side, inputs: Inputs) -> Result<Value, BuildError> {
    let length = b.shape(inputs.x)[1];
    let bias = position::relative_bias(b, cx, side.sight(), length)?;
    if side == Side::Encoder {
        return Ok(bias);
    }
    let mask = attention::causal_mask(b, length)?;
    let shape = b.shape(bias);
    let mask = b.broadcast_in_dim(mask, &shape, &[1, 2])?;
    b.add(bias, mask)
}
