//! Answers that the tests of other libraries expect too. Probabilities are exact in bfloat16.

use super::*;
use crate::config::Second;
use crate::layers::Init;
use crate::moe::router::choose::{limit_groups, top_k};
use crate::moe::testing::close;

#[test]
fn the_load_balancing_loss_has_the_published_value() {
    // Five tokens, two experts, probabilities that do not add up to one on purpose; choices 0 1 1 0 0.
    let probs = [
        0.35490513, 0.60419905, 0.4275843, 0.23061597, 0.32985854, 0.43953657, 0.25099766, 0.27730572,
        0.7678207, 0.71474564,
    ];
    let chosen = [1., 0., 0., 1., 0., 1., 1., 0., 1., 0.];
    let inputs = [chosen, probs].map(|x| Literal::new([1, 5, 2], &x).unwrap());
    let loss = outputs(&inputs, |b, x| {
        let real = b.full(&TensorType::new(DType::F64, [1, 5]), 1.0)?;
        Ok(vec![measure::balance(b, Mesh::default(), (x[0], x[1]), real)?.loss])
    });
    close(&loss[0], &[0.8741045], 2e-7);
}

#[test]
fn the_router_z_loss_has_the_published_value() {
    let logits = [
        -4.2124424,
        3.891939,
        -3.6481273,
        1.8849981,
        0.32625437,
        2.918651,
        0.84758997,
        -4.556842,
        -3.32062,
        4.6977115,
        -0.15439987,
        0.44086337,
        3.4467149,
        4.3436565,
        -4.7224274,
        -4.264637,
        -2.224406,
        -2.5318158,
        -1.3832569,
        1.1891162,
        -2.320062,
        -0.44705987,
        4.289819,
        -0.00662684,
        0.99470854,
        -0.6992364,
        0.25503993,
        4.2952085,
        3.5937333,
        -3.2408535,
        -4.298278,
        4.426601,
        0.7669008,
        2.6588762,
        2.4505413,
        4.6051874,
        0.23330331,
        -3.0845237,
        0.6262374,
        -2.9865491,
        0.7595146,
        -2.1099675,
        -4.155346,
        -2.8326452,
        2.3771453,
        1.004138,
        -3.1781673,
        0.7581556,
    ];
    let loss = outputs(&[Literal::new([2, 6, 4], &logits).unwrap()], |b, x| {
        let real = b.full(&TensorType::new(DType::F64, [2, 6]), 1.0)?;
        let counts = measure::Counts::new(b, Mesh::default(), real)?;
        Ok(vec![measure::z_loss(b, &counts, x[0], real)?])
    });
    close(&loss[0], &[13.786719], 3e-6);
}

#[test]
fn from_inputs_and_weights_come_the_published_choices_gates_and_losses() {
    let x = [
        0.6433916, 0.18188512, 0.02240455, 0.563781, 0.5526401, 0.0958724, 0.34253013, 0.03644359,
        0.08744538, 0.7909105, 0.35205448, 0.53364205, 0.02900076, 0.4168595, 0.5802449, 0.91486526,
        0.27414513, 0.14991808, 0.9383501, 0.5209162, 0.51207185, 0.90618336, 0.7309413, 0.95533276,
    ];
    let w =
        [0.02008116, 0.00620062, -0.00811031, -0.00031623, -0.03542127, 0.02703803, 0.02335377, -0.02971946];
    let config = ModelConfig::default();
    let router = switch(Priority::Position);
    let inputs = [
        Literal::new([2, 3, 4], &x.map(|x| x as f32)).unwrap(),
        Literal::new([4, 2], &w.map(|w| w as f32)).unwrap(),
    ];
    let found = outputs(&inputs, |b, x| {
        let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
        let mut params = Params::default();
        params.add("router", &b.shape(x[1]), Init::Constant(0.0));
        let defs = params.into_defs();
        let weights = Weights::new(Mesh::default(), defs.iter().zip([x[1]]));
        let cx = Context::alone(&config, Phase::Eval, &weights, key);
        let real = b.full(&TensorType::new(DType::F32, [2, 3]), 1.0)?;
        let routing = route(b, &cx, &router, (x[0], real), &shape(&router, [2, 3, 2], 3, 2))?;
        let Slots::OfTokens { expert, gate, .. } = routing.slots else { panic!("tokens choose") };
        Ok(vec![expert, gate, routing.balance.loss, routing.z_loss])
    });
    assert_eq!(found[0], [0., 1., 0., 0., 1., 0.]);
    close(&found[1], &[0.5090078, 0.5031341, 0.5003456, 0.5023667, 0.5070808, 0.5012733], 1e-6);
    close(&found[2], &[1.000308], 1e-5);
    close(&found[3], &[0.4789799], 1e-5);
}

#[test]
fn the_third_token_of_a_group_finds_both_experts_full() {
    // Two groups of three tokens, two experts, one slot each.
    let probs = [
        0.5078125,
        0.490234375,
        0.498046875,
        0.50390625,
        0.5,
        0.5,
        0.50390625,
        0.498046875,
        0.494140625,
        0.5078125,
        0.5,
        0.498046875,
    ];
    for priority in [Priority::Position, Priority::Probability] {
        let found = decided(switch(priority), [2, 3, 2], 1, &probs, None);
        assert_eq!(found.slots(), [Some((0, 0)), Some((1, 0)), None, Some((0, 0)), Some((1, 0)), None]);
        close(&[found.loss], &[1.0006511], 1e-7);
        close(&[found.dropped, found.dropped_choices], &[1.0 / 3.0; 2], 1e-12);
    }
}

#[test]
fn tokens_take_slots_in_their_order_and_the_third_of_a_full_expert_is_dropped() {
    let found = decided(switch(Priority::Position), [2, 4, 4], 2, &FOUR, None);
    let slots = [(2, 0), (3, 0), (2, 1), (2, 2), (3, 0), (2, 0), (3, 1), (2, 1)];
    let expected: Vec<_> = slots.into_iter().map(|slot| (slot.1 < 2).then_some(slot)).collect();
    assert_eq!(found.slots(), expected);
    assert_eq!(found.position[3], 2.0);
    assert_eq!(
        found.weights(),
        [0.25390625, 0.2578125, 0.255859375, 0.0, 0.2578125, 0.25390625, 0.255859375, 0.255859375]
    );
    close(&[found.loss], &[1.0166016], 1e-7);
    // Five of the eight chose expert 2, three chose expert 3, one of the eight was dropped.
    assert_eq!((found.load, found.dropped), (vec![0.0, 0.0, 0.625, 0.375], 0.125));
}

#[test]
fn the_most_certain_tokens_take_slots_first() {
    let found = decided(switch(Priority::Probability), [2, 4, 4], 2, &FOUR, None);
    assert_eq!(found.who, [2., 3., 2., 2., 3., 2., 3., 2.]);
    assert_eq!(found.position, [1., 0., 0., 2., 0., 1., 1., 0.]);
    close(&[found.loss], &[1.0166016], 1e-7);
}

#[test]
fn first_choices_of_all_tokens_come_before_second_ones() {
    let router = top(2, Priority::Probability, Placement::ChoiceMajor);
    let found = decided(router, [2, 4, 4], 2, &FOUR, None);
    let pairs: Vec<(f64, f64)> = found.who.iter().copied().zip(found.position.iter().copied()).collect();
    let expected = [
        [(2., 1.), (3., 2.)],
        [(3., 0.), (2., 3.)],
        [(2., 0.), (3., 1.)],
        [(2., 2.), (0., 0.)],
        [(3., 0.), (2., 2.)],
        [(2., 1.), (3., 3.)],
        [(3., 1.), (2., 3.)],
        [(2., 0.), (3., 2.)],
    ];
    assert_eq!(pairs, expected.concat());
    let weights = [
        [0.25390625, 0.0],
        [0.2578125, 0.0],
        [0.255859375, 0.25390625],
        [0.0, 0.25],
        [0.2578125, 0.0],
        [0.25390625, 0.0],
        [0.255859375, 0.0],
        [0.255859375, 0.0],
    ];
    assert_eq!(found.weights(), weights.concat());
    close(&[found.loss], &[2.0289307], 1e-7);
    // All tokens have a slot, seven of the sixteen choices have none.
    assert_eq!((found.dropped, found.dropped_choices), (0.0, 7.0 / 16.0));
}

#[test]
fn a_token_can_keep_both_choices_and_others_none() {
    // Two groups of four tokens, three experts, one slot each.
    let probs = [
        0.33203125,
        0.330078125,
        0.3359375,
        0.33203125,
        0.3359375,
        0.333984375,
        0.333984375,
        0.33203125,
        0.3359375,
        0.33203125,
        0.3359375,
        0.333984375,
        0.330078125,
        0.341796875,
        0.326171875,
        0.33203125,
        0.328125,
        0.3359375,
        0.33203125,
        0.3359375,
        0.333984375,
        0.330078125,
        0.341796875,
        0.328125,
    ];
    let router = top(2, Priority::Probability, Placement::ChoiceMajor);
    let found = decided(router, [2, 4, 3], 1, &probs, None);
    let mut combine = vec![0.0; 24];
    for (i, slot) in found.slots().into_iter().enumerate() {
        if let Some((expert, _)) = slot {
            combine[i / 2 * 3 + expert] = found.gate[i];
        }
    }
    let mut expected = vec![0.0; 24];
    // Group 0: token 0 by experts 0 and 2, token 1 by expert 1; group 1: token 0 by 0 and 1, token 1 by 2.
    for (at, weight) in [
        (0, 0.33203125),
        (2, 0.3359375),
        (4, 0.3359375),
        (12, 0.330078125),
        (13, 0.341796875),
        (17, 0.3359375),
    ] {
        expected[at] = weight;
    }
    assert_eq!(combine, expected);
    close(&[found.loss], &[2.001709], 1e-6);
}

/// Two groups of four tokens, two experts.
const TWO: [f64; 16] = [
    0.49609375,
    0.50390625,
    0.494140625,
    0.50390625,
    0.498046875,
    0.50390625,
    0.494140625,
    0.50390625,
    0.498046875,
    0.50390625,
    0.494140625,
    0.50390625,
    0.494140625,
    0.5078125,
    0.4921875,
    0.5078125,
];

#[test]
fn experts_take_their_best_tokens_and_the_first_of_equals() {
    let found = decided(Router::ExpertChoice {}, [2, 4, 2], 2, &TWO, None);
    // [group, expert, slot]
    assert_eq!(found.who, [2., 0., 0., 1., 0., 1., 2., 3.]);
    let gates =
        [0.498046875, 0.49609375, 0.50390625, 0.50390625, 0.498046875, 0.494140625, 0.5078125, 0.5078125];
    assert_eq!(found.gate, gates);
    assert_eq!((found.loss, found.dropped_choices), (0.0, 0.0));
    // Token 3 of the first group is taken by none.
    assert_eq!((found.dropped, found.load), (0.125, vec![0.5, 0.5]));
}

/// Two groups of six tokens, two experts; .5 for padding.
const PADDED: [f64; 24] = [
    0.5,
    0.5,
    0.50390625,
    0.498046875,
    0.50390625,
    0.498046875,
    0.5,
    0.5,
    0.50390625,
    0.498046875,
    0.50390625,
    0.498046875,
    0.5,
    0.5,
    0.50390625,
    0.494140625,
    0.50390625,
    0.498046875,
    0.5,
    0.5,
    0.50390625,
    0.494140625,
    0.5,
    0.5,
];
const REAL: [f64; 12] = [0., 1., 1., 0., 1., 1., 0., 1., 1., 0., 1., 0.];

#[test]
fn padding_takes_no_slot_and_counts_in_no_loss() {
    let router = top(2, Priority::Probability, Placement::ChoiceMajor);
    let found = decided(router, [2, 6, 2], 1, &PADDED, Some(&REAL));
    let kept: Vec<usize> = (0..24).filter(|&i| found.kept[i] == 1.0).collect();
    assert_eq!(kept, [2, 3, 14, 15], "both choices of token 1 of each group");
    // Real tokens stand in line before each other as if there were no padding.
    let line: Vec<f64> = (0..12).filter(|&t| REAL[t] == 1.0).map(|t| found.position[2 * t]).collect();
    assert_eq!(line, [0., 1., 2., 3., 0., 1., 2.]);
    // All tokens choose both: f = (1, 1). P is a mean over 4 and 3 real tokens.
    let first = 2.0 * (0.50390625 + 0.498046875);
    let second = 2.0 * (0.50390625 + (2.0 * 0.494140625 + 0.498046875) / 3.0);
    close(&[found.loss], &[(first + second) / 2.0], 1e-12);
    // The published value has the padding in both denominators: 4 and 3 of 6.
    let diluted = (first * (4.0 / 6.0_f64).powi(2) + second * 0.25) / 2.0;
    close(&[diluted], &[0.6951497], 1e-6);
    close(&[found.dropped], &[5.0 / 7.0], 1e-12);
}

#[test]
fn experts_take_no_padding_even_into_slots_that_stay_empty() {
    let found = decided(Router::ExpertChoice {}, [2, 6, 2], 1, &PADDED, Some(&REAL));
    assert_eq!(found.who, [1., 1., 1., 2.]);
    assert_eq!(found.gate, [0.50390625, 0.498046875, 0.50390625, 0.498046875]);
    // Room for all: the second group has three real tokens for four slots.
    let roomy = decided(Router::ExpertChoice {}, [2, 6, 2], 4, &PADDED, Some(&REAL));
    assert_eq!(roomy.who[8..], [1., 2., 4., 6., 2., 1., 4., 6.]);
    assert_eq!(roomy.gate[11], 0.0);
    assert_eq!(roomy.dropped, 0.0);
}

#[test]
fn gshard_normalises_gates_before_it_drops() {
    // Five tokens, three experts, two slots.
    let probs = [0.6, 0.3, 0.1, 0.5, 0.1, 0.4, 0.7, 0.2, 0.1, 0.2, 0.5, 0.3, 0.1, 0.55, 0.35];
    let gshard = |second| Router::Gshard {
        second,
        second_eval: None,
        exploration: Exploration::Argmax,
        priority: Priority::Position,
    };
    let found = decided(gshard(Second::All), [1, 5, 3], 2, &probs, None);
    let slots = [
        Some((0, 0)),
        None,
        Some((0, 1)),
        Some((2, 0)),
        None,
        None,
        Some((1, 0)),
        Some((2, 1)),
        Some((1, 1)),
        None,
    ];
    assert_eq!(found.slots(), slots);
    let weights = [0.666667, 0.0, 0.555556, 0.444444, 0.0, 0.0, 0.625, 0.375, 0.611111, 0.0];
    close(&found.weights(), &weights, 1e-6);
    close(&[found.loss], &[1.152], 1e-9);
    // Above 0.4 are the second gates .444 of token 1 alone; the others of .333, .222, .375, .389 are not asked for.
    let found = decided(gshard(Second::Threshold { threshold: 0.4 }), [1, 5, 3], 2, &probs, None);
    assert_eq!(found.slots()[7], None);
    assert_eq!(found.slots()[3], Some((2, 0)));
    assert_eq!((found.dropped, found.dropped_choices), (0.2, 1.0 / 6.0));
    // Odds of 1 take all.
    let found = decided(gshard(Second::Random { threshold: 1e-3 }), [1, 5, 3], 2, &probs, None);
    assert_eq!(found.slots(), slots);
}

#[test]
fn all_choices_of_a_token_can_come_before_the_next_token() {
    // Four rows of four tokens, eight experts, two choices, two slots; [row][token][choice] -> slot.
    let choices = [
        [[0, 5], [0, 4], [1, 0], [3, 5]],
        [[1, 2], [4, 1], [5, 0], [7, 1]],
        [[6, 2], [2, 3], [4, 2], [1, 2]],
        [[4, 1], [0, 7], [5, 0], [4, 7]],
    ];
    let mut probs = vec![0.01; 4 * 4 * 8];
    for (token, pair) in choices.iter().flatten().enumerate() {
        probs[token * 8 + pair[0]] = 0.5;
        probs[token * 8 + pair[1]] = 0.4;
    }
    let router = top(2, Priority::Position, Placement::TokenMajor);
    let found = decided(router, [4, 4, 8], 2, &probs, None);
    let gone = usize::MAX;
    let slots = [
        [[0, 0], [1, 0], [0, gone], [0, 1]],
        [[0, 0], [0, 1], [0, 0], [0, gone]],
        [[0, 0], [1, 0], [0, gone], [0, gone]],
        [[0, 0], [0, 0], [0, 1], [1, 1]],
    ];
    let flat = |table: [[[usize; 2]; 4]; 4]| table.concat().concat();
    let expected: Vec<_> = flat(choices)
        .into_iter()
        .zip(flat(slots))
        .map(|(expert, slot)| (slot != gone).then_some((expert, slot)))
        .collect();
    assert_eq!(found.slots(), expected);
}

#[test]
fn deepseek_chooses_within_the_best_groups() {
    // 16 experts in four groups, of which two are open; four choices by biased scores.
    let scores = [
        0.20, 0.10, 0.05, 0.10, 0.10, 0.60, 0.30, 0.10, 0.80, 0.01, 0.01, 0.01, 0.05, 0.80, 0.20,
        0.10, //
        0.68, 0.20, 0.06, 0.03, 0.32, 0.10, 0.05, 0.02, 0.65, 0.20, 0.04, 0.01, 0.32, 0.10, 0.05, 0.02,
    ];
    let found = outputs(&[Literal::new([1, 2, 16], &scores).unwrap()], |b, x| {
        let limited = limit_groups(b, x[0], 4, 2)?;
        top_k(b, limited, 4)
    });
    let by_token = |t: usize| found.iter().map(|choice| choice[t]).collect::<Vec<_>>();
    assert_eq!(by_token(0), [13., 5., 6., 14.]);
    assert_eq!(by_token(1), [0., 8., 1., 9.]);
}

#[test]
fn the_bias_moves_against_the_load() {
    // Choices 0 1, 3 0, 3 1, 1 0, 0 3, 2 0, 1 2, 2 3: loads 5, 4, 3, 4 of 16.
    let load = [5.0f32, 4.0, 3.0, 4.0].map(|n| n / 16.0);
    let inputs = [Literal::new([1, 4], &[0f32; 4]).unwrap(), Literal::new([1, 4], &load).unwrap()];
    let found = outputs(&inputs, |b, x| Ok(vec![bias::update(b, 0.01, x[0], x[1])?]));
    close(&found[0], &[-0.01, 0.0, 0.01, 0.0], 1e-9);
    // An equal share of three is the rounded third.
    let thirds = Literal::new([1, 3], &[1f32 / 3.0; 3]).unwrap();
    let found = outputs(&[thirds.clone(), thirds], |b, x| Ok(vec![bias::update(b, 0.5, x[0], x[1])?]));
    close(&found[0], &[1.0 / 3.0; 3], 1e-7);
}
