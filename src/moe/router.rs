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
    let probs = b.softmax(logits)?;
    let probs = b.name(probs, "router_probs", &["groups", "tokens", "experts"]);
    let mask = b.broadcast_in_dim(real, &shape, &[0, 1])?;
    let choice = choose(b, probs, (real, mask), capacity)?;
    let counts = Counts::new(b, real)?;
    let (load_balancing_loss, load) = balance(b, &counts, choice.one_hot, probs, mask)?;
    let z_loss = z_loss(b, &counts, logits, real)?;
    let entropy = entropy(b, &counts, probs, mask)?;
    let dropped = dropped_share(b, &counts, choice.kept)?;
    let one = [shape[0], shape[1], 1];
    Ok(Routing {
        expert_index: b.reshape(choice.index, &one)?,
        gate: b.reshape(choice.gate, &one)?,
        position: b.reshape(choice.position, &one)?,
        kept: b.reshape(choice.kept, &one)?,
        load_balancing_loss,
        z_loss,
        load: b.stop_gradient(load)?,
        dropped: b.stop_gradient(dropped)?,
        entropy: b.stop_gradient(entropy)?,
    })
}

/// One choice per token: all `[G, S]` but `one_hot f32[G, S, E]`, which is zero for padding.
struct Choice {
    index: Value,
    gate: Value,
    one_hot: Value,
    position: Value,
    kept: Value,
}

/// The most probable expert of each token, its place in order of the tokens, and whether that is below the capacity.
fn choose(
    b: &mut Builder,
    probs: Value,
    (real, mask): (Value, Value),
    capacity: usize,
) -> Result<Choice, BuildError> {
    let experts = b.shape(probs)[2];
    let index = b.argmax(probs)?;
    let one_hot = b.one_hot(index, experts, DType::F32)?;
    let weighted = b.mul(one_hot, probs)?;
    let gate = b.sum(weighted, &[2])?;
    let one_hot = b.mul(one_hot, mask)?;
    // Exact in float32: counts stay below 2^24.
    let before = b.cumsum(one_hot, 1, true, false)?;
    let own = b.mul(before, one_hot)?;
    let position = b.sum(own, &[2])?;
    let position = b.convert(position, DType::S32)?;
    let fits = b.compare_scalar(Direction::Lt, position, capacity as f64)?;
    let is_real = b.compare_scalar(Direction::Gt, real, 0.0)?;
    let kept = b.and(fits, is_real)?;
    Ok(Choice { index, gate, one_hot, position, kept })
}

/// Share of the real tokens that no expert took.
fn dropped_share(b: &mut Builder, counts: &Counts, kept: Value) -> Result<Value, BuildError> {
    let kept = b.convert(kept, DType::F32)?;
    let kept = b.sum_all(kept)?;
    let share = b.div(kept, counts.total)?;
    let minus = b.neg(share)?;
    b.add_scalar(minus, 1.0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::ir::{Literal, TensorType};

    type Made = Result<Vec<Value>, BuildError>;

    /// Evaluates what `body` makes of one `f32` tensor.
    fn outputs(
        shape: &[usize],
        data: &[f32],
        body: impl FnOnce(&mut Builder, Value) -> Made,
    ) -> Vec<Vec<f64>> {
        let ty = TensorType::new(DType::F32, shape);
        let graph = Builder::graph(&[ty], |b, x| body(b, x[0])).unwrap();
        let values = evaluate(&graph, &[Literal::new(shape, data).unwrap()]).unwrap();
        values.iter().map(Literal::to_f64).collect()
    }

    /// Chooses from probabilities and reports index, position, kept, gate and the load-balancing loss.
    fn chosen(shape: [usize; 3], probs: &[f32], real: &[f32], capacity: usize) -> Vec<Vec<f64>> {
        outputs(&shape, probs, |b, probs| {
            let real = b.constant(Literal::new([shape[0], shape[1]], real)?)?;
            let mask = b.broadcast_in_dim(real, &shape, &[0, 1])?;
            let choice = choose(b, probs, (real, mask), capacity)?;
            let counts = Counts::new(b, real)?;
            let (loss, _) = balance(b, &counts, choice.one_hot, probs, mask)?;
            Ok(vec![choice.index, choice.position, choice.kept, choice.gate, loss])
        })
    }

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > tolerance);
        assert!(!far, "found {found:?}, expected {expected:?}");
    }

    #[test]
    fn the_load_balancing_loss_has_the_published_value() {
        // Five tokens, two experts, probabilities that do not add up to one on purpose; choices 0 1 1 0 0.
        let probs = [
            0.35490513, 0.60419905, 0.4275843, 0.23061597, 0.32985854, 0.43953657, 0.25099766, 0.27730572,
            0.7678207, 0.71474564,
        ];
        let loss = outputs(&[1, 5, 2], &probs, |b, probs| {
            let one_hot =
                b.constant(Literal::new([1, 5, 2], &[1f32, 0., 0., 1., 0., 1., 1., 0., 1., 0.])?)?;
            let real = b.full(&TensorType::new(DType::F32, [1, 5]), 1.0)?;
            let mask = b.full_like(probs, 1.0)?;
            let counts = Counts::new(b, real)?;
            Ok(vec![balance(b, &counts, one_hot, probs, mask)?.0])
        });
        assert_close(&loss[0], &[0.8741045], 1e-6);
    }

    #[test]
    fn the_router_z_loss_is_the_mean_squared_logsumexp() {
        // Logits 0 0 give ln 2 each; logits ln 3, 0 give ln 4: (ln 2)^2 / 2 + (ln 4)^2 / 2.
        let loss = outputs(&[1, 2, 2], &[0.0, 0.0, 3f32.ln(), 0.0], |b, logits| {
            let real = b.full(&TensorType::new(DType::F32, [1, 2]), 1.0)?;
            let counts = Counts::new(b, real)?;
            Ok(vec![z_loss(b, &counts, logits, real)?])
        });
        let (ln2, ln4) = (2f64.ln(), 4f64.ln());
        assert_close(&loss[0], &[(ln2 * ln2 + ln4 * ln4) / 2.0], 1e-6);
    }

    #[test]
    fn tokens_take_slots_in_their_order_and_the_third_of_a_full_expert_is_dropped() {
        // Two groups of four tokens, four experts, capacity two; the known answer of a published test.
        let probs = [
            0.24609375,
            0.25,
            0.25390625,
            0.251953125,
            0.2431640625,
            0.24609375,
            0.25390625,
            0.2578125,
            0.244140625,
            0.2470703125,
            0.255859375,
            0.25390625,
            0.25,
            0.25,
            0.251953125,
            0.25,
            0.2470703125,
            0.248046875,
            0.2490234375,
            0.2578125,
            0.2451171875,
            0.248046875,
            0.25390625,
            0.25390625,
            0.2451171875,
            0.24609375,
            0.25390625,
            0.255859375,
            0.2431640625,
            0.248046875,
            0.255859375,
            0.255859375,
        ]
        .map(|p: f64| p as f32);
        let found = chosen([2, 4, 4], &probs, &[1.0; 8], 2);
        assert_eq!(found[0], [2., 3., 2., 2., 3., 2., 3., 2.], "experts");
        assert_eq!(found[1], [0., 0., 1., 2., 0., 0., 1., 1.], "places");
        assert_eq!(found[2], [1., 1., 1., 0., 1., 1., 1., 1.], "kept");
        let gates = [
            0.25390625,
            0.2578125,
            0.255859375,
            0.251953125,
            0.2578125,
            0.25390625,
            0.255859375,
            0.255859375,
        ];
        assert_eq!(found[3], gates);
        assert_close(&found[4], &[1.0166016], 1e-6);
    }

    #[test]
    fn padding_takes_no_place_and_counts_in_no_loss() {
        // Token 0 is padding and would come first to expert 0, whose only slot token 1 then gets.
        let probs = [0.9, 0.1, 0.8, 0.2, 0.3, 0.7];
        let found = chosen([1, 3, 2], &probs, &[0.0, 1.0, 1.0], 1);
        assert_eq!(found[2], [0., 1., 1.], "kept");
        // f = (1/2, 1/2), P = ((0.8 + 0.3) / 2, (0.2 + 0.7) / 2): 2 (0.275 + 0.225) = 1.
        assert_close(&found[4], &[1.0], 1e-6);
    }
}
