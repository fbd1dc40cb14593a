//! Known answers, through the evaluator and the passes that lowering runs.

use super::*;
use crate::build::{BuildError, Builder};
use crate::config::{OptimizerConfig, Schedule, Target};
use crate::eval::evaluate;
use crate::ir::{DType, Graph, Literal, Node, Op, TensorType, optimize, verify};
use crate::shard::{Mesh, Partition};

const FLAT: Schedule = Schedule::Constant { rate: 0.01, warmup_steps: 0 };

fn spec(shape: &[usize], batch_axes: usize) -> ParamSpec {
    let ty = TensorType::new(DType::F32, shape);
    ParamSpec { name: "w".into(), ty, partition: Partition::whole(), batch_axes, factored: true, decay: true }
}

fn adafactor(min_dim: usize, clip: Option<f64>, momentum: Option<f64>) -> OptimizerConfig {
    let mut config = OptimizerConfig::default();
    if let OptimizerConfig::Adafactor { min_dim_size_to_factor, clip_global_norm, beta1, .. } = &mut config {
        (*min_dim_size_to_factor, *clip_global_norm, *beta1) = (min_dim, clip, momentum);
    }
    config
}

fn adamw(weight: f64, clip: Option<f64>) -> OptimizerConfig {
    OptimizerConfig::AdamW {
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: weight,
        clip_global_norm: clip,
    }
}

/// `(params, grads, slots, mean squares, step) -> (params, slots, mean squares, rate, norm)`.
fn program(config: &OptimizerConfig, schedule: &Schedule, specs: &[ParamSpec], grads: DType) -> Graph {
    program_with(context(config, schedule), (specs, grads))
}

fn context<'a>(optimizer: &'a OptimizerConfig, schedule: &'a Schedule) -> Context<'a> {
    Context { mesh: Mesh::default(), optimizer, schedule, gradients_by_rows: false, target: Target::Cpu }
}

fn program_with(cx: Context, (specs, grads): (&[ParamSpec], DType)) -> Graph {
    let n = specs.len();
    let mut types: Vec<TensorType> = specs.iter().map(|s| s.ty.clone()).collect();
    types.extend(specs.iter().map(|s| s.ty.with_dtype(grads)));
    let kept = slots(cx.optimizer, specs);
    types.extend(kept.iter().map(|s| s.ty.clone()));
    types.extend(mean_squares(&cx, specs).into_iter().map(|s| s.ty));
    types.push(TensorType::scalar(DType::S32));
    let graph = Builder::graph(&types, |b, x| {
        let (step, state) = x.split_last().unwrap();
        let (params, rest) = state.split_at(n);
        let (grads, rest) = rest.split_at(n);
        let (slots, mean_squares) = rest.split_at(kept.len());
        let new = update(b, &cx, specs, State { params, slots, mean_squares }, grads, *step)?;
        Ok([new.params, new.slots, new.mean_squares, vec![new.learning_rate, new.grad_norm]].concat())
    });
    let graph = optimize(&graph.unwrap());
    verify(&graph).unwrap();
    graph
}

/// All results after these gradients of one parameter, from zero slots.
fn train(config: &OptimizerConfig, spec: &ParamSpec, param: &[f32], grads: &[&[f32]]) -> Vec<Vec<f64>> {
    let [whole, by_rows] = [false, true].map(|by_rows| {
        let specs = std::slice::from_ref(spec);
        let cx = Context { gradients_by_rows: by_rows, ..context(config, &FLAT) };
        let graph = program_with(cx, (specs, DType::F32));
        assert_eq!(graph.nodes().iter().any(|n| matches!(n.op, Op::Scan(_))), by_rows && spec.batch_axes > 0);
        train_by(&graph, &cx, spec, param, grads)
    });
    // The norm is a sum of the same terms in another order.
    let (last, rest) = whole.split_last().unwrap();
    assert_eq!(rest, &by_rows[..rest.len()]);
    close(&by_rows[rest.len()], last, 1e-6);
    whole
}

fn train_by(graph: &Graph, cx: &Context, spec: &ParamSpec, param: &[f32], grads: &[&[f32]]) -> Vec<Vec<f64>> {
    let shape = spec.ty.shape.clone();
    let mut state = vec![Literal::new(shape.clone(), param).unwrap()];
    let specs = std::slice::from_ref(spec);
    let derive = Builder::graph(std::slice::from_ref(&spec.ty), |b, x| take_mean_squares(b, cx, specs, x));
    let derived = evaluate(&derive.unwrap(), &state).unwrap();
    state.extend(slots(cx.optimizer, specs).into_iter().map(|s| Literal::zeros(s.ty)));
    state.extend(derived);
    for (step, grad) in grads.iter().enumerate() {
        let mut inputs = state.clone();
        inputs.insert(1, Literal::new(shape.clone(), grad).unwrap());
        inputs.push(Literal::scalar(step as i32));
        state = evaluate(graph, &inputs).unwrap();
        if step + 1 < grads.len() {
            state.truncate(state.len() - 2);
        }
    }
    state.iter().map(Literal::to_f64).collect()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance, "{found:?} is not {expected:?}");
    }
}

const P: [f32; 6] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
const G0: [f32; 6] = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6];
const G1: [f32; 6] = [-0.3, 0.1, 0.2, 0.2, 0.4, -0.1];

// The answers have seven decimals, float32 about as many digits.
const TOLERANCE: f64 = 2e-7;

#[test]
fn unfactored_adafactor_first_steps_by_sign_then_by_moments() {
    let config = adafactor(128, None, None);
    // The first direction is the sign; its size is 0.01 * rms(p), rms(p)^2 = 0.91 / 6.
    let step = 0.00389444;
    let first: Vec<f64> =
        P.iter().zip(G0).map(|(&p, g)| f64::from(p) - step * f64::from(g.signum())).collect();
    close(&train(&config, &spec(&[2, 3], 0), &P, &[&G0])[0], &first, TOLERANCE);
    let second = [0.1010515, 0.2013101, 0.2929550, 0.4013101, 0.4926028, 0.6048725];
    close(&train(&config, &spec(&[2, 3], 0), &P, &[&G0, &G1])[0], &second, TOLERANCE);
}

#[test]
fn adafactor_with_an_offset_at_that_step_is_as_without_at_the_first() {
    let mut late = adafactor(2, None, None);
    if let OptimizerConfig::Adafactor { decay_offset, .. } = &mut late {
        *decay_offset = 1000;
    }
    let spec = spec(&[2, 3], 0);
    let step = |config: &OptimizerConfig, step: i32| -> Vec<Vec<f64>> {
        let graph = program(config, &FLAT, std::slice::from_ref(&spec), DType::F32);
        let literal = |data: &[f32]| Literal::new([2, 3], data).unwrap();
        let moments = [Literal::new([2], &[0.02f32, 0.3]), Literal::new([3], &[0.1f32, 0.2, 0.3])];
        let mut inputs = vec![literal(&P), literal(&G0)];
        inputs.extend(moments.map(Result::unwrap));
        inputs.push(Literal::scalar(step));
        evaluate(&graph, &inputs).unwrap().iter().map(Literal::to_f64).collect()
    };
    let early = adafactor(2, None, None);
    for n in [0, 1, 7] {
        assert_eq!(step(&late, 1000 + n), step(&early, n), "step {n}");
    }
    // Steps before it count as the first.
    assert_eq!(step(&late, 998), step(&early, 0));
}

#[test]
fn factored_adafactor_keeps_means_over_rows_and_columns() {
    let config = adafactor(2, None, None);
    let first = [0.0975919, 0.2036875, 0.2955597, 0.4041073, 0.4960691, 0.6037867];
    close(&train(&config, &spec(&[2, 3], 0), &P, &[&G0])[0], &first, TOLERANCE);
    let found = train(&config, &spec(&[2, 3], 0), &P, &[&G0, &G1]);
    close(&found[0], &[0.1038462, 0.2019874, 0.2921531, 0.4017774, 0.4922690, 0.6047385], TOLERANCE);
    close(&found[1], &[0.0466667, 0.1494548], TOLERANCE);
    close(&found[2], &[0.0735130, 0.1105390, 0.1101302], TOLERANCE);
}

#[test]
fn momentum_averages_scaled_changes() {
    // beta1 = 0.5 halves the first change: 0.01 * rms(p) * 0.5.
    let found = train(&adafactor(128, None, Some(0.5)), &spec(&[2, 3], 0), &P, &[&G0]);
    let half = 0.00194722;
    let signs: Vec<f64> = G0.iter().map(|g| half * f64::from(g.signum())).collect();
    close(&found[2], &signs, TOLERANCE);
    let params: Vec<f64> = P.iter().zip(&signs).map(|(&p, s)| f64::from(p) - s).collect();
    close(&found[0], &params, TOLERANCE);
}

#[test]
fn a_stack_is_updated_as_its_elements_are() {
    let other: Vec<f32> = P.iter().map(|p| 10.0 * p - 3.0).collect();
    for config in [adafactor(2, None, Some(0.9)), adafactor(128, None, None), adamw(0.1, None)] {
        let one = train(&config, &spec(&[2, 3], 0), &P, &[&G0, &G1]);
        let two = train(&config, &spec(&[2, 3], 0), &other, &[&G1, &G0]);
        let both = train(
            &config,
            &spec(&[2, 2, 3], 1),
            &[&P[..], &other].concat(),
            &[&[&G0[..], &G1].concat(), &[&G1[..], &G0].concat()],
        );
        // All but the rate and the norm, which is of the whole stack.
        for i in 0..one.len() - 2 {
            close(&both[i], &[&one[i][..], &two[i]].concat(), 1e-7);
        }
    }
}

#[test]
fn zero_gradients_change_nothing() {
    let zero = [0.0; 6];
    for min_dim in [2, 128] {
        let found = train(&adafactor(min_dim, None, None), &spec(&[2, 3], 0), &P, &[&zero, &zero]);
        assert_eq!(found[0], P.map(f64::from));
    }
}

#[test]
fn adamw_follows_three_steps_by_hand() {
    // rate 0.01, decay 0.1: p * 0.999 - 0.01 * (m / (1 - 0.9^t)) / sqrt(v / (1 - 0.99^t)).
    //   g 0.5:   m 0.05,  v 0.0025;    0.5 / 0.5           -> 0.999 - 0.01                   = 0.989
    //   g -0.25: m 0.02,  v 0.0031;    0.1052632 / 0.3946884 = 0.2666994 -> 0.988011 - 0.002666994 = 0.985344006
    //   g 1:     m 0.118, v 0.013069;  0.4354244 / 0.6633474 = 0.6564047 -> 0.984358662 - 0.006564047 = 0.977794615
    let spec = spec(&[], 0);
    let one = train(&adamw(0.1, None), &spec, &[1.0], &[&[0.5]]);
    close(&one[0], &[0.989], TOLERANCE);
    let two = train(&adamw(0.1, None), &spec, &[1.0], &[&[0.5], &[-0.25]]);
    close(&two[0], &[0.985344006], TOLERANCE);
    let three = train(&adamw(0.1, None), &spec, &[1.0], &[&[0.5], &[-0.25], &[1.0]]);
    close(&three[0], &[0.977794615], TOLERANCE);
    close(&[three[1][0], three[2][0]], &[0.118, 0.013069], TOLERANCE);
}

#[test]
fn parameters_that_do_not_decay_keep_their_size() {
    let kept = ParamSpec { decay: false, ..spec(&[], 0) };
    close(&train(&adamw(0.1, None), &kept, &[1.0], &[&[0.5]])[0], &[0.99], TOLERANCE);
}

#[test]
fn the_global_norm_is_over_all_parameters_and_clips() {
    // Gradients 3 and 4 have norm 5; at limit 1 they become 0.6 and 0.8, and m a tenth of that.
    let config = adamw(0.0, Some(1.0));
    let graph = program(&config, &FLAT, &[spec(&[1], 0), spec(&[], 0)], DType::F32);
    let run = |g: [f32; 2]| -> Vec<Vec<f64>> {
        let (row, scalar) = (|x: f32| Literal::new([1], &[x]).unwrap(), |x: f32| Literal::scalar(x));
        let (a, b) = (row(0.0), scalar(0.0));
        let inputs = [
            a.clone(),
            b.clone(),
            row(g[0]),
            scalar(g[1]),
            a.clone(),
            a,
            b.clone(),
            b,
            Literal::scalar(0i32),
        ];
        evaluate(&graph, &inputs).unwrap().iter().map(Literal::to_f64).collect()
    };
    let found = run([3.0, 4.0]);
    close(&[found[2][0], found[4][0], found[7][0]], &[0.06, 0.08, 5.0], 1e-6);
    // Below the limit nothing changes.
    let found = run([0.3, 0.4]);
    close(&[found[2][0], found[4][0], found[7][0]], &[0.03, 0.04, 0.5], 1e-6);
    assert!(run([f32::NAN, 4.0])[7][0].is_nan());
    assert_eq!(run([f32::INFINITY, 4.0])[7][0], f64::INFINITY);
}

#[test]
fn clipping_reaches_factored_moments() {
    // |G0|^2 = 0.91; at limit 0.0953939 = |G0| / 10 the update is that of G0 / 10.
    let tenth = G0.map(|g| g / 10.0);
    let limit = 0.91f64.sqrt() / 10.0;
    let clipped = train(&adafactor(2, Some(limit), None), &spec(&[2, 3], 0), &P, &[&G0]);
    let plain = train(&adafactor(2, None, None), &spec(&[2, 3], 0), &P, &[&tenth]);
    for i in 0..3 {
        close(&clipped[i], &plain[i], 1e-7);
    }
    close(&clipped[4], &[0.91f64.sqrt()], 1e-6);
}

#[test]
fn gradients_in_bfloat16_are_taken() {
    // 0.5 is exact in bfloat16: the first AdamW step is the rate.
    let graph = program(&adamw(0.0, None), &FLAT, &[spec(&[], 0)], DType::Bf16);
    let zero = Literal::scalar(0f32);
    let inputs = [
        Literal::scalar(1f32),
        Literal::scalar_of(DType::Bf16, 0.5),
        zero.clone(),
        zero,
        Literal::scalar(0i32),
    ];
    close(&evaluate(&graph, &inputs).unwrap()[0].to_f64(), &[0.99], TOLERANCE);
}

/// Reductions of tensors of the size of the parameter.
fn full_reductions(config: &OptimizerConfig) -> usize {
    let spec = spec(&[256, 128], 0);
    let graph = program(config, &FLAT, std::slice::from_ref(&spec), DType::F32);
    let is_full = |n: &&Node| graph.ty(n.operands[0]).elements() == spec.ty.elements();
    graph.nodes().iter().filter(|n| matches!(n.op, Op::Reduce { .. })).filter(is_full).count()
}

#[test]
fn few_reductions_read_a_whole_tensor() {
    // AdamW: the norm. Unfactored: the norm, rms of parameter and direction. Factored: rows and columns hold the norm.
    assert_eq!(full_reductions(&adamw(0.1, Some(1.0))), 1);
    assert_eq!(full_reductions(&adafactor(512, Some(1.0), None)), 3);
    assert_eq!(full_reductions(&adafactor(128, Some(1.0), None)), 4);
}

#[test]
fn sums_are_shaped_for_the_compiler_and_the_update_is_the_same() {
    let (config, spec) = (adafactor(128, None, None), spec(&[2, 128, 160], 1));
    let wave =
        |scale: f64| (0..spec.ty.elements()).map(|n| (n as f64 * scale).sin() as f32).collect::<Vec<_>>();
    let (param, grads) = (wave(0.37), [wave(1.3), wave(0.9)]);
    let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
    let cases = [
        (Target::Cpu, false),
        (Target::Gpu, false),
        (Target::Gpu, true),
        (Target::Tpu, false),
        (Target::Tpu, true),
    ];
    let found = cases.map(|(target, gradients_by_rows)| {
        let cx = Context { target, gradients_by_rows, ..context(&config, &FLAT) };
        let specs = std::slice::from_ref(&spec);
        let graph = program_with(cx, (specs, DType::F32));
        // On CPUs long sums in two parts; on TPUs mean squares of parameters from the update before, or two sums in one pass.
        assert_eq!(count(&graph, |n| matches!(n.op, Op::OptimizationBarrier)) > 0, target == Target::Cpu);
        let together = count(&graph, |n| matches!(n.op, Op::Reduce { .. }) && n.operands.len() == 2);
        assert_eq!(together, (target == Target::Tpu && gradients_by_rows) as usize);
        assert_eq!(mean_squares(&cx, specs).len(), (target == Target::Tpu && !gradients_by_rows) as usize);
        train_by(&graph, &cx, &spec, &param, &grads)
    });
    let [cpu, whole, by_rows, kept, together] = found;
    assert_ne!(cpu, whole, "sums in another order");
    assert_eq!(by_rows, together);
    // Parameter and moments; the squares of what became the parameter; rate and norm.
    assert_eq!(kept[..3], whole[..3]);
    assert_eq!(kept[4..], whole[3..]);
    let squares = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    let expected: Vec<f64> = kept[0].chunks(128 * 160).map(squares).collect();
    close(&kept[3], &expected, 1e-5 * expected[0]);
    for (split, whole) in cpu.iter().zip(&whole) {
        close(split, whole, 1e-4 * whole.iter().fold(0.0, |most: f64, x| most.max(x.abs())));
    }
}

/// Nodes of a graph and of its loops.
fn count(graph: &Graph, wanted: fn(&Node) -> bool) -> usize {
    let below = |node: &Node| match &node.op {
        Op::Scan(scan) => count(&scan.body, wanted),
        _ => 0,
    };
    graph.nodes().iter().map(|node| wanted(node) as usize + below(node)).sum()
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let result = Builder::graph(&[TensorType::scalar(DType::S32)], |b, x| {
        let param = b.zeros(&TensorType::new(DType::F32, [3]))?;
        let one = [param];
        let optimizer = &adamw(0.1, None);
        let cx = context(optimizer, &FLAT);
        let state = State { params: &one, slots: &one, mean_squares: &[] };
        update(b, &cx, &[spec(&[3], 0)], state, &one, x[0])?;
        Ok(vec![])
    });
    let Err(error @ BuildError::Invalid(_)) = result else { panic!("{result:?}") };
    assert_eq!(error.to_string(), "optimizer: expected 2 slots, got 1");
}

#[track_caller]
fn rates(schedule: Schedule, expected: &[(i32, f64)]) {
    let graph = Builder::graph(&[TensorType::scalar(DType::S32)], |b, x| {
        Ok(vec![learning_rate(b, &schedule, x[0])?])
    });
    let graph = graph.unwrap();
    for &(step, rate) in expected {
        let found = evaluate(&graph, &[Literal::scalar(step)]).unwrap()[0].to_f64()[0];
        assert!((found - rate).abs() <= 1e-6 * rate, "step {step}: {found} is not {rate}");
    }
}

#[test]
fn inverse_square_root_is_flat_then_falls() {
    let schedule = |warmup_steps| Schedule::InverseSquareRoot { base: 1.0, warmup_steps };
    rates(schedule(4), &[(0, 0.5), (4, 0.5), (5, 0.2f64.sqrt()), (16, 0.25)]);
    rates(schedule(0), &[(0, 1.0), (1, 1.0), (4, 0.5)]);
    rates(schedule(10_000), &[(0, 0.01), (10_000, 0.01), (40_000, 0.005)]);
}

#[test]
fn warm_up_rises_from_the_first_step_to_the_whole_rate() {
    let schedule = |warmup_steps| Schedule::Constant { rate: 0.1, warmup_steps };
    rates(schedule(4), &[(0, 0.025), (1, 0.05), (2, 0.075), (3, 0.1), (4, 0.1), (1000, 0.1)]);
    rates(schedule(0), &[(0, 0.1)]);
    rates(schedule(1), &[(0, 0.1), (1, 0.1)]);
}

#[test]
fn cosine_falls_from_the_peak_to_its_fraction() {
    let schedule = |warmup_steps, total_steps| Schedule::Cosine {
        peak: 1.0,
        warmup_steps,
        total_steps,
        final_fraction: 0.1,
    };
    // Half way from 2 to 10 the cosine is 0: 0.1 + 0.9 / 2.
    rates(schedule(2, 10), &[(0, 0.5), (1, 1.0), (2, 1.0), (6, 0.55), (10, 0.1), (1000, 0.1)]);
    rates(schedule(0, 0), &[(0, 1.0), (1, 0.1)]);
}

#[test]
fn the_mean_square_of_large_updates_is_a_product_on_tpus() {
    let (config, spec) = (adafactor(128, None, None), spec(&[2, 1024, 2048], 1));
    // Squares far from a product of rows and columns, so that updates are clipped.
    let value = |i: usize, prime: usize| ((i * prime % 1009) as f32 / 1009.0 - 0.5).powi(7);
    let values = |prime: usize| (0..2 * 1024 * 2048).map(|i| value(i, prime)).collect::<Vec<f32>>();
    let (param, grad) = (values(7919), values(6007));
    let [product, sum] = [Target::Tpu, Target::Cpu].map(|target| {
        let cx = Context { target, ..context(&config, &FLAT) };
        let graph = program_with(cx, (std::slice::from_ref(&spec), DType::F32));
        let products = graph.nodes().iter().filter(|n| matches!(n.op, Op::DotGeneral { .. })).count();
        assert_eq!(products, usize::from(target == Target::Tpu));
        train_by(&graph, &cx, &spec, &param, &[&grad]).swap_remove(0)
    });
    let change = param.iter().zip(&sum).map(|(old, new)| (new - f64::from(*old)).abs()).fold(0.0, f64::max);
    let apart = product.iter().zip(&sum).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-5 * change, "{apart} of {change}");
}
