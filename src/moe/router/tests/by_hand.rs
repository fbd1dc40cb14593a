//! Answers that are worked out in the comments.

use super::*;
use crate::moe::testing::close;

#[test]
fn tokens_whose_expert_is_full_try_the_next() {
    // Four tokens that rank experts 0, 1, 2; one slot each.
    let probs = [0.5, 0.3, 0.2].repeat(4);
    let router = |rounds| Router::NoTokenLeftBehind {
        rounds,
        exploration: Exploration::Argmax,
        priority: Priority::Position,
    };
    let found = decided(router(3), [1, 4, 3], 1, &probs, None);
    assert_eq!(found.slots(), [Some((0, 0)), Some((1, 0)), Some((2, 0)), None]);
    close(&found.weights(), &[0.5, 0.3, 0.2, 0.0], 1e-12);
    // All three choices of every token count in the loss: 3 * (0.5 + 0.3 + 0.2).
    close(&[found.loss, found.dropped], &[3.0, 0.25], 1e-12);
    let found = decided(router(2), [1, 4, 3], 1, &probs, None);
    assert_eq!(found.slots(), [Some((0, 0)), Some((1, 0)), None, None]);
    // One round is the switch.
    let (one, switch) = (
        decided(router(1), [2, 4, 4], 2, &FOUR, None),
        decided(switch(Priority::Position), [2, 4, 4], 2, &FOUR, None),
    );
    assert_eq!((one.slots(), one.weights(), one.loss), (switch.slots(), switch.weights(), switch.loss));
}

#[test]
fn a_later_round_counts_those_who_got_in_before() {
    // Two slots. Tokens 0, 1, 3, 4 choose expert 1, which has room for the first two, and token 2 expert 0. Then token 3 finds
    // expert 0 with one slot taken, and token 4 finds it full and has no third choice.
    let probs = [0.1, 0.9, 0.2, 0.8, 0.7, 0.3, 0.4, 0.6, 0.4, 0.6];
    let router = Router::NoTokenLeftBehind {
        rounds: 2,
        exploration: Exploration::Argmax,
        priority: Priority::Position,
    };
    let found = decided(router, [1, 5, 2], 2, &probs, None);
    assert_eq!(found.slots(), [Some((1, 0)), Some((1, 1)), Some((0, 0)), Some((0, 1)), None]);
    close(&found.weights(), &[0.9, 0.8, 0.7, 0.4, 0.0], 1e-12);
    // By probability, tokens 3 and 4 come last anyway, and token 3 first of the two.
    let router = Router::NoTokenLeftBehind {
        rounds: 2,
        exploration: Exploration::Argmax,
        priority: Priority::Probability,
    };
    assert_eq!(decided(router, [1, 5, 2], 2, &probs, None).slots(), found.slots());
}

#[test]
fn deepseek_gates_are_scores_without_the_bias_over_their_sum() {
    let router = Router::DeepseekV3 {
        k: 2,
        n_routing_groups: 1,
        topk_routing_group: 1,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        routed_bias_update_rate: 0.001,
        priority: Priority::Position,
        placement: Placement::ChoiceMajor,
    };
    // Sigmoids 0.5, 0.25, 0.2; the bias lifts the last above the second.
    let logits = [0.0, (0.25f64 / 0.75).ln(), (0.2f64 / 0.8).ln()];
    let config = ModelConfig::default();
    let weights = Weights::default();
    let inputs = [Literal::new([1, 1, 3], &logits).unwrap(), Literal::new([3], &[0.0, 0.0, 0.1]).unwrap()];
    let found = outputs(&inputs, |b, x| {
        let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
        let cx = Context::alone(&config, Phase::Train, &weights, key);
        let scores = choose::scores(b, &cx, &router, x[0], Some(x[1]))?;
        let real = b.full(&TensorType::new(DType::F64, [1, 1]), 1.0)?;
        let routing = decide(b, &cx, &router, scores, real, &shape(&router, [1, 1, 3], 1, 1))?;
        let Slots::OfTokens { expert, gate, .. } = routing.slots else { panic!("tokens choose") };
        Ok(vec![expert, gate, scores.probs, routing.balance.loss])
    });
    assert_eq!(found[0], [0., 2.]);
    close(&found[1], &[2.5 * 0.5 / 0.7, 2.5 * 0.2 / 0.7], 1e-12);
    close(&found[2], &[0.5 / 0.95, 0.25 / 0.95, 0.2 / 0.95], 1e-12);
    // E / k * sum of f * P, where f counts the two greatest scores without the bias: 3 / 2 * (0.5 + 0.25) / 0.95.
    close(&found[3], &[1.5 * 0.75 / 0.95], 1e-12);
}

#[test]
fn mixtral_gates_are_the_softmax_over_the_chosen() {
    let router = Router::Mixtral {
        k: 2,
        exploration: Exploration::Argmax,
        priority: Priority::Position,
        placement: Placement::ChoiceMajor,
    };
    // Scores stand for logits here: e^1 / (e^1 + e^0) for the best of 1, 0, -2.
    let found = decided(router, [1, 1, 3], 1, &[0.0, -2.0, 1.0], None);
    assert_eq!(found.who, [2., 0.]);
    let first = 1.0 / (1.0 + (-1f64).exp());
    close(&found.gate, &[first, 1.0 - first], 1e-12);
}

#[test]
fn the_loss_is_k_in_balance_and_the_number_of_experts_in_collapse() {
    // Token t chooses experts t and t + 1 of four, with equal probabilities of all: f = k / 4, P = 1 / 4.
    let mut even = vec![0.25; 16];
    for t in 0..4 {
        even[t * 4 + t] += 1e-9;
        even[t * 4 + (t + 1) % 4] += 5e-10;
    }
    for k in [1, 2] {
        let found = decided(top(k, Priority::Position, Placement::ChoiceMajor), [1, 4, 4], 4, &even, None);
        close(&[found.loss], &[k as f64], 1e-7);
    }
    let collapsed = [1.0, 0.0, 0.0, 0.0].repeat(4);
    close(&[decided(switch(Priority::Position), [1, 4, 4], 4, &collapsed, None).loss], &[4.0], 1e-12);
}
