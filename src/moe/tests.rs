//! One layer with every router: both dispatch forms agree, slots are held once, gradients are those of differences.

use super::dispatch::{self, Plan};
use super::experts;
use super::layer::MoeShape;
use super::router::{Slots, from_logits};
use super::testing::{close, outputs, shape};
use crate::build::{BuildError, Builder};
use crate::config::{Dispatch, Exploration, ModelConfig, MoeConfig, Placement, Priority, Router, Second};
use crate::grad::gradients;
use crate::ir::{DType, Literal, TensorType, Value};
use crate::layers::{Context, Params, Phase, Weights};
use crate::shard::Mesh;

const GROUPS: usize = 2;
const TOKENS: usize = 6;
const EXPERTS: usize = 4;
const CAPACITY: usize = 2;
const WIDTH: usize = 2;

/// Every kind of router, and every option that changes its program.
fn routers() -> Vec<Router> {
    use Exploration::{Argmax, Sample};
    use Placement::{ChoiceMajor, TokenMajor};
    use Priority::{Position, Probability};
    let gshard =
        |second, priority| Router::Gshard { second, second_eval: None, exploration: Argmax, priority };
    let switch = |exploration, priority| Router::Switch { exploration, priority };
    let top = |k, priority, placement| Router::TopK { k, exploration: Argmax, priority, placement };
    let rounds = |rounds, priority| Router::NoTokenLeftBehind { rounds, exploration: Argmax, priority };
    let mixtral = |k, placement| Router::Mixtral {
        k,
        exploration: Sample { temperature: 2.0 },
        priority: Position,
        placement,
    };
    let deepseek = |n_routing_groups, norm_topk_prob, priority| Router::DeepseekV3 {
        k: 2,
        n_routing_groups,
        topk_routing_group: 1,
        norm_topk_prob,
        routed_scaling_factor: 2.5,
        routed_bias_update_rate: 1e-3,
        priority,
        placement: ChoiceMajor,
    };
    vec![
        switch(Argmax, Position),
        switch(Sample { temperature: 1.0 }, Probability),
        top(2, Position, ChoiceMajor),
        top(3, Position, TokenMajor),
        top(2, Probability, TokenMajor),
        gshard(Second::All, Position),
        gshard(Second::Threshold { threshold: 0.3 }, Probability),
        gshard(Second::RANDOM, Position),
        Router::ExpertChoice {},
        rounds(3, Position),
        rounds(4, Probability),
        mixtral(2, ChoiceMajor),
        mixtral(4, TokenMajor),
        deepseek(1, true, Position),
        deepseek(2, true, Probability),
        deepseek(2, false, Position),
    ]
}

/// Numbers spread over a range, in no order, no two nor any of their differences alike: routers rank both.
fn numbers(shape: &[usize], seed: usize, low: f64, high: f64) -> Literal {
    let at = |i: usize| low + (high - low) * (((i + 97 * seed) as f64).sin() * 1e4).rem_euclid(1.0);
    let data: Vec<f64> = (1..=shape.iter().product()).map(at).collect();
    Literal::new(shape, &data).unwrap()
}

/// Tokens, router logits and expert scales; the last token of the second group is padding.
fn inputs(seed: usize) -> Vec<Literal> {
    let mut real = vec![1.0; GROUPS * TOKENS];
    real[GROUPS * TOKENS - 1] = 0.0;
    vec![
        numbers(&[GROUPS, TOKENS, WIDTH], seed, -1.0, 1.5),
        numbers(&[GROUPS, TOKENS, EXPERTS], seed + 1, -2.0, 2.0),
        numbers(&[EXPERTS, WIDTH], seed + 2, 0.5, 2.0),
        Literal::new([GROUPS, TOKENS], &real).unwrap(),
    ]
}

fn layer_shape(router: &Router) -> MoeShape {
    shape(router, [GROUPS, TOKENS, EXPERTS], CAPACITY, 2 * GROUPS)
}

/// Runs `body` with the routing of `inputs`.
fn routed<T>(
    b: &mut Builder,
    router: &Router,
    x: &[Value],
    body: impl FnOnce(&mut Builder, &super::router::Routing) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let (config, weights) = (ModelConfig::default(), Weights::default());
    let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
    let cx = Context::alone(&config, Phase::Train, &weights, key);
    let bias = b.constant(Literal::new([EXPERTS], &[0.0, 0.3, -0.2, 0.1])?)?;
    let routing = from_logits(b, &cx, router, (x[1], Some(bias)), x[3], &layer_shape(router))?;
    body(b, &routing)
}

/// The layer with experts `tanh(scale * x)`: its output `[G, S, D]`, the load-balancing loss, the z-loss.
fn layer(b: &mut Builder, router: &Router, form: Dispatch, x: &[Value]) -> Result<Vec<Value>, BuildError> {
    let shape = layer_shape(router);
    routed(b, router, x, |b, routing| {
        let plan = dispatch::plan(b, form, &shape, &routing.slots, DType::F64)?;
        let rows = dispatch::dispatch(b, &shape, &plan, x[0])?;
        let scale = b.broadcast_in_dim(x[2], &[EXPERTS, GROUPS * CAPACITY, WIDTH], &[0, 2])?;
        let scaled = b.mul(rows, scale)?;
        let out = b.tanh(scaled)?;
        let output = dispatch::combine(b, &shape, &plan, out)?;
        Ok(vec![output, routing.balance.loss, routing.z_loss])
    })
}

/// A sum of all outputs with weights of no symmetry.
fn objective(b: &mut Builder, values: &[Value]) -> Result<Value, BuildError> {
    let mut total = b.scalar(DType::F64, 0.0)?;
    for (i, &value) in values.iter().enumerate() {
        let weights = b.constant(numbers(&b.shape(value), 7 + i, -1.0, 2.0))?;
        let product = b.mul(value, weights)?;
        let sum = b.sum_all(product)?;
        total = b.add(total, sum)?;
    }
    Ok(total)
}

/// Outputs of the layer, the objective, and its gradients of tokens, logits and scales.
fn evaluated(router: &Router, form: Dispatch, inputs: &[Literal]) -> Vec<Vec<f64>> {
    outputs(inputs, |b, x| {
        let mut values = layer(b, router, form, x)?;
        let objective = objective(b, &values)?;
        values.push(objective);
        values.extend(gradients(b, objective, &x[..3])?);
        Ok(values)
    })
}

#[test]
fn both_dispatch_forms_agree_for_every_router() {
    for router in routers() {
        for seed in [0, 5] {
            let inputs = inputs(seed);
            let [einsum, gather] =
                [Dispatch::Einsum, Dispatch::Gather].map(|form| evaluated(&router, form, &inputs));
            for (a, b) in einsum.iter().zip(&gather) {
                close(a, b, 1e-12);
            }
            // Padding has no output, and there are gradients of everything.
            assert_eq!(gather[0][gather[0].len() - WIDTH..], [0.0; WIDTH], "{router:?}");
            assert!(gather[4..].iter().all(|g| g.iter().any(|x| *x != 0.0)), "{router:?}");
        }
    }
}

#[test]
fn gradients_of_every_router_are_those_of_differences() {
    const STEP: f64 = 1e-6;
    for router in routers() {
        let inputs = inputs(3);
        let found = evaluated(&router, Dispatch::Gather, &inputs);
        let value = |inputs: &[Literal]| {
            outputs(inputs, |b, x| {
                let values = layer(b, &router, Dispatch::Gather, x)?;
                Ok(vec![objective(b, &values)?])
            })[0][0]
        };
        for (input, gradient) in found[4..].iter().enumerate() {
            let moved = |k: usize, by: f64| {
                let mut inputs = inputs.clone();
                let mut data = inputs[input].to_f64();
                data[k] += by;
                inputs[input] = Literal::new(inputs[input].ty().shape.clone(), &data).unwrap();
                value(&inputs)
            };
            let differences: Vec<f64> =
                (0..gradient.len()).map(|k| (moved(k, STEP) - moved(k, -STEP)) / (2.0 * STEP)).collect();
            // Rounding of a sum of about ten over the step, and its square.
            close(gradient, &differences, 1e-7);
        }
    }
}

#[test]
fn a_slot_holds_one_token_and_padding_holds_none() {
    for router in routers() {
        let form = |form| {
            outputs(&inputs(9), |b, x| {
                let shape = layer_shape(&router);
                routed(b, &router, x, |b, routing| {
                    match dispatch::plan(b, form, &shape, &routing.slots, DType::F64)? {
                        Plan::Einsum { dispatch, combine } => Ok(vec![dispatch, combine, routing.decisions]),
                        Plan::Gather { token_of_slot, .. } | Plan::GatherAndAdd { token_of_slot, .. } => {
                            Ok(vec![token_of_slot])
                        }
                    }
                })
            })
        };
        let mask = form(Dispatch::Einsum);
        let slots = EXPERTS * CAPACITY;
        let mut held = 0.0;
        for group in 0..GROUPS {
            for slot in 0..slots {
                let column: f64 = (0..TOKENS).map(|t| mask[0][(group * TOKENS + t) * slots + slot]).sum();
                assert!(column == 0.0 || column == 1.0, "{router:?}: slot {slot} of group {group}");
                held += column;
            }
        }
        let last = &mask[0][mask[0].len() - slots..];
        assert!(last.iter().all(|x| *x == 0.0), "{router:?}: padding");
        let outside = mask[0].iter().zip(&mask[1]).any(|(mark, gate)| *mark == 0.0 && *gate != 0.0);
        assert!(!outside, "{router:?}: a gate without a slot");
        // As many slots are held as choices are kept, in both forms.
        assert_eq!(mask[2].iter().filter(|e| **e >= 0.0).count() as f64, held, "{router:?}");
        let table = &form(Dispatch::Gather)[0];
        let mut tokens: Vec<f64> = table.iter().copied().filter(|t| *t < (GROUPS * TOKENS) as f64).collect();
        assert_eq!(tokens.len() as f64, held, "{router:?}");
        // A token is at most once with each expert.
        for expert in table.chunks(GROUPS * CAPACITY) {
            let mut real: Vec<f64> =
                expert.iter().copied().filter(|t| *t < (GROUPS * TOKENS) as f64).collect();
            let count = real.len();
            real.sort_by(f64::total_cmp);
            real.dedup();
            assert_eq!(real.len(), count, "{router:?}");
        }
        tokens.sort_by(f64::total_cmp);
        let most = layer_shape(&router).choices;
        assert!(tokens.chunk_by(|a, b| a == b).all(|same| same.len() <= most), "{router:?}");
    }
}

/// Four rows of four tokens in two groups of eight, two experts with the same weights; inputs and outputs of a published test.
const ROWS: [f64; 32] = [
    -4.06583309,
    6.00095034,
    5.82954168,
    0.423374176,
    5.31417847,
    -4.10192966,
    -1.73600435,
    4.18311596,
    1.3477397,
    7.68760443,
    -7.11283922,
    2.22158194,
    -7.08262205,
    6.91680193,
    -3.26735973,
    -9.90374088,
    2.38254786,
    -5.56067467,
    8.08540153,
    -5.25351763,
    -1.48232698,
    -9.29440022,
    -3.55733871,
    1.36978388,
    3.335886,
    2.31853485,
    -6.28798962,
    -2.36971378,
    2.18186855,
    -8.6392765,
    -4.38068628,
    6.57238722,
];
const RESULTS: [f64; 32] = [
    -5.43e-7, -9.80e-7, -2.8485384, -2.0157995, -3.3071041, -2.311136, 0.0, 0.0, -4.84e-7, -8.74e-7,
    -5.32e-7, -9.60e-7, -7.41e-7, -1.338e-6, 1.3946553, 1.0524274, -1.5633354, -1.0680735, -6.9210348,
    -4.8458524, 0.46841961, 0.39556113, -4.60e-7, -8.30e-7, 0.0, 0.0, 0.81172025, 0.5889442, -1.7119075,
    -1.1470584, -5.55e-7, -1.00e-6,
];

#[test]
fn a_whole_layer_has_the_published_outputs_in_both_forms() {
    let router = Router::TopK {
        k: 2,
        exploration: Exploration::Argmax,
        priority: Priority::Probability,
        placement: Placement::ChoiceMajor,
    };
    let shape = shape(&router, [2, 8, 2], 4, 4);
    let (config, weights) = (ModelConfig::default(), Weights::default());
    for form in [Dispatch::Einsum, Dispatch::Gather] {
        let found = outputs(&[Literal::new([2, 8, 2], &ROWS.map(|x| x as f32)).unwrap()], |b, x| {
            let constant = |b: &mut Builder, shape: &[usize], data: &[f64]| {
                let data: Vec<f32> = data.iter().map(|&x| x as f32).collect();
                b.constant(Literal::new(shape, &data)?)
            };
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context::alone(&config, Phase::Train, &weights, key);
            let logits = b.mul_scalar(x[0], 0.1)?;
            let real = constant(b, &[2, 8], &[1.0; 16])?;
            let routing = from_logits(b, &cx, &router, (logits, None), real, &shape)?;
            let plan = dispatch::plan(b, form, &shape, &routing.slots, DType::F32)?;
            // Experts see inputs rounded to bfloat16.
            let rounded = b.convert(x[0], DType::Bf16)?;
            let rounded = b.convert(rounded, DType::F32)?;
            let rows = dispatch::dispatch(b, &shape, &plan, rounded)?;
            let affine = |b: &mut Builder, x: Value, w: &[f64], bias: &[f64]| {
                let w = constant(b, &[2, 2], w)?;
                let product = b.einsum("etd,df->etf", x, w)?;
                let bias = constant(b, &[2], bias)?;
                let bias = b.broadcast_in_dim(bias, &b.shape(product), &[2])?;
                b.add(product, bias)
            };
            let wi = [-0.00917878933, 0.805568516, -1.06115723, -0.609492719];
            let hidden = affine(b, rows, &wi, &[-7.24654853e-07, 1.11685688e-06])?;
            let zero = b.full_like(hidden, 0.0)?;
            let hidden = b.max(hidden, zero)?;
            let wo = [0.527676404, 0.38285631, -1.01309729, -0.716929317];
            let out = affine(b, hidden, &wo, &[-7.41250687e-07, -1.33774665e-06])?;
            Ok(vec![dispatch::combine(b, &shape, &plan, out)?])
        });
        // Rounded to eight digits, sums in float32.
        for (found, expected) in found[0].iter().zip(RESULTS) {
            assert!(
                (found - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                "{form:?}: {found}, {expected}"
            );
            assert_eq!(*found == 0.0, expected == 0.0, "{form:?}: only dropped tokens are zero");
        }
    }
}

#[test]
fn dropout_of_experts_is_apart_from_that_of_all_else() {
    // One expert of matrices [[1]] gives back what each of 1600 slots holds.
    let found = |dropout: f64, expert_dropout: f64, phase: Phase| {
        let moe = MoeConfig { num_experts: 1, expert_dropout, ..MoeConfig::default() };
        let config = ModelConfig { d_model: 1, d_ff: 1, dropout, moe, ..ModelConfig::default() };
        let found = outputs(&[Literal::new([1, 1600, 1], &[1f32; 1600]).unwrap()], |b, x| {
            let mut params = Params::default();
            experts::declare(&mut params, &config);
            let defs = params.into_defs();
            let ones = defs.iter().map(|def| b.full(&def.ty(), 1.0)).collect::<Result<Vec<_>, _>>()?;
            let weights = Weights::new(Mesh::default(), defs.iter().zip(ones));
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context::alone(&config, phase, &weights, key);
            Ok(vec![experts::apply(b, &cx, x[0])?])
        });
        found.into_iter().next().unwrap()
    };
    assert_eq!(found(0.9, 0.0, Phase::Train), [1.0; 1600]);
    assert_eq!(found(0.0, 0.25, Phase::Eval), [1.0; 1600]);
    let kept: Vec<f64> = found(0.0, 0.25, Phase::Train).into_iter().filter(|x| *x != 0.0).collect();
    close(&kept, &vec![4.0 / 3.0; kept.len()], 1e-6);
    // Five deviations of sqrt(1600 * 3 / 16) = 17.4.
    assert!((1113..=1287).contains(&kept.len()), "{}", kept.len());
}

#[test]
fn a_token_taken_by_no_expert_has_no_output() {
    let expected = Router::ExpertChoice {};
    let found = outputs(&inputs(1), |b, x| {
        routed(b, &expected, x, |_, routing| match routing.slots {
            Slots::OfExperts { token, gate } => Ok(vec![token, gate, routing.decisions, routing.dropped]),
            Slots::OfTokens { .. } => panic!("experts choose"),
        })
    });
    let output = evaluated(&expected, Dispatch::Gather, &inputs(1));
    let mut lost = 0;
    for token in 0..GROUPS * TOKENS - 1 {
        let takers = &found[2][token * EXPERTS..][..EXPERTS];
        let taken = takers.iter().any(|e| *e >= 0.0);
        assert_eq!(output[0][token * WIDTH..][..WIDTH].iter().any(|y| *y != 0.0), taken);
        lost += usize::from(!taken);
    }
    close(&found[3], &[lost as f64 / (GROUPS * TOKENS - 1) as f64], 1e-12);
}
