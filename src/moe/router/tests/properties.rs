//! What holds of draws, of ties and where there is nothing to route.

use super::*;
use crate::config::Second;
use crate::moe::router::choose::{sorted_top_k, top_k};
use crate::moe::testing::close;

#[test]
fn a_random_second_choice_is_taken_as_often_as_its_gate_is_large() {
    // The second gate of every token is 0.1: with a threshold of 0.4 a quarter of 400 tokens takes it.
    let probs = [0.9, 0.1].repeat(400);
    let random = Second::Random { threshold: 0.4 };
    let taken = |phase, second, second_eval| {
        let exploration = Exploration::Argmax;
        let router = Router::Gshard { second, second_eval, exploration, priority: Priority::Position };
        let found = decided_in(phase, router, [1, 400, 2], 400, (&probs, None));
        found.kept.iter().skip(1).step_by(2).sum::<f64>()
    };
    // Four deviations of sqrt(400 / 4 * 3 / 4) = 8.7.
    let quarter = 65.0..=135.0;
    let found = taken(Phase::Train, random, None);
    assert!(quarter.contains(&found), "{found}");
    // Evaluation draws only where it is told to.
    assert_eq!(taken(Phase::Eval, random, None), 400.0);
    let found = taken(Phase::Eval, Second::All, Some(random));
    assert!(quarter.contains(&found), "{found}");
    let threshold = Second::Threshold { threshold: 0.2 };
    assert_eq!(taken(Phase::Eval, threshold, None), 0.0);
    assert_eq!(taken(Phase::Train, Second::All, Some(threshold)), 400.0);
}

#[test]
fn ties_go_to_the_lowest_index_by_passes_and_by_sorting() {
    let rows = [1.0, 3.0, 2.0, 3.0, 0.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0];
    let both = outputs(&[Literal::new([2, 6], &rows).unwrap()], |b, x| {
        Ok([top_k(b, x[0], 4)?, sorted_top_k(b, x[0], 4)?].concat())
    });
    let row = |found: &[Vec<f64>], i: usize| found.iter().map(|choice| choice[i]).collect::<Vec<_>>();
    assert_eq!(row(&both[..4], 0), [1., 3., 2., 5.]);
    assert_eq!(row(&both[..4], 1), [0., 1., 2., 3.]);
    assert_eq!(both[..4], both[4..]);
}

#[test]
fn samples_are_drawn_from_the_softmax() {
    // 600 tokens with probabilities 0.5, 0.3, 0.2; the gate is the probability of what was drawn.
    let logits: Vec<f64> = [0.5f64, 0.3, 0.2].map(f64::ln).repeat(600);
    let config = ModelConfig::default();
    let weights = Weights::default();
    let draw = |temperature: f64, phase: Phase| {
        let exploration = Exploration::Sample { temperature };
        let router = Router::Switch { exploration, priority: Priority::Position };
        outputs(&[Literal::new([1, 600, 3], &logits).unwrap()], |b, x| {
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context::alone(&config, phase, &weights, key);
            let scores = choose::scores(b, &cx, &router, x[0], None)?;
            let real = b.full(&TensorType::new(DType::F64, [1, 600]), 1.0)?;
            let choices = choose::choose(b, &cx, &router, scores, real)?;
            Ok(vec![choices.experts[0], choices.gates[0]])
        })
    };
    let found = draw(1.0, Phase::Train);
    for (expert, share) in [0.5, 0.3, 0.2].into_iter().enumerate() {
        let count = found[0].iter().filter(|&&e| e == expert as f64).count() as f64;
        // Five deviations: sqrt(600 * p * (1 - p)) is at most 12.3.
        assert!((count - 600.0 * share).abs() < 61.0, "expert {expert}: {count}");
    }
    let gates: Vec<f64> = found[0].iter().map(|&e| [0.5, 0.3, 0.2][e as usize]).collect();
    close(&found[1], &gates, 1e-12);
    // Cold, and in evaluation, the best is chosen.
    assert!(draw(1e-3, Phase::Train)[0].iter().all(|&e| e == 0.0));
    assert!(draw(1.0, Phase::Eval)[0].iter().all(|&e| e == 0.0));
}

#[test]
fn noise_on_what_the_router_sees_keeps_to_its_range_or_its_share_and_evaluation_has_none() {
    let (config, weights) = (ModelConfig::default(), Weights::default());
    let ones = Literal::new([1, 400, 4], &[1f32; 1600]).unwrap();
    let seen = |exploration: Exploration, phase: Phase| {
        let found = outputs(std::slice::from_ref(&ones), |b, x| {
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context::alone(&config, phase, &weights, key);
            Ok(vec![noise::on_inputs(b, &cx, exploration, x[0])?])
        });
        found.into_iter().next().unwrap()
    };
    let (jitter, dropout) =
        (Exploration::InputJitter { epsilon: 0.1 }, Exploration::InputDropout { rate: 0.25 });
    let factors = seen(jitter, Phase::Train);
    let (least, most) = factors.iter().fold((2.0f64, 0.0f64), |(a, b), x| (a.min(*x), b.max(*x)));
    assert!((0.9..0.902).contains(&least) && (1.098..=1.1 + 1e-6).contains(&most), "{least} to {most}");
    // Five deviations of 0.2 / sqrt(12 * 1600).
    let mean = factors.iter().sum::<f64>() / 1600.0;
    assert!((mean - 1.0).abs() < 0.0073, "{mean}");
    let kept: Vec<f64> = seen(dropout, Phase::Train).into_iter().filter(|x| *x != 0.0).collect();
    close(&kept, &vec![4.0 / 3.0; kept.len()], 1e-6);
    // Five deviations of sqrt(1600 * 3 / 16) = 17.4.
    assert!((1113..=1287).contains(&kept.len()), "{}", kept.len());
    assert_eq!([seen(jitter, Phase::Eval), seen(dropout, Phase::Eval)].concat(), [1.0; 3200]);
}

#[test]
fn statistics_of_nothing_but_padding_are_zero() {
    for router in [switch(Priority::Position), Router::ExpertChoice {}] {
        let found = decided(router, [2, 4, 4], 2, &FOUR, Some(&[0.0; 8]));
        assert_eq!((found.loss, found.dropped, found.dropped_choices), (0.0, 0.0, 0.0), "{router:?}");
        assert_eq!(found.load, [0.0; 4]);
    }
}
