//! Which expert each token goes to, and with what weight. Float32 throughout (selective precision).

use crate::build::{BuildError, Builder};
use crate::config::{Exploration, Router};
use crate::ir::{DType, Direction, Precision, Value};
use crate::layers::{Context, Init, Params, dropout};

/// Deviation of the router's initial weights.
const INIT_DEVIATION: f64 = 2e-2;

pub fn declare(params: &mut Params, d_model: usize, num_experts: usize) {
    let init = Init::TruncatedNormal(INIT_DEVIATION);
    params.add("router", &[d_model, num_experts], init).factored = false;
}

/// The decisions of one layer. G groups, S tokens per group, E experts, k choices per token.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// `s32[G, S, k]`, best first.
    pub expert_index: Value,
    /// `f32[G, S, k]`: the weight of the expert's output.
    pub gate: Value,
    /// `s32[G, S, k]`: the place in the expert's buffer, from 0, in order of the tokens, choices before tokens.
    pub position: Value,
    /// `pred[G, S, k]`: whether the place is below the capacity.
    pub kept: Value,
    /// Scalar `f32`: `E * sum(f * P)`, mean over groups (Switch Transformer, equation 4, without the coefficient).
    pub load_balancing_loss: Value,
    /// Scalar `f32`: mean squared `logsumexp` of the router logits.
    pub z_loss: Value,
    /// `f32[E]`: share of the choices that went to each expert, before the capacity.
    pub load: Value,
    /// Scalar `f32`: share of the tokens that no expert took.
    pub dropped: Value,
    /// Scalar `f32`: mean entropy of the router probabilities, in nats.
    pub entropy: Value,
}

/// Routes `tokens [G, S, d_model]`; `real f32[G, S]` is 1 for tokens and 0 for padding, which takes no place and counts in no
/// loss.
pub fn route(
    b: &mut Builder,
    cx: &Context,
    tokens: Value,
    real: Value,
    capacity: usize,
) -> Result<Routing, BuildError> {
    let weight = cx.weights.get(b, "router")?;
    let inputs = b.convert(tokens, DType::F32)?;
    let Router::Switch { exploration } = cx.config.moe.router;
    let inputs = explore(b, cx, exploration, inputs)?;
    let logits = b.einsum_into("gsd,de->gse", inputs, weight, DType::F32, Precision::Highest)?;
    let logits = b.name(logits, "router_logits", &["groups", "tokens", "experts"]);
    top_1(b, logits, real, capacity)
}

fn explore(
    b: &mut Builder,
    cx: &Context,
    exploration: Exploration,
    inputs: Value,
) -> Result<Value, BuildError> {
    match exploration {
        Exploration::Argmax => Ok(inputs),
        Exploration::InputJitter { epsilon } => dropout::jitter(b, cx, epsilon, inputs),
    }
}

/// Switch routing of `logits f32[G, S, E]`: the most probable expert, its probability as gate (section 2.1).
pub fn top_1(b: &mut Builder, logits: Value, real: Value, capacity: usize) -> Result<Routing, BuildError> {
    let shape = b.shape(logits);
    let [groups, size, experts] = [shape[0], shape[1], shape[2]];
    let probs = b.softmax(logits)?;
    let probs = b.name(probs, "router_probs", &["groups", "tokens", "experts"]);
    let choice = b.argmax(probs)?; // [G, S]
    let one_hot = b.one_hot(choice, experts, DType::F32)?;
    let weighted = b.mul(one_hot, probs)?;
    let gate = b.sum(weighted, &[2])?; // [G, S]
    let mask = b.broadcast_in_dim(real, &shape, &[0, 1])?;
    let chosen = b.mul(one_hot, mask)?;

    // Exact in float32: counts stay below 2^24.
    let before = b.cumsum(chosen, 1, true, false)?;
    let own = b.mul(before, chosen)?;
    let position = b.sum(own, &[2])?;
    let position = b.convert(position, DType::S32)?;
    let fits = b.compare_scalar(Direction::Lt, position, capacity as f64)?;
    let is_real = b.compare_scalar(Direction::Gt, real, 0.0)?;
    let kept = b.and(fits, is_real)?;

    let counts = Counts::new(b, real)?;
    let (load_balancing_loss, load) = balance(b, &counts, chosen, probs, mask)?;
    let z_loss = z_loss(b, &counts, logits, real)?;
    let entropy = entropy(b, &counts, probs, mask)?;
    let kept_tokens = b.convert(kept, DType::F32)?;
    let kept_tokens = b.sum_all(kept_tokens)?;
    let kept_share = b.div(kept_tokens, counts.total)?;
    let minus = b.neg(kept_share)?;
    let dropped = b.add_scalar(minus, 1.0)?;
    let one = [groups, size, 1];
    let routing = Routing {
        expert_index: b.reshape(choice, &one)?,
        gate: b.reshape(gate, &one)?,
        position: b.reshape(position, &one)?,
        kept: b.reshape(kept, &one)?,
        load_balancing_loss,
        z_loss,
        load: b.stop_gradient(load)?,
        dropped: b.stop_gradient(dropped)?,
        entropy: b.stop_gradient(entropy)?,
    };
    Ok(routing)
}

/// Numbers of real tokens, at least 1.
struct Counts {
    /// `f32[G]`.
    per_group: Value,
    /// Scalar.
    total: Value,
}

impl Counts {
    fn new(b: &mut Builder, real: Value) -> Result<Self, BuildError> {
        let per_group = b.sum(real, &[1])?;
        let total = b.sum_all(real)?;
        let at_least_one = |b: &mut Builder, x| {
            let one = b.full_like(x, 1.0)?;
            b.max(x, one)
        };
        Ok(Self { per_group: at_least_one(b, per_group)?, total: at_least_one(b, total)? })
    }
}

/// The load-balancing loss and the load per expert.
fn balance(
    b: &mut Builder,
    counts: &Counts,
    chosen: Value,
    probs: Value,
    mask: Value,
) -> Result<(Value, Value), BuildError> {
    let shape = b.shape(probs);
    let [groups, experts] = [shape[0], shape[2]];
    let per_group = b.broadcast_in_dim(counts.per_group, &[groups, experts], &[0])?;
    let chosen = b.stop_gradient(chosen)?;
    let tokens = b.sum(chosen, &[1])?; // [G, E]
    let fraction = b.div(tokens, per_group)?;
    let masked = b.mul(probs, mask)?;
    let probability = b.sum(masked, &[1])?;
    let probability = b.div(probability, per_group)?;
    let product = b.mul(fraction, probability)?;
    let sum = b.sum_all(product)?;
    let loss = b.mul_scalar(sum, experts as f64 / groups as f64)?;
    let load = b.sum(tokens, &[0])?;
    let total = b.splat(counts.total, load)?;
    Ok((loss, b.div(load, total)?))
}

fn z_loss(b: &mut Builder, counts: &Counts, logits: Value, real: Value) -> Result<Value, BuildError> {
    let lse = b.logsumexp(logits)?;
    let square = b.square(lse)?;
    let masked = b.mul(square, real)?;
    let sum = b.sum_all(masked)?;
    b.div(sum, counts.total)
}

fn entropy(b: &mut Builder, counts: &Counts, probs: Value, mask: Value) -> Result<Value, BuildError> {
    let probs = b.stop_gradient(probs)?;
    let tiny = b.full_like(probs, f64::from(f32::MIN_POSITIVE))?;
    let safe = b.max(probs, tiny)?;
    let log = b.log(safe)?;
    let product = b.mul(probs, log)?;
    let masked = b.mul(product, mask)?;
    let sum = b.sum_all(masked)?;
    let mean = b.div(sum, counts.total)?;
    b.neg(mean)
}
