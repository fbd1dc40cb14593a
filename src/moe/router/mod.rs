//! Which expert each token goes to, and with what weight. Float32 throughout (selective precision).
//!
//! | file | subject |
//! | --- | --- |
//! | `noise` | exploration while training |
//! | `choose` | tokens that choose experts: which ones, with what gates |
//! | `place` | the slots of those choices, in order of priority |
//! | `experts` | experts that choose tokens |
//! | `measure` | losses and statistics |
//! | `bias` | the selection bias that balances the load without a loss |

mod bias;
mod choose;
mod experts;
mod measure;
mod noise;
mod place;
#[cfg(test)]
mod tests;

pub use bias::update as update_bias;

use super::layer::MoeShape;
use crate::build::{BuildError, Builder};
use crate::config::{MoeConfig, Router};
use crate::ir::{DType, Precision, Value};
use crate::layers::{Context, Init, Params};

/// Deviation of the router's initial weights.
const INIT_DEVIATION: f64 = 2e-2;

/// The name of the selection bias below the scope of a sparse layer.
const BIAS: &str = "router_bias";

pub fn declare(params: &mut Params, router: &Router, d_model: usize, moe: &MoeConfig) {
    let init = Init::TruncatedNormal(INIT_DEVIATION);
    params.add("router", &[d_model, moe.num_experts], init).factored = false;
    if router.bias_update_rate().is_some() {
        params.add(BIAS, &[moe.num_experts], Init::Constant(0.0)).trained = false;
    }
}

/// The decisions of one layer. G groups, S tokens per group, E experts, C capacity, k choices per token.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    pub slots: Slots,
    /// `s32[G, S, k]`: the expert of each choice, or -1 where it has no slot; k is E where experts choose.
    pub decisions: Value,
    pub balance: Balance,
    /// Scalar: mean squared `logsumexp` of the router logits.
    pub z_loss: Value,
    /// `[E]`: share of the choices that went to each expert, before the capacity.
    pub load: Value,
    /// Scalar: share of the tokens that no expert took.
    pub dropped: Value,
    /// Scalar: share of the choices that found no slot.
    pub dropped_choices: Value,
    /// Scalar: mean entropy of the router probabilities, in nats.
    pub entropy: Value,
}

/// How evenly the experts are used. Groups are sequences where the router balances by its bias.
#[derive(Clone, Copy, Debug)]
pub struct Balance {
    /// Scalar: `E * sum(f * P)`, mean over groups (Switch Transformer, equation 4, without the coefficient).
    pub loss: Value,
    /// `[G, E]`: f, the share of a group's tokens that chose the expert, and P, its mean probability there.
    pub fraction: Value,
    pub probability: Value,
}

/// Who sits where.
#[derive(Clone, Copy, Debug)]
pub enum Slots {
    /// Tokens choose experts: a token has at most k slots.
    OfTokens {
        /// `s32[G, S, k]`, best first.
        expert: Value,
        /// `[G, S, k]`: the weight of the expert's output.
        gate: Value,
        /// `s32[G, S, k]`: the place in the expert's buffer, from 0.
        position: Value,
        /// `pred[G, S, k]`: whether the choice stands and its place is below the capacity.
        kept: Value,
    },
    /// Experts choose tokens: a token can have a slot of every expert.
    OfExperts {
        /// `s32[G, E, C]`: the token in its group, or S for an empty slot.
        token: Value,
        /// `[G, E, C]`: the weight of the output, 0 for an empty slot.
        gate: Value,
    },
}

/// What a router makes of its input, all `[G, S, E]`.
#[derive(Clone, Copy, Debug)]
struct Scores {
    logits: Value,
    /// A distribution over experts: for losses, entropy and the order of tokens.
    probs: Value,
    /// What the experts are chosen by: the greatest.
    choice: Value,
    /// What gates are made of.
    weight: Value,
}

/// Routes `tokens [G, S, d_model]`; `real f32[G, S]` is 1 for tokens and 0 for padding, which takes no place and counts in no
/// loss.
pub fn route(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    (tokens, real): (Value, Value),
    shape: &MoeShape,
) -> Result<Routing, BuildError> {
    let weight = cx.weights.get(b, "router")?;
    let inputs = b.convert(tokens, DType::F32)?;
    let inputs = noise::on_inputs(b, cx, router.exploration(), inputs)?;
    let logits = b.einsum_into("gsd,de->gse", inputs, weight, DType::F32, Precision::Highest)?;
    let logits = b.name(logits, "router_logits", &["groups", "tokens", "experts"]);
    let bias = match router.bias_update_rate() {
        Some(_) => Some(cx.weights.get(b, BIAS)?),
        None => None,
    };
    from_logits(b, cx, router, (logits, bias), real, shape)
}

/// The decisions for `logits [G, S, E]` and the selection `bias [E]` of a router that has one.
pub fn from_logits(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    (logits, bias): (Value, Option<Value>),
    real: Value,
    shape: &MoeShape,
) -> Result<Routing, BuildError> {
    let scores = choose::scores(b, cx, router, logits, bias)?;
    decide(b, cx, router, scores, real, shape)
}

/// The decisions for these scores.
fn decide(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    scores: Scores,
    real: Value,
    shape: &MoeShape,
) -> Result<Routing, BuildError> {
    if let Router::ExpertChoice {} = router {
        return experts::route(b, scores, real, shape);
    }
    let choices = choose::choose(b, cx, router, scores, real)?;
    let slots = place::place(b, router, &scores, &choices, shape)?;
    measure::of_tokens(b, router, scores, &choices, (slots, real), shape)
}
