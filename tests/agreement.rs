//! Different ways to build the same model give the same numbers: both dispatch forms, scanned and unrolled blocks, every
//! rematerialisation policy, one batch and its microbatches; and XLA gives those of the evaluator.
//!
//! XLA's compiler takes most of the time here, so it sees one form of each pair.
#![cfg(feature = "cpu")]

mod settings;

use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Once;
use switchyard::artifact;
use switchyard::config::RunConfig;
use switchyard::eval::evaluate;
use switchyard::inspect;
use switchyard::ir::Literal;
use switchyard::layers::row_of;
use switchyard::runtime::cpu;
use switchyard::step;
use switchyard::train::{Named, Session};

/// Updates are the gradients themselves: with this epsilon AdamW's first step is `-rate * g / epsilon` to six digits.
const BASE: &str = r#"{
    "model": {
        "vocab_size": 384, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2,
        "num_encoder_layers": 4, "num_decoder_layers": 4, "scan_blocks": true, "feed_forward": "gated_gelu",
        "moe": {"num_experts": 4, "every": 2, "z_loss_coef": 0.001, "expert_dropout": 0.2,
                "capacity": {"train_factor": 1.0, "minimum": 1}}
    },
    "batch": {"sequences": 4, "input_length": 24},
    "optimizer": {"kind": "adamw", "epsilon": 1e6, "weight_decay": 0.0},
    "schedule": {"kind": "constant", "rate": 1e6, "warmup_steps": 0}
}"#;

/// The state after one step and what the step reports.
struct Step {
    state: BTreeMap<String, Vec<f64>>,
    metrics: BTreeMap<String, Vec<f64>>,
}

/// The CPU client, compiling fast instead of well.
fn session(artifact: artifact::Artifact) -> Session {
    static FLAGS: Once = Once::new();
    // SAFETY: the first thing that any test here does with the environment, and done once.
    FLAGS.call_once(|| unsafe { std::env::set_var("XLA_FLAGS", "--xla_backend_optimization_level=0") });
    Session::new(cpu::open_dyn(1).unwrap(), artifact)
}

fn config(changes: &[(&str, serde_json::Value)]) -> RunConfig {
    settings::config(BASE, changes)
}

fn tokens(rows: usize, length: usize, seed: u64) -> Literal {
    let mut state = seed;
    let draw = |i: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // The last two tokens of every other row are padding.
        if (i / length).is_multiple_of(2) && i % length >= length - 2 {
            0
        } else {
            3 + (state >> 33) as i32 % 250
        }
    };
    let data: Vec<i32> = (0..rows * length).map(draw).collect();
    Literal::new([rows, length], &data).unwrap()
}

fn batch(config: &RunConfig) -> Named {
    let sizes = &config.batch;
    vec![
        ("inputs".into(), tokens(sizes.sequences, sizes.input_length, 1)),
        ("targets".into(), tokens(sizes.sequences, sizes.target_length, 2)),
    ]
}

/// Parts values into the state that `before` names and metrics.
fn parted(values: impl IntoIterator<Item = (String, Literal)>, before: &Named) -> Step {
    let read = |(name, value): (String, Literal)| (name, value.to_f64());
    let is_state = |(name, _): &(String, Vec<f64>)| before.iter().any(|(found, _)| found == name);
    let (state, metrics) = values.into_iter().map(read).partition(is_state);
    Step { state, metrics }
}

/// The outputs of a program by name, on the evaluator.
fn evaluated(config: &RunConfig, program: &str, given: &Named) -> Named {
    let program = step::build(config, program).unwrap().unwrap();
    let whole = |name: &str| given.iter().find(|(found, _)| found == name).unwrap().1.clone();
    let value = |name: &str| match row_of(name) {
        Some((stack, row)) => whole(stack).rows()[row].clone(),
        None => whole(name),
    };
    let inputs: Vec<Literal> = program.inputs.iter().map(|port| value(&port.name)).collect();
    let values = evaluate(&program.graph, &inputs).unwrap();
    joined(program.outputs.iter().map(|port| port.name.clone()).zip(values))
}

/// Rows of stacks, which come in order, as the stacks.
fn joined(values: impl Iterator<Item = (String, Literal)>) -> Named {
    let mut stacks: BTreeMap<String, Vec<Literal>> = BTreeMap::new();
    let mut all = vec![];
    for (name, value) in values {
        match row_of(&name) {
            Some((stack, _)) => stacks.entry(stack.into()).or_default().push(value),
            None => all.push((name, value)),
        }
    }
    all.extend(stacks.into_iter().map(|(name, rows)| (name, Literal::stack(&rows).unwrap())));
    all
}

/// One training step on the evaluator.
fn step(changes: &[(&str, serde_json::Value)], state: &Named) -> Step {
    let config = config(changes);
    let given = [state.clone(), batch(&config)].concat();
    parted(evaluated(&config, "train_step", &given), state)
}

/// The same step compiled by XLA.
fn compiled_step(changes: &[(&str, serde_json::Value)], state: &Named) -> Step {
    let config = config(changes);
    let artifact = artifact::compile_programs(&config, &["train_step"]).unwrap();
    let mut session = session(artifact);
    for (name, value) in state {
        session.set_state(name, value).unwrap();
    }
    let metrics = session.run("train_step", batch(&config)).unwrap();
    let after = state.iter().map(|(name, _)| (name.clone(), session.state(name).unwrap()));
    parted(after.chain(metrics), state)
}

/// The same for all configurations that differ in form only: parameters depend on names, shapes and the seed alone.
fn first_state(changes: &[(&str, serde_json::Value)]) -> Named {
    let seed = Literal::new([2], &[0u32, 7]).unwrap();
    evaluated(&config(changes), "init", &vec![("seed".into(), seed)])
}

/// The norm of the difference over the norm of the first.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied()).max(1e-12)
}

/// Gradients of all parameters (as the change of the state) and all metrics agree within `tolerance`.
fn assert_agree(what: &str, before: &Named, a: &Step, b: &Step, tolerance: f64) {
    for (name, value) in &a.metrics {
        let found = distance(value, &b.metrics[name]);
        assert!(
            found < tolerance,
            "{what}: metric {name} differs by {found}: {value:?}, {:?}",
            b.metrics[name]
        );
    }
    for (name, start) in before.iter().filter(|(name, _)| !name.starts_with("optimizer/") && name != "key") {
        let change = |step: &Step| -> Vec<f64> {
            step.state[name].iter().zip(start.to_f64()).map(|(new, old)| new - old).collect()
        };
        let (a, b) = (change(a), change(b));
        assert!(a.iter().any(|x| *x != 0.0), "{what}: {name} has no gradient");
        // Differences of stored float32 weights carry their rounding too.
        let rounding = start.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt() * 1e-7;
        let error = a.iter().zip(&b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
        let norm = a.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(
            error <= tolerance * norm + rounding,
            "{what}: gradient of {name} differs by {}",
            error / norm
        );
    }
}

/// Float32 sums in another order.
const ROUNDING: f64 = 2e-5;

#[test]
fn all_ways_to_build_a_step_agree() {
    let state = first_state(&[]);
    let reference = step(&[("model.moe.dispatch", "einsum".into())], &state);
    let dropped: f64 = reference.metrics["layers/dropped"].iter().sum();
    assert!(dropped > 0.0, "the capacity must bind somewhere, or dropping is not tested");
    let einsum = |key: &'static str, value: serde_json::Value| {
        vec![("model.moe.dispatch", "einsum".into()), (key, value)]
    };
    let variants = [
        ("gather against einsum", vec![("model.moe.dispatch", "gather".into())]),
        ("unrolled against scanned blocks", einsum("model.scan_blocks", false.into())),
        ("scores computed again", einsum("model.remat", "scores".into())),
        ("matrix products kept", einsum("model.remat", "dots".into())),
        ("nothing kept", einsum("model.remat", "full".into())),
        (
            "gather, unrolled, nothing kept",
            vec![
                ("model.moe.dispatch", "gather".into()),
                ("model.scan_blocks", false.into()),
                ("model.remat", "full".into()),
            ],
        ),
    ];
    for (what, changes) in &variants {
        assert_agree(what, &state, &reference, &step(changes, &state), ROUNDING);
    }
    let compiled = compiled_step(&[("model.moe.dispatch", "einsum".into())], &state);
    assert_agree("XLA against the evaluator", &state, &reference, &compiled, ROUNDING);
    for (what, changes) in variants.iter().filter(|(what, _)| what.starts_with("gather")) {
        let what = format!("{what}, by XLA");
        assert_agree(&what, &state, &reference, &compiled_step(changes, &state), ROUNDING);
    }
}

#[test]
fn a_run_starts_with_the_same_numbers_whether_stacks_are_held_whole_or_by_rows() {
    let unrolled = [("model.scan_blocks", serde_json::Value::from(false))];
    assert!(step::build(&config(&unrolled), "init").unwrap().unwrap().outputs.len() > first_state(&[]).len());
    let sorted = |state: Named| state.into_iter().collect::<BTreeMap<_, _>>();
    assert_eq!(sorted(first_state(&unrolled)), sorted(first_state(&[])));
    // And by XLA, through what a session makes of them.
    let state = |changes: &[(&str, serde_json::Value)]| {
        let mut session = session(artifact::compile_programs(&config(changes), &["init"]).unwrap());
        session.init(7).unwrap();
        assert!(session.has_state());
        let layout = session.state_layout().into_iter();
        layout.map(|(name, _)| (session.state(&name).unwrap(), name)).collect::<Vec<_>>()
    };
    assert_eq!(state(&unrolled), state(&[]));
}

#[test]
fn what_follows_from_the_state_follows_it_wherever_that_comes_from() {
    let common = [
        ("model.num_encoder_layers", 2.into()),
        ("model.num_decoder_layers", 2.into()),
        ("optimizer", json!({"kind": "adafactor", "min_dim_size_to_factor": 8})),
        ("schedule", json!({"kind": "constant", "rate": 0.05, "warmup_steps": 0})),
    ];
    // Only the second keeps mean squares of parameters from step to step.
    let targets = [vec![], vec![("target", "tpu".into()), ("model.scan_blocks", false.into())]];
    let [mut plain, mut keeping] = targets.map(|more| {
        let config = config(&[&common[..], &more].concat());
        session(artifact::compile_programs(&config, &["init", "train_step"]).unwrap())
    });
    assert!(plain.require(&["derive"]).is_err() && keeping.require(&["derive"]).is_ok());
    let given = first_state(&common);
    let put = |session: &mut Session, state: &Named| {
        state.iter().try_for_each(|(name, value)| session.set_state(name, value)).unwrap();
    };
    let state = |session: &Session| -> Named {
        let names = session.state_layout().into_iter().map(|(name, _)| name);
        names.map(|name| (name.clone(), session.state(&name).unwrap())).collect()
    };
    let train = |session: &mut Session| session.run("train_step", batch(&config(&common))).unwrap();
    let trained = |session: &mut Session| {
        (0..3).for_each(|_| drop(train(session)));
        state(session)
    };
    let assert_close = |what: &str, expected: &Named, found: &Named, tolerance: f64| {
        let found: BTreeMap<_, _> = found.iter().map(|(name, value)| (name, value)).collect();
        for (name, value) in expected {
            let error = distance(&value.to_f64(), &found[name].to_f64());
            assert!(error < tolerance, "{what}: {name} differs by {error}");
        }
    };
    put(&mut plain, &given);
    put(&mut keeping, &given);
    let from_host = trained(&mut keeping);
    // What products would round is rounded.
    assert_close("without", &trained(&mut plain), &from_host, 0.01);
    // State that is put back is followed anew.
    put(&mut keeping, &given);
    for _ in 0..3 {
        train(&mut keeping);
        let back = state(&keeping);
        put(&mut keeping, &back);
    }
    assert_close("step by step", &state(&keeping), &from_host, ROUNDING);
    // What steps left would not fit the state that comes now.
    put(&mut keeping, &given);
    assert!(trained(&mut keeping) == from_host, "given again");
    keeping.init(8).unwrap();
    let from_seed = trained(&mut keeping);
    keeping.init(8).unwrap();
    assert!(trained(&mut keeping) == from_seed, "initialised again");
    assert!(from_seed != from_host);
}

/// Tokens in a row of each side.
fn lengths() -> [u64; 2] {
    let batch = config(&[]).batch;
    [batch.input_length as u64, batch.target_length as u64]
}

/// Queries of two heads, in four rows and four blocks on each side; those of the decoder meet keys of both sides.
fn num_queries() -> u64 {
    let [input, target] = lengths();
    4 * 4 * 2 * (input + 2 * target)
}

/// The scores of these.
fn num_scores() -> u64 {
    let [input, target] = lengths();
    4 * 4 * 2 * (input * input + target * target + target * input)
}

#[test]
fn scores_that_are_computed_again_are_products_and_not_memory() {
    let found = |remat: &str, scanned: bool| {
        let changes = [("model.remat", remat.into()), ("model.scan_blocks", scanned.into())];
        let artifact = artifact::compile_programs(&config(&changes), &["train_step"]).unwrap();
        let found = inspect::inspect(artifact.program("train_step").unwrap().1).unwrap();
        (found.flops.dot, found.memory.kept_bytes)
    };
    let ([input, target], scores) = (lengths(), num_scores());
    for scanned in [true, false] {
        let ((flops, kept), (more, less)) = (found("none", scanned), found("scores", scanned));
        // Heads have width 8.
        assert_eq!(more - flops, 2 * 8 * scores, "scanned: {scanned}");
        // Exponentials in float32, less the terms of the scores, which all blocks share: biases of two heads and hidden padding of four rows.
        let terms = 2 * (input * input + target * target) + 4 * (input + target);
        // The forward pass of unrolled blocks is seen by the backward pass, so sums stay in the order of both their readers.
        let sums = if scanned { 0 } else { num_queries() };
        assert_eq!(kept - less, 4 * (scores + sums - terms), "scanned: {scanned}");
    }
}

#[test]
fn what_products_would_round_is_kept_rounded() {
    // Products that do not round, of operands rounded to 8 bits.
    let state = first_state(&[]);
    let tpu = |scanned: bool| [("target", "tpu".into()), ("model.scan_blocks", scanned.into())];
    assert_agree("shaped for TPUs", &state, &step(&[], &state), &step(&tpu(true), &state), 0.02);

    let kept = |feed_forward: &str, more: &[(&'static str, serde_json::Value)]| {
        let changes =
            [&[("model.feed_forward", feed_forward.into()), ("model.moe.expert_dropout", 0.into())], more]
                .concat();
        let artifact = artifact::compile_programs(&config(&changes), &["train_step"]).unwrap();
        inspect::inspect(artifact.program("train_step").unwrap().1).unwrap().memory.kept_bytes
    };
    // Each expert's slots are those of its share of the tokens, so that sparse blocks have as many hidden values as dense ones.
    let [input, target] = lengths();
    let hidden = 4 * 4 * 32 * (input + target);
    for scanned in [true, false] {
        for (feed_forward, hidden) in [("gated_gelu", 0), ("relu", hidden)] {
            let wide = kept(feed_forward, &[("model.scan_blocks", scanned.into())]);
            let narrow = kept(feed_forward, &tpu(scanned));
            // And what the heads mix, of width 8.
            assert_eq!(
                wide - narrow,
                2 * (num_scores() + 8 * num_queries() + hidden),
                "{feed_forward}, scanned: {scanned}"
            );
        }
    }
}

#[test]
fn both_dispatch_forms_agree_in_groups() {
    let state = first_state(&[]);
    for group in [serde_json::json!("sequence"), serde_json::json!({"tokens": 16})] {
        let with = |form: &str| {
            step(&[("model.moe.group", group.clone()), ("model.moe.dispatch", form.into())], &state)
        };
        assert_agree(&format!("group {group}"), &state, &with("einsum"), &with("gather"), ROUNDING);
    }
}

#[test]
fn both_dispatch_forms_agree_for_other_routers_and_the_bias_moves_against_the_load() {
    let pairs = [
        (json!({"kind": "expert_choice"}), json!({"kind": "gshard", "second": {"kind": "random"}})),
        (
            json!({"kind": "top_k", "priority": "probability"}),
            json!({"kind": "no_token_left_behind", "rounds": 3}),
        ),
        (
            json!({"kind": "deepseek_v3", "k": 2, "n_routing_groups": 2}),
            json!({"kind": "mixtral", "placement": "token_major", "exploration": {"kind": "sample"}}),
        ),
    ];
    for (router, decoder_router) in pairs {
        let what = format!("{router} and {decoder_router}");
        let with = |form: &str| {
            vec![
                ("model.moe.every", 1.into()),
                ("model.num_encoder_layers", 1.into()),
                ("model.num_decoder_layers", 1.into()),
                ("model.moe.shared_experts", 1.into()),
                ("model.moe.router", router.clone()),
                ("model.moe.decoder_router", decoder_router.clone()),
                ("model.moe.dispatch", form.into()),
            ]
        };
        let state = first_state(&with("einsum"));
        let (einsum, gather) = (step(&with("einsum"), &state), compiled_step(&with("gather"), &state));
        assert_agree(&what, &state, &einsum, &gather, ROUNDING);
        for (name, bias) in einsum.state.iter().filter(|(name, _)| name.ends_with("router_bias")) {
            assert_eq!(name, "encoder/block_0/moe/router_bias");
            let against = |load: &f64| 0.001 * (0.25 - load).signum() * f64::from(*load != 0.25);
            let expected: Vec<f64> = einsum.metrics["layers/expert_load"][..4].iter().map(against).collect();
            assert!(distance(bias, &expected) < 1e-6, "{bias:?}, {expected:?}");
        }
        let biases = state.iter().filter(|(name, _)| name.contains("router_bias")).count();
        assert_eq!(biases, usize::from(what.contains("deepseek")), "it has no optimizer slots");
    }
}

#[test]
fn microbatches_add_up_to_the_batch() {
    // Noise depends on the microbatch, so there is none here; groups are sequences, so capacities are the same.
    let quiet = |accumulation: usize| {
        vec![
            ("model.moe.expert_dropout", 0.0.into()),
            ("model.moe.router", serde_json::json!({"kind": "switch", "exploration": {"kind": "argmax"}})),
            ("model.moe.group", "sequence".into()),
            // Means over real tokens of a microbatch differ from those of the batch where padding does.
            ("model.moe.z_loss_coef", 0.0.into()),
            ("model.moe.load_balancing_coef", 0.0.into()),
            ("batch.accumulation", accumulation.into()),
        ]
    };
    let state = first_state(&[]);
    let whole = step(&quiet(1), &state);
    for accumulation in [2, 4] {
        let mut parts = step(&quiet(accumulation), &state);
        // Reported as means of means over microbatches, whose numbers of real tokens differ.
        for name in whole.metrics.keys().filter(|name| name.starts_with("layers/")) {
            parts.metrics.insert(name.clone(), whole.metrics[name].clone());
        }
        assert_agree(&format!("{accumulation} microbatches"), &state, &whole, &parts, ROUNDING);
    }
}

#[test]
fn stacks_may_have_sparse_blocks_in_different_places_or_one_of_them_none() {
    let cases = [
        // Blocks 1 and 3 of the encoder, block 2 of the decoder, 3 being an incomplete run.
        (vec![("model.moe.decoder_every", 3.into())], ["encoder/block_1", "decoder/block_2"], [2, 1]),
        (vec![("model.moe.decoder_every", 0.into())], ["encoder/block_1", ""], [2, 0]),
        (
            vec![("model.moe.every", 0.into()), ("model.moe.decoder_every", 1.into())],
            ["", "decoder/block_0"],
            [0, 4],
        ),
    ];
    for (changes, scopes, layers) in cases {
        let with = |form: &str| {
            let more = [("model.moe.dispatch", form.into()), ("batch.accumulation", 2.into())];
            [&changes[..], &more].concat()
        };
        let state = first_state(&changes);
        let (einsum, gather) = (step(&with("einsum"), &state), step(&with("gather"), &state));
        assert_agree(&format!("{changes:?}"), &state, &einsum, &gather, ROUNDING);
        let sparse: usize = layers.iter().sum();
        assert_eq!(einsum.metrics["layers/dropped"].len(), sparse);
        assert_eq!(einsum.metrics["layers/expert_load"].len(), sparse * 4);

        let artifact = artifact::compile_programs(&config(&changes), &["train_step"]).unwrap();
        let found = artifact.manifest.moe_layers.iter().map(|layer| (layer.scope.clone(), layer.layers));
        let expected = scopes.iter().zip(layers).filter(|(_, layers)| *layers > 0);
        let expected = expected.map(|(scope, layers)| (format!("{scope}/moe"), layers));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let (_, module) = artifact.program("train_step").unwrap();
        let checks = inspect::check_moe(module, &artifact.manifest.expected_shapes("train_step"));
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
    }
}

#[test]
fn noise_depends_on_the_step() {
    let state = first_state(&[]);
    let later: Named = state
        .iter()
        .map(|(name, value)| {
            let value = if name == "step" { Literal::scalar(1i32) } else { value.clone() };
            (name.clone(), value)
        })
        .collect();
    let (a, b) = (step(&[], &state), step(&[], &later));
    assert!(distance(&a.metrics["loss"], &b.metrics["loss"]) > 1e-4);
}
