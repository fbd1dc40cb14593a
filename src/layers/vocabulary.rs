//! The output head and its loss.

use super::{Context, Params, embedding};
use crate::build::{BuildError, Builder, ScanInputs};
use crate::config::{LossConfig, ModelConfig};
use crate::ir::{DType, Direction, Reducer, Value};
use crate::shard::{Mesh, Partition};

/// The name of a head of its own.
pub const HEAD: &str = "head";

/// Logits are made in blocks of at most so many bytes, so that `[tokens, vocabulary]` never stands in memory whole.
const BLOCK_BYTES: usize = 128 << 20;
/// Numbers that are summed over tokens.
const NUM_SUMS: usize = 5;

pub fn declare(params: &mut Params, config: &ModelConfig) {
    if !config.tie_embeddings {
        params.matrix(HEAD, [config.vocab_size, config.d_model], config.init_scale);
    }
}

/// Whether the parameter of this name has a row for each word: the embedding, and a head of its own.
pub fn has_words(name: &str) -> bool {
    [embedding::TABLE, HEAD].contains(&name)
}

/// The head's matrix `[vocabulary, d_model]`, of the words that this device has, and what the hidden states are multiplied with before it: tied heads scale by
/// `d_model^-0.5`.
fn head(b: &mut Builder, cx: &Context) -> Result<(Value, f64), BuildError> {
    let (path, scale) = match cx.config.tie_embeddings {
        true => (embedding::TABLE, (cx.config.d_model as f64).powf(-0.5)),
        false => (HEAD, 1.0),
    };
    Ok((cx.weights.path(b, path, cx.dtype())?, scale))
}

/// Logits `f32[batch, length, vocabulary]` of hidden states `[batch, length, d_model]`.
pub fn logits(b: &mut Builder, cx: &Context, hidden: Value) -> Result<Value, BuildError> {
    let (head, scale) = head(b, cx)?;
    let hidden = b.mul_scalar(hidden, scale)?;
    let logits = b.einsum_into("bld,vd->blv", hidden, head, DType::F32, Default::default())?;
    cx.mesh.gather(b, logits, 2, cx.mesh.vocabulary())
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
    /// Cross entropy of the teacher's predictions, without its factors; 0 without a teacher.
    pub soft_cross_entropy: Value,
    /// `f32[batch, length]`: the weight of each token of which that is so, 0 elsewhere.
    pub hits: Value,
}

/// A teacher's predictions of the same tokens, by which a student learns beside the targets.
#[derive(Clone, Copy, Debug)]
pub struct Teacher {
    /// `[batch, length, d_model]` of the teacher, as its head takes it.
    pub hidden: Value,
    /// `[vocabulary, d_model]` of the teacher.
    pub head: Value,
    /// `f32[]`: how much of the loss is the teacher's; the rest is that of the targets.
    pub share: Value,
    /// Logits of both are divided by it.
    pub temperature: f64,
}

/// The teacher's part of a [`Teacher`], from its own surroundings and last states.
pub fn teacher(b: &mut Builder, cx: &Context, hidden: Value) -> Result<[Value; 2], BuildError> {
    let (head, scale) = head(b, cx)?;
    Ok([b.mul_scalar(hidden, scale)?, head])
}

/// The loss of predicting `targets s32[batch, length]` from `hidden [batch, length, d_model]`, each token times its weight
/// `f32[batch, length]`.
///
/// With a teacher, whose share is a and whose temperature is T, the cross entropy c of the targets becomes
/// `(1 - a) c + a T^2 sum(-q log p)`, with q the softmax of the teacher's logits over T and p that of the student's over T.
///
/// Logits are made in blocks of tokens; the derivative with respect to hidden states and head is computed beside the loss and
/// kept instead of the logits. Where words are split over devices, each has the logits of its own, and its part of the derivative
/// by the hidden states; maxima and sums over words are exchanged. Source of the mixed loss: Hinton et al. (2015), section 2; Switch Transformer, section 4.2.
pub fn token_loss(
    b: &mut Builder,
    cx: &Context,
    loss: LossConfig,
    (hidden, targets, weights): (Value, Value, Value),
    teacher: Option<Teacher>,
) -> Result<TokenLoss, BuildError> {
    let (head, scale) = head(b, cx)?;
    let hidden = b.mul_scalar(hidden, scale)?;
    let shape = b.shape(targets);
    let tokens = b.ty(targets).elements();
    let words = b.shape(head)[0];
    let blocks = num_blocks(tokens, words);
    let targets = embedding::places(b, cx.mesh, targets, words)?;
    let rows = |b: &mut Builder, x: Value| {
        let width: Vec<usize> = b.shape(x).get(2..).unwrap_or_default().to_vec();
        b.reshape(x, &[&[blocks, tokens / blocks][..], &width].concat())
    };
    let mut operands = vec![rows(b, hidden)?, head, rows(b, targets)?, rows(b, weights)?];
    if let Some(teacher) = &teacher {
        let head = own_words(b, cx.mesh, teacher.head)?;
        operands.extend([rows(b, teacher.hidden)?, head, teacher.share]);
    }
    let loss = Loss { config: loss, mesh: cx.mesh };
    let temperature = teacher.map(|teacher| teacher.temperature);
    let results = b.custom_vjp(
        "token_loss",
        &operands,
        |b, x| {
            let Block { results, d_hidden, d_head } = over_blocks(b, loss, Operands::new(x, temperature)?)?;
            Ok((results, vec![d_hidden, d_head]))
        },
        |b, args| {
            let [.., d_hidden, d_head] = args.outputs else {
                return Err(BuildError::Invalid("internal: token_loss lost its residuals".into()));
            };
            // Each device's objective is made from the logits of all.
            let objective = loss.mesh.sum(b, args.cotangents[0], loss.mesh.vocabulary())?;
            let mut cotangents = vec![rescale(b, *d_hidden, objective)?, rescale(b, *d_head, objective)?];
            // Token weights come from the data, and the teacher learns nothing.
            for &input in &args.inputs[3..] {
                cotangents.push(b.full_like(input, 0.0)?);
            }
            Ok(cotangents)
        },
    )?;
    let metrics: Vec<Value> = results[1..].iter().map(|&m| b.stop_gradient(m)).collect::<Result<_, _>>()?;
    Ok(TokenLoss {
        objective: results[0],
        cross_entropy: metrics[0],
        z_loss: metrics[1],
        correct: metrics[2],
        soft_cross_entropy: metrics[3],
        hits: b.reshape(metrics[4], &shape)?,
    })
}

/// What of a head that is whole here belongs to the words that this device has of its own.
fn own_words(b: &mut Builder, mesh: Mesh, head: Value) -> Result<Value, BuildError> {
    let parts = mesh.parts(mesh.vocabulary());
    if parts == 1 {
        return Ok(head);
    }
    let [words, width] = [b.shape(head)[0] / parts, b.shape(head)[1]];
    let partition = Partition::whole().split(0, mesh.vocabulary());
    let zero = b.scalar(DType::U32, 0.0)?;
    let mut starts = [zero; 2];
    for (dim, start) in mesh.window(b, &[words, width], &partition)?.starts {
        starts[dim] = start;
    }
    b.dynamic_slice(head, &starts, &[words, width])
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

/// How the loss is made, and on which devices.
#[derive(Clone, Copy)]
struct Loss {
    config: LossConfig,
    mesh: Mesh,
}

/// What one or all blocks give.
struct Block {
    /// The five sums, then the hits per token.
    results: Vec<Value>,
    /// Derivative of the objective with respect to the hidden states and to the head.
    d_hidden: Value,
    d_head: Value,
}

/// What a loss is made from: hidden states `[blocks, tokens, d_model]`, head `[vocabulary, d_model]`, targets and weights
/// `[blocks, tokens]`; of one block without the leading axis. Targets are places in the head of this device, if it has the word.
#[derive(Clone, Copy)]
struct Operands {
    hidden: Value,
    head: Value,
    targets: Value,
    weights: Value,
    teacher: Option<Teacher>,
}

impl Operands {
    /// From values in the order of [`Operands::rows`] and the heads between, as `token_loss` lays them out.
    fn new(values: &[Value], temperature: Option<f64>) -> Result<Self, BuildError> {
        let (own, teacher) = values.split_at(values.len().min(4));
        let teacher = match (teacher, temperature) {
            (&[hidden, head, share], Some(temperature)) => Some(Teacher { hidden, head, share, temperature }),
            _ => None,
        };
        match *own {
            [hidden, head, targets, weights] => Ok(Self { hidden, head, targets, weights, teacher }),
            _ => Err(BuildError::Invalid("internal: token_loss takes four operands".into())),
        }
    }

    /// Those that have a row per token.
    fn rows(&self) -> Vec<Value> {
        let teacher = self.teacher.map(|teacher| teacher.hidden);
        [self.hidden, self.targets, self.weights].into_iter().chain(teacher).collect()
    }

    /// Those of one block: its rows, and what all blocks share.
    fn block(&self, rows: &[Value], shared: &[Value]) -> Self {
        let teacher = self.teacher.map(|teacher| Teacher {
            hidden: rows[3],
            head: shared[1],
            share: shared[2],
            ..teacher
        });
        Self { hidden: rows[0], head: shared[0], targets: rows[1], weights: rows[2], teacher }
    }

    fn shared(&self) -> Vec<Value> {
        let teacher = self.teacher.map(|teacher| [teacher.head, teacher.share]);
        [self.head].into_iter().chain(teacher.into_iter().flatten()).collect()
    }
}

/// All blocks; the derivatives have the element types of hidden states and head.
fn over_blocks(b: &mut Builder, loss: Loss, operands: Operands) -> Result<Block, BuildError> {
    let head_dtype = b.dtype(operands.head);
    let shape = b.shape(operands.hidden);
    let (rows, shared) = (operands.rows(), operands.shared());
    if shape[0] == 1 {
        let flat = |&x: &Value| {
            let shape = b.shape(x);
            b.reshape(x, &shape[1..])
        };
        let rows: Vec<Value> = rows.iter().map(flat).collect::<Result<_, _>>()?;
        let Block { results, d_hidden, d_head } = block(b, loss, operands.block(&rows, &shared))?;
        let d_hidden = b.reshape(d_hidden, &shape)?;
        return Ok(Block { results, d_hidden, d_head: b.convert(d_head, head_dtype)? });
    }
    let zero = b.scalar(DType::F32, 0.0)?;
    let d_head = b.ty(operands.head).with_dtype(DType::F32);
    let carry = [&[zero; NUM_SUMS][..], &[b.zeros(&d_head)?]].concat();
    let inputs = ScanInputs { consts: &shared, carry: &carry, xs: &rows, ..Default::default() };
    let (mut carry, ys) = b.scan(inputs, |b, shared, carry, rows| {
        let Block { results, d_hidden, d_head } = block(b, loss, operands.block(rows, shared))?;
        let (sums, hits) = results.split_at(NUM_SUMS);
        let terms = [sums, &[d_head]].concat();
        let carry = carry.iter().zip(terms).map(|(&c, t)| b.add(c, t)).collect::<Result<_, _>>()?;
        Ok((carry, vec![d_hidden, hits[0]]))
    })?;
    let d_head = carry.split_off(NUM_SUMS)[0];
    carry.push(ys[1]);
    Ok(Block { results: carry, d_hidden: ys[0], d_head: b.convert(d_head, head_dtype)? })
}

/// One block; the derivative by the head is `f32`.
fn block(b: &mut Builder, loss: Loss, operands: Operands) -> Result<Block, BuildError> {
    let Operands { hidden, head, targets, weights, teacher } = operands;
    let Loss { config: loss, mesh } = loss;
    let logits = b.einsum_into("td,vd->tv", hidden, head, DType::F32, Default::default())?;
    let shape = b.shape(logits);
    let Softmax { max, exp, sum, lse } = softmax(b, mesh, logits)?;
    let target = target_logit(b, mesh, logits, targets)?; // [tokens]

    let cross_entropy = b.sub(lse, target)?;
    let z = b.square(lse)?;
    let correct = b.compare(Direction::Ge, target, max)?;
    let correct = b.convert(correct, DType::F32)?;
    let smoothed = smooth(b, (loss.label_smoothing, mesh), logits, [lse, target])?;
    let soft = teacher.map(|teacher| soften(b, mesh, logits, teacher)).transpose()?;
    let mixed = match &soft {
        Some(soft) => soft.mix(b, smoothed)?,
        None => smoothed,
    };
    let penalty = b.mul_scalar(z, loss.z_loss)?;
    let objective = b.add(mixed, penalty)?;
    let soft_cross_entropy = match &soft {
        Some(soft) => soft.cross_entropy,
        None => b.full_like(lse, 0.0)?,
    };
    let hits = b.mul(correct, weights)?;
    let mut results = vec![];
    for value in [objective, cross_entropy, z, correct, soft_cross_entropy] {
        let weighted = b.mul(value, weights)?;
        results.push(b.sum_all(weighted)?);
    }
    results.push(hits);

    // d objective / d logits = w (softmax (h + 2 c lse) - h expected) + w soft, where h is the share of the targets: 1, or 1 - a.
    let hard = match &soft {
        Some(soft) => b.splat(soft.hard, weights)?,
        None => b.full_like(weights, 1.0)?,
    };
    let grow = b.mul_scalar(lse, 2.0 * loss.z_loss)?;
    let grow = b.add(grow, hard)?;
    let grow = b.mul(grow, weights)?;
    let factor = b.div(grow, sum)?;
    let factor = b.unreduce(factor, &shape, &[1])?;
    let softmax = b.mul(exp, factor)?;
    let expected = expected(b, (loss.label_smoothing, mesh), &shape, targets)?;
    let share = b.mul(hard, weights)?;
    let share = b.unreduce(share, &shape, &[1])?;
    let expected = b.mul(expected, share)?;
    let mut d_logits = b.sub(softmax, expected)?;
    if let Some(soft) = &soft {
        let weights = b.unreduce(weights, &shape, &[1])?;
        let d_soft = b.mul(soft.d_logits, weights)?;
        d_logits = b.add(d_logits, d_soft)?;
    }
    let dtype = b.dtype(hidden);
    let d_logits = b.convert(d_logits, dtype)?;
    let d_hidden = b.einsum("tv,vd->td", d_logits, head)?;
    let d_head = b.einsum_into("tv,td->vd", d_logits, hidden, DType::F32, Default::default())?;
    Ok(Block { results, d_hidden, d_head })
}

/// The softmax over all words of logits `[tokens, vocabulary]`, of the words that this device has.
struct Softmax {
    /// `[tokens]`.
    max: Value,
    /// `[tokens, vocabulary]`: `exp(logits - max)`.
    exp: Value,
    /// `[tokens]`: of that, and its logarithm plus the maximum.
    sum: Value,
    lse: Value,
}

fn softmax(b: &mut Builder, mesh: Mesh, logits: Value) -> Result<Softmax, BuildError> {
    let shape = b.shape(logits);
    let max = b.reduce(logits, &[1], Reducer::Max)?;
    let max = mesh.max(b, max, mesh.vocabulary())?;
    let wide_max = b.unreduce(max, &shape, &[1])?;
    let shifted = b.sub(logits, wide_max)?;
    let exp = b.exp(shifted)?;
    let sum = b.sum(exp, &[1])?;
    let sum = mesh.sum(b, sum, mesh.vocabulary())?;
    let log = b.log(sum)?;
    let lse = b.add(log, max)?;
    Ok(Softmax { max, exp, sum, lse })
}

impl Softmax {
    /// `[tokens, vocabulary]`.
    fn probabilities(&self, b: &mut Builder) -> Result<Value, BuildError> {
        let shape = b.shape(self.exp);
        let sum = b.unreduce(self.sum, &shape, &[1])?;
        b.div(self.exp, sum)
    }
}

/// The teacher's part of a loss.
struct Soft {
    /// `1 - a`, `f32[]`.
    hard: Value,
    /// `a T^2`, `f32[]`.
    factor: Value,
    /// `f32[tokens]`, without factor.
    cross_entropy: Value,
    /// `f32[tokens, vocabulary]`: derivative of `a T^2` times the cross entropy.
    d_logits: Value,
}

impl Soft {
    /// `(1 - a) x + a T^2 cross_entropy`.
    fn mix(&self, b: &mut Builder, x: Value) -> Result<Value, BuildError> {
        let hard = b.scale(x, self.hard)?;
        let soft = b.scale(self.cross_entropy, self.factor)?;
        b.add(hard, soft)
    }
}

/// The cross entropy of the teacher's distribution and the student's, both at the temperature.
fn soften(b: &mut Builder, mesh: Mesh, logits: Value, teacher: Teacher) -> Result<Soft, BuildError> {
    let t = teacher.temperature;
    let goal = b.einsum_into("td,vd->tv", teacher.hidden, teacher.head, DType::F32, Default::default())?;
    let goal = b.mul_scalar(goal, 1.0 / t)?;
    let goal = softmax(b, mesh, goal)?.probabilities(b)?;
    let warm = b.mul_scalar(logits, 1.0 / t)?;
    let own = softmax(b, mesh, warm)?;
    let product = b.mul(goal, warm)?;
    let mean = b.sum(product, &[1])?;
    let mean = mesh.sum(b, mean, mesh.vocabulary())?;
    let cross_entropy = b.sub(own.lse, mean)?;
    let own = own.probabilities(b)?;
    let d_logits = b.sub(own, goal)?;
    let slope = b.mul_scalar(teacher.share, t)?;
    let minus = b.neg(teacher.share)?;
    Ok(Soft {
        hard: b.add_scalar(minus, 1.0)?,
        factor: b.mul_scalar(teacher.share, t * t)?,
        cross_entropy,
        d_logits: b.scale(d_logits, slope)?,
    })
}

/// The logit of each target: `[tokens]`.
fn target_logit(b: &mut Builder, mesh: Mesh, logits: Value, targets: Value) -> Result<Value, BuildError> {
    let tokens = b.ty(targets).elements();
    let index = b.reshape(targets, &[tokens, 1])?;
    let picked = b.take_rows_grouped(logits, index)?;
    let picked = b.reshape(picked, &[tokens])?;
    if mesh.parts(mesh.vocabulary()) == 1 {
        return Ok(picked);
    }
    // One device has the word; others have picked at an end of theirs.
    let words = b.shape(logits)[1];
    let here = embedding::inside(b, targets, words)?;
    let picked = b.mask(here, picked, 0.0)?;
    mesh.sum(b, picked, mesh.vocabulary())
}

/// Cross entropy against the targets mixed with the uniform distribution.
fn smooth(
    b: &mut Builder,
    (smoothing, mesh): (f64, Mesh),
    logits: Value,
    [lse, target]: [Value; 2],
) -> Result<Value, BuildError> {
    if smoothing == 0.0 {
        return b.sub(lse, target);
    }
    let mean = b.mean(logits, &[1])?;
    let mean = mesh.mean(b, mean, mesh.vocabulary())?;
    let mean = b.mul_scalar(mean, smoothing)?;
    let target = b.mul_scalar(target, 1.0 - smoothing)?;
    let expected = b.add(mean, target)?;
    b.sub(lse, expected)
}

/// The distribution that the loss asks for: `f32[tokens, vocabulary]`.
fn expected(
    b: &mut Builder,
    (smoothing, mesh): (f64, Mesh),
    shape: &[usize],
    targets: Value,
) -> Result<Value, BuildError> {
    let one_hot = b.one_hot(targets, shape[1], DType::F32)?;
    if smoothing == 0.0 {
        return Ok(one_hot);
    }
    let scaled = b.mul_scalar(one_hot, 1.0 - smoothing)?;
    let words = shape[1] * mesh.parts(mesh.vocabulary());
    b.add_scalar(scaled, smoothing / words as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{evaluate, evaluate_replicas};
    use crate::grad;
    use crate::ir::{Graph, Literal, TensorType};
    use crate::layers::Init;
    use crate::layers::{Phase, Weights};

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > tolerance);
        assert!(found.len() == expected.len() && !far, "found {found:?}, expected {expected:?}");
    }

    #[test]
    fn the_teachers_loss_is_the_cross_entropy_of_both_distributions_at_the_temperature() {
        // Student logits 0, ln 3 and teacher logits ln 3, 0, halved: p = 1 : sqrt 3, q = sqrt 3 : 1, over 1 + sqrt 3.
        let graph = Builder::graph(&[TensorType::new(DType::F32, [1, 2])], |b, x| {
            let hidden = b.constant(Literal::new([1, 1], &[3f32.ln()])?)?;
            let head = b.constant(Literal::new([2, 1], &[1f32, 0.0])?)?;
            let share = b.scalar(DType::F32, 0.25)?;
            let soft = soften(b, Mesh::default(), x[0], Teacher { hidden, head, share, temperature: 2.0 })?;
            let hard = b.constant(Literal::new([1], &[2f32])?)?;
            Ok(vec![soft.cross_entropy, soft.mix(b, hard)?, soft.d_logits])
        });
        let logits = Literal::new([1, 2], &[0f32, 3f32.ln()]).unwrap();
        let found: Vec<Vec<f64>> =
            evaluate(&graph.unwrap(), &[logits]).unwrap().iter().map(Literal::to_f64).collect();
        let (small, large) = (1.0 / (1.0 + 3f64.sqrt()), 3f64.sqrt() / (1.0 + 3f64.sqrt()));
        let cross_entropy = -(large * small.ln() + small * large.ln());
        assert_close(&found[0], &[cross_entropy], 1e-6);
        // 0.75 * 2 + 0.25 * 4 * cross entropy; slope 0.25 * 2 * (p - q).
        assert_close(&found[1], &[1.5 + cross_entropy], 1e-6);
        assert_close(&found[2], &[0.5 * (small - large), 0.5 * (large - small)], 1e-6);
    }

    const SHAPE: [usize; 3] = [1, 2, 3]; // two tokens, three features; four words
    const HIDDEN: [f32; 6] = [0.3, -0.8, 1.1, 0.2, 0.9, -0.4];

    fn head_of_four() -> Vec<f32> {
        (0..12).map(|i| (i as f32 * 0.7).sin()).collect()
    }

    /// From hidden states and the words of one device's head: a loss with everything in it, and its derivative by both.
    fn mixed_loss(mesh: Mesh) -> Graph {
        let config =
            ModelConfig { vocab_size: 4, d_model: 3, tie_embeddings: false, ..ModelConfig::default() };
        let loss = LossConfig { z_loss: 0.1, label_smoothing: 0.2 };
        let words = 4 / mesh.parts(mesh.vocabulary());
        let types = [TensorType::new(DType::F32, SHAPE), TensorType::new(DType::F32, [words, 3])];
        let graph = Builder::graph(&types, |b, x| {
            let mut params = Params::default();
            params.add("head", &b.shape(x[1]), Init::Constant(0.0));
            let defs = params.into_defs();
            let weights = Weights::new(mesh, defs.iter().zip([x[1]]));
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context { mesh, ..Context::alone(&config, Phase::Train, &weights, key) };
            let hidden = b.constant(Literal::new([1, 2, 1], &[1.5f32, -2.0])?)?;
            let head = b.constant(Literal::new([4, 1], &[0.5f32, -1.0, 0.25, 2.0])?)?;
            let share = b.scalar(DType::F32, 0.25)?;
            let teacher = Teacher { hidden, head, share, temperature: 3.0 };
            let targets = b.constant(Literal::new([1, 2], &[2i32, 1])?)?;
            let real = b.constant(Literal::new([1, 2], &[1f32, 1.0])?)?;
            let found = token_loss(b, &cx, loss, (x[0], targets, real), Some(teacher))?.objective;
            let grads = grad::gradients(b, found, x)?;
            Ok([vec![found], grads].concat())
        });
        graph.unwrap()
    }

    #[test]
    fn words_on_two_devices_give_the_loss_and_the_derivatives_of_one() {
        let head = head_of_four();
        let inputs = |rows: &[f32]| {
            [Literal::new(SHAPE, &HIDDEN).unwrap(), Literal::new([rows.len() / 3, 3], rows).unwrap()].to_vec()
        };
        let numbers = |values: &Vec<Literal>| values.iter().map(Literal::to_f64).collect::<Vec<_>>();
        let alone = numbers(&evaluate(&mixed_loss(Mesh::default()), &inputs(&head)).unwrap());
        let mesh = Mesh { model: 2, shard_vocabulary: true, ..Mesh::default() };
        let both = [inputs(&head[..6]), inputs(&head[6..])];
        let both: Vec<_> = evaluate_replicas(&mixed_loss(mesh), &both).unwrap().iter().map(numbers).collect();
        assert_close(&[both[0][0][0], both[1][0][0]], &[alone[0][0]; 2], 1e-5);
        // What is differentiated is the sum over both, which is twice the loss.
        let hidden: Vec<f64> = both[0][1].iter().zip(&both[1][1]).map(|(a, b)| (a + b) / 2.0).collect();
        assert_close(&hidden, &alone[1], 1e-5);
        let head: Vec<f64> = [&both[0][2][..], &both[1][2]].concat().iter().map(|x| x / 2.0).collect();
        assert_close(&head, &alone[2], 1e-5);
    }

    #[test]
    fn the_mixed_loss_has_the_derivative_that_differences_show() {
        let graph = mixed_loss(Mesh::default());
        let (hidden, head) = (HIDDEN, head_of_four());
        let run = |hidden: &[f32], head: &[f32]| -> Vec<Vec<f64>> {
            let inputs = [Literal::new(SHAPE, hidden).unwrap(), Literal::new([4, 3], head).unwrap()];
            evaluate(&graph, &inputs).unwrap().iter().map(Literal::to_f64).collect()
        };
        let found = run(&hidden, &head);
        const STEP: f32 = 0.01;
        let slope = |change: &dyn Fn(f32) -> f64| (change(STEP) - change(-STEP)) / f64::from(2.0 * STEP);
        for i in 0..6 {
            let moved = |step: f32| {
                let mut hidden = hidden;
                hidden[i] += step;
                run(&hidden, &head)[0][0]
            };
            // Differences of float32 losses near 3 over 0.02, and their third derivative.
            assert_close(&[found[1][i]], &[slope(&moved)], 2e-4);
        }
        for i in 0..12 {
            let moved = |step: f32| {
                let mut head = head.clone();
                head[i] += step;
                run(&hidden, &head)[0][0]
            };
            assert_close(&[found[2][i]], &[slope(&moved)], 2e-4);
        }
    }
}
