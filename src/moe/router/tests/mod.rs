//! Decisions on given probabilities.
//!
//! | file | subject |
//! | --- | --- |
//! | `published` | answers that the tests of other libraries expect too |
//! | `by_hand` | answers that their comments work out |
//! | `properties` | draws, ties, nothing but padding |

mod by_hand;
mod properties;
mod published;

use super::*;
use crate::config::{Exploration, ModelConfig, Placement, Priority};
use crate::ir::{Literal, TensorType};
use crate::layers::{Phase, Weights};
use crate::moe::testing::{outputs, shape};
use crate::shard::Mesh;

/// What a router decided.
#[derive(Debug)]
struct Decided {
    /// `[G, S, k]`, or the token of each slot `[G, E, C]`.
    who: Vec<f64>,
    gate: Vec<f64>,
    position: Vec<f64>,
    kept: Vec<f64>,
    loss: f64,
    dropped: f64,
    dropped_choices: f64,
    load: Vec<f64>,
}

impl Decided {
    /// `expert -> slot` of every choice; `None` for a dropped one.
    fn slots(&self) -> Vec<Option<(usize, usize)>> {
        let slot =
            |i: usize| (self.kept[i] == 1.0).then_some((self.who[i] as usize, self.position[i] as usize));
        (0..self.who.len()).map(slot).collect()
    }

    /// Gates of kept choices, 0 elsewhere.
    fn weights(&self) -> Vec<f64> {
        self.gate.iter().zip(&self.kept).map(|(gate, kept)| gate * kept).collect()
    }
}

/// Decides on probabilities as they are, in training, all of them or those of `real` tokens.
fn decided(
    router: Router,
    sizes: [usize; 3],
    capacity: usize,
    probs: &[f64],
    real: Option<&[f64]>,
) -> Decided {
    decided_in(Phase::Train, router, sizes, capacity, (probs, real))
}

fn decided_in(
    phase: Phase,
    router: Router,
    [g, s, e]: [usize; 3],
    capacity: usize,
    (probs, real): (&[f64], Option<&[f64]>),
) -> Decided {
    let config = ModelConfig::default();
    let weights = Weights::default();
    let shape = shape(&router, [g, s, e], capacity, 1);
    let real = real.map_or(vec![1.0; g * s], <[f64]>::to_vec);
    let found =
        outputs(&[Literal::new([g, s, e], probs).unwrap(), Literal::new([g, s], &real).unwrap()], |b, x| {
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context::alone(&config, phase, &weights, key);
            let scores = Scores { logits: x[0], probs: x[0], choice: x[0], weight: x[0] };
            let routing = decide(b, &cx, &router, scores, x[1], &shape)?;
            let slots = match routing.slots {
                Slots::OfTokens { expert, gate, position, kept } => [expert, gate, position, kept],
                Slots::OfExperts { token, gate } => [token, gate, token, token],
            };
            let scalars = [routing.balance.loss, routing.dropped, routing.dropped_choices, routing.load];
            Ok([slots, scalars].concat())
        });
    let [who, gate, position, kept, loss, dropped, dropped_choices, load] = found.try_into().unwrap();
    let (loss, dropped, dropped_choices) = (loss[0], dropped[0], dropped_choices[0]);
    Decided { who, gate, position, kept, loss, dropped, dropped_choices, load }
}

fn switch(priority: Priority) -> Router {
    Router::Switch { exploration: Exploration::Argmax, priority }
}

fn top(k: usize, priority: Priority, placement: Placement) -> Router {
    Router::TopK { k, exploration: Exploration::Argmax, priority, placement }
}

/// Two groups of four tokens, four experts.
const FOUR: [f64; 32] = [
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
];
