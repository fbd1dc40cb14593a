//! The output head and its loss.

use super::{Context, Params};
use crate::build::{BuildError, Builder, ScanInputs};
use crate::config::{LossConfig, ModelConfig};
use crate::ir::{DType, Direction, Value};

/// Logits are made in blocks of at most so many bytes, so that `[tokens, vocabulary]` never stands in memory whole.
const BLOCK_BYTES: usize = 128 << 20;

pub fn declare(params: &mut Params, config: &ModelConfig) {
    if !config.tie_embeddings {
        params.matrix("head", [config.vocab_size, config.d_model], config.init_scale);
    }
}

/// The head's matrix `[vocabulary, d_model]` and what the hidden states are multiplied with before it: tied heads scale by
/// `d_model^-0.5`.
fn head(b: &mut Builder, cx: &Context) -> Result<(Value, f64), BuildError> {
    let (path, scale) = match cx.config.tie_embeddings {
        true => ("shared/embedding", (cx.config.d_model as f64).powf(-0.5)),
        false => ("head", 1.0),
    };
    let weight = cx.weights.path(path)?;
    Ok((b.convert(weight, cx.dtype())?, scale))
}

/// Logits `f32[batch, length, vocabulary]` of hidden states `[batch, length, d_model]`.
pub fn logits(b: &mut Builder, cx: &Context, hidden: Value) -> Result<Value, BuildError> {
    let (head, scale) = head(b, cx)?;
    let hidden = b.mul_scalar(hidden, scale)?;
    b.einsum_into("bld,vd->blv", hidden, head, DType::F32, Default::default())
}

/// Sums over the tokens of a batch: `f32` scalars where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub struct TokenLoss {
    /// Cross entropy (with label smoothing) plus the z-loss with its coefficient; the only one with a derivative.
    pub objective: Value,
    /// Cross entropy of the targets themselves.
    pub cross_entropy: Value,
    /// `logsumexp(logits)^2`, without its coefficient.
    pub z_loss: Value,
    /// Tokens whose greatest logit is the target's.
    pub correct: Value,
    /// `f32[batch, length]`: the weight of each token of which that is so, 0 elsewhere.
    pub hits: Value,
}

/// The loss of predicting `targets s32[batch, length]` from `hidden [batch, length, d_model]`, each token times its weight
/// `f32[batch, length]`.
///
/// Logits are made in blocks of tokens; the derivative with respect to hidden states and head is computed beside the loss and
/// kept instead of the logits.
pub fn token_loss(
    b: &mut Builder,
    cx: &Context,
    loss: LossConfig,
    (hidden, targets, weights): (Value, Value, Value),
) -> Result<TokenLoss, BuildError> {
    let (head, scale) = head(b, cx)?;
    let hidden = b.mul_scalar(hidden, scale)?;
    let shape = b.shape(targets);
    let tokens = b.ty(targets).elements();
    let blocks = num_blocks(tokens, cx.config.vocab_size);
    let hidden = b.reshape(hidden, &[blocks, tokens / blocks, cx.config.d_model])?;
    let targets = b.reshape(targets, &[blocks, tokens / blocks])?;
    let weights = b.reshape(weights, &[blocks, tokens / blocks])?;
    let results = b.custom_vjp(
        "token_loss",
        &[hidden, head, targets, weights],
        |b, x| {
            let Block { results, d_hidden, d_head } = over_blocks(b, loss, [x[0], x[1], x[2], x[3]])?;
            Ok((results, vec![d_hidden, d_head]))
        },
        |b, args| {
            let [.., d_hidden, d_head] = args.outputs else {
                return Err(BuildError::Invalid("internal: token_loss lost its residuals".into()));
            };
            let objective = args.cotangents[0];
            let hidden = rescale(b, *d_hidden, objective)?;
            let head = rescale(b, *d_head, objective)?;
            // Token weights come from the data.
            let none = b.full_like(args.inputs[3], 0.0)?;
            Ok(vec![hidden, head, none])
        },
    )?;
    let metrics: Vec<Value> = results[1..].iter().map(|&m| b.stop_gradient(m)).collect::<Result<_, _>>()?;
    Ok(TokenLoss {
        objective: results[0],
        cross_entropy: metrics[0],
        z_loss: metrics[1],
        correct: metrics[2],
        hits: b.reshape(metrics[3], &shape)?,
    })
}

/// `x * scalar` in the element type of `x`.
fn rescale(b: &mut Builder, x: Value, scalar: Value) -> Result<Value, BuildError> {
    let dtype = b.dtype(x);
    let scalar = b.convert(scalar, dtype)?;
    b.scale(x, scalar)
}

/// The smallest number of equal blocks whose logits keep to [`BLOCK_BYTES`].
fn num_blocks(tokens: usize, vocabulary: usize) -> usize {
    let bytes = tokens.saturating_mul(vocabulary).saturating_mul(DType::F32.size_bytes());
    (bytes.div_ceil(BLOCK_BYTES).max(1)..=tokens).find(|n| tokens.is_multiple_of(*n)).unwrap_or(1)
}

/// What one or all blocks give.
struct Block {
    /// The four sums, then the hits per token.
    results: Vec<Value>,
    /// Derivative of the objective with respect to the hidden states and to the head.
    d_hidden: Value,
    d_head: Value,
}

/// All blocks; the derivatives have the element types of hidden states and head.
///
/// Inputs: hidden `[blocks, tokens, d_model]`, head `[vocabulary, d_model]`, targets and weights `[blocks, tokens]`.
fn over_blocks(
    b: &mut Builder,
    loss: LossConfig,
    [hidden, head, targets, weights]: [Value; 4],
) -> Result<Block, BuildError> {
    let head_dtype = b.dtype(head);
    let shape = b.shape(hidden);
    if shape[0] == 1 {
        let flat = b.reshape(hidden, &shape[1..])?;
        let targets = b.reshape(targets, &shape[1..2])?;
        let weights = b.reshape(weights, &shape[1..2])?;
        let Block { results, d_hidden, d_head } = block(b, loss, [flat, head, targets, weights])?;
        let d_hidden = b.reshape(d_hidden, &shape)?;
        return Ok(Block { results, d_hidden, d_head: b.convert(d_head, head_dtype)? });
    }
    let zero = b.scalar(DType::F32, 0.0)?;
    let d_head = b.ty(head).with_dtype(DType::F32);
    let d_head = b.zeros(&d_head)?;
    let inputs = ScanInputs {
        consts: &[head],
        carry: &[zero, zero, zero, zero, d_head],
        xs: &[hidden, targets, weights],
        ..Default::default()
    };
    let (mut carry, ys) = b.scan(inputs, |b, consts, carry, x| {
        let Block { results, d_hidden, d_head } = block(b, loss, [x[0], consts[0], x[1], x[2]])?;
        let (sums, hits) = results.split_at(4);
        let terms = [sums, &[d_head]].concat();
        let carry = carry.iter().zip(terms).map(|(&c, t)| b.add(c, t)).collect::<Result<_, _>>()?;
        Ok((carry, vec![d_hidden, hits[0]]))
    })?;
    let d_head = carry.split_off(4)[0];
    carry.push(ys[1]);
    Ok(Block { results: carry, d_hidden: ys[0], d_head: b.convert(d_head, head_dtype)? })
}

/// One block of hidden states `[tokens, d_model]`; the derivative by the head is `f32`.
fn block(
    b: &mut Builder,
    loss: LossConfig,
    [hidden, head, targets, weights]: [Value; 4],
) -> Result<Block, BuildError> {
    let logits = b.einsum_into("td,vd->tv", hidden, head, DType::F32, Default::default())?;
    let shape = b.shape(logits);
    let max = b.reduce(logits, &[1], crate::ir::Reducer::Max)?;
    let wide_max = b.unreduce(max, &shape, &[1])?;
    let shifted = b.sub(logits, wide_max)?;
    let exp = b.exp(shifted)?;
    let sum = b.sum(exp, &[1])?;
    let log = b.log(sum)?;
    let lse = b.add(log, max)?; // [tokens]
    let target = target_logit(b, logits, targets)?; // [tokens]

    let cross_entropy = b.sub(lse, target)?;
    let z = b.square(lse)?;
    let correct = b.compare(Direction::Ge, target, max)?;
    let correct = b.convert(correct, DType::F32)?;
    let smoothed = smooth(b, loss.label_smoothing, logits, [lse, target])?;
    let penalty = b.mul_scalar(z, loss.z_loss)?;
    let objective = b.add(smoothed, penalty)?;
    let hits = b.mul(correct, weights)?;
    let mut results = vec![];
    for value in [objective, cross_entropy, z] {
        let weighted = b.mul(value, weights)?;
        results.push(b.sum_all(weighted)?);
    }
    results.extend([b.sum_all(hits)?, hits]);

    // d objective / d logits = w (softmax (1 + 2 c lse) - expected)
    let grow = b.mul_scalar(lse, 2.0 * loss.z_loss)?;
    let grow = b.add_scalar(grow, 1.0)?;
    let grow = b.mul(grow, weights)?;
    let factor = b.div(grow, sum)?;
    let factor = b.unreduce(factor, &shape, &[1])?;
    let softmax = b.mul(exp, factor)?;
    let expected = expected(b, loss.label_smoothing, &shape, targets)?;
    let weights = b.unreduce(weights, &shape, &[1])?;
    let expected = b.mul(expected, weights)?;
    let d_logits = b.sub(softmax, expected)?;
    let dtype = b.dtype(hidden);
    let d_logits = b.convert(d_logits, dtype)?;
    let d_hidden = b.einsum("tv,vd->td", d_logits, head)?;
    let d_head = b.einsum_into("tv,td->vd", d_logits, hidden, DType::F32, Default::default())?;
    Ok(Block { results, d_hidden, d_head })
}

/// The logit of each target: `[tokens]`.
fn target_logit(b: &mut Builder, logits: Value, targets: Value) -> Result<Value, BuildError> {
    let tokens = b.ty(targets).elements();
    let index = b.reshape(targets, &[tokens, 1])?;
    let picked = b.take_rows_grouped(logits, index)?;
    b.reshape(picked, &[tokens])
}

/// Cross entropy against the targets mixed with the uniform distribution.
fn smooth(
    b: &mut Builder,
    smoothing: f64,
    logits: Value,
    [lse, target]: [Value; 2],
) -> Result<Value, BuildError> {
    if smoothing == 0.0 {
        return b.sub(lse, target);
    }
    let mean = b.mean(logits, &[1])?;
    let mean = b.mul_scalar(mean, smoothing)?;
    let target = b.mul_scalar(target, 1.0 - smoothing)?;
    let expected = b.add(mean, target)?;
    b.sub(lse, expected)
}

/// The distribution that the loss asks for: `f32[tokens, vocabulary]`.
fn expected(b: &mut Builder, smoothing: f64, shape: &[usize], targets: Value) -> Result<Value, BuildError> {
    let one_hot = b.one_hot(targets, shape[1], DType::F32)?;
    if smoothing == 0.0 {
        return Ok(one_hot);
    }
    let scaled = b.mul_scalar(one_hot, 1.0 - smoothing)?;
    b.add_scalar(scaled, smoothing / shape[1] as f64)
}
