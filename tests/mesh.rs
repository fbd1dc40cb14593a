//! Programs for several devices compute what one device does: the same loss, metrics and state after several steps, with noise,
//! and the same tokens and logits, on 2, 4 and 8 virtual CPU devices.
#![cfg(feature = "cpu")]

mod settings;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Once;
use switchyard::artifact;
use switchyard::config::RunConfig;
use switchyard::inspect;
use switchyard::ir::Literal;
use switchyard::runtime::cpu;
use switchyard::train::{Generator, Named, Sampling, Session};

/// Every kind of noise is on, capacities bind, and moments of matrices are factored. Groups are sequences, which no device shares
/// with another.
const BASE: &str = r#"{
    "model": {
        "architecture": "decoder_only", "vocab_size": 384, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 4,
        "num_encoder_layers": 0, "num_decoder_layers": 2, "scan_blocks": true, "dropout": 0.1,
        "moe": {"num_experts": 4, "every": 2, "z_loss_coef": 0.001, "expert_dropout": 0.2, "d_ff": 32,
                "group": "sequence", "capacity": {"train_factor": 1.0, "minimum": 1}}
    },
    "batch": {"sequences": 8, "input_length": 24, "target_length": 24},
    "data": {"objective": {"kind": "causal"}},
    "optimizer": {"kind": "adafactor", "min_dim_size_to_factor": 8, "clip_global_norm": 0.5},
    "schedule": {"kind": "constant", "rate": 0.03, "warmup_steps": 0}
}"#;

const DEVICES: usize = 8;
const STEPS: usize = 5;
/// Float32 sums in another order.
const ROUNDING: f64 = 1e-5;
/// The same where their results are rounded to 8 bits, some of them to the other neighbour then.
const ROUNDING_OF_OPERANDS: f64 = 5e-4;

type Changes<'a> = &'a [(&'a str, Value)];

fn config(changes: Changes) -> RunConfig {
    settings::config(BASE, changes)
}

/// A session on the devices of the mesh, compiling fast instead of well.
fn session(config: &RunConfig, programs: &[&str]) -> Session {
    static FLAGS: Once = Once::new();
    // SAFETY: the first thing that any test here does with the environment, and done once.
    FLAGS.call_once(|| unsafe { std::env::set_var("XLA_FLAGS", "--xla_backend_optimization_level=0") });
    let artifact = artifact::compile_programs(config, programs).unwrap();
    Session::new(cpu::open_dyn(DEVICES).unwrap(), artifact)
}

fn tokens(rows: usize, length: usize, seed: u64) -> Literal {
    let mut state = seed;
    let draw = |i: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Rows end in padding of different lengths, so devices have different numbers of tokens.
        if i % length >= length - (i / length) % 4 { 0 } else { 3 + (state >> 33) as i32 % 250 }
    };
    let data: Vec<i32> = (0..rows * length).map(draw).collect();
    Literal::new([rows, length], &data).unwrap()
}

fn batch(config: &RunConfig, step: usize) -> Named {
    let sizes = &config.batch;
    let rows = |length: usize, seed: usize| tokens(sizes.sequences, length, (2 * step + seed) as u64);
    let mut named = vec![("targets".into(), rows(sizes.target_length, 1))];
    if config.model.num_encoder_layers > 0 {
        named.push(("inputs".into(), rows(sizes.input_length, 0)));
    }
    named
}

fn all_state(session: &Session) -> Named {
    let names = session.state_layout().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), session.state(&name).unwrap())).collect()
}

fn first_state(changes: Changes) -> Named {
    let mut session = session(&config(changes), &["init"]);
    session.init(7).unwrap();
    all_state(&session)
}

/// Metrics of all steps, then the state: numbers by name.
fn train(changes: Changes, state: &Named) -> BTreeMap<String, Vec<f64>> {
    let config = config(changes);
    let mut session = session(&config, &["train_step"]);
    for (name, value) in state {
        session.set_state(name, value).unwrap();
    }
    let mut found = BTreeMap::new();
    for step in 0..STEPS {
        let metrics = session.run("train_step", batch(&config, step)).unwrap();
        found.extend(metrics.into_iter().map(|(name, v)| (format!("{name} of step {step}"), v.to_f64())));
    }
    found.extend(all_state(&session).into_iter().map(|(name, v)| (name, v.to_f64())));
    found
}

/// The norm of the difference over the norm of the first.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied()).max(1e-12)
}

/// Five steps on each mesh give what they give on one device.
fn assert_same(common: Changes, meshes: &[(Value, Changes)]) {
    assert_same_within(ROUNDING, common, meshes);
}

fn assert_same_within(rounding: f64, common: Changes, meshes: &[(Value, Changes)]) {
    let state = first_state(common);
    let alone = train(common, &state);
    let dropped: f64 = alone["layers/dropped of step 0"].iter().sum();
    assert!(dropped > 0.0, "the capacity must bind somewhere, or dropping is not tested");
    for (mesh, more) in meshes {
        let changes = [common, more, &[("mesh", mesh.clone())]].concat();
        let found = train(&changes, &state);
        for (name, expected) in &alone {
            let error = distance(expected, &found[name]);
            assert!(error < rounding, "mesh {mesh}, {more:?}: {name} differs by {error}");
        }
    }
}

/// A decoder like DeepSeek-V3.
fn latent_attention() -> [(&'static str, Value); 7] {
    let attention = json!({"kind": "latent", "query_rank": 8, "kv_rank": 8, "nope_dim": 8, "rope_dim": 4, "value_dim": 8});
    let router =
        json!({"kind": "deepseek_v3", "k": 2, "n_routing_groups": 2, "routed_bias_update_rate": 0.01});
    [
        ("model.attention", attention),
        ("model.positions", json!({"kind": "rotary", "pairing": "interleaved"})),
        ("model.feed_forward", json!("gated_silu")),
        ("model.num_dense_layers", json!(1)),
        ("model.moe.every", json!(1)),
        ("model.moe.shared_experts", json!(1)),
        ("model.moe.router", router),
    ]
}

/// A decoder like Mixtral, with experts in attention too.
fn grouped_queries() -> [(&'static str, Value); 6] {
    [
        ("model.attention", json!({"kind": "grouped_query", "num_kv_heads": 2})),
        ("model.positions", json!({"kind": "rotary"})),
        ("model.tie_embeddings", json!(false)),
        ("model.decoder_inputs", json!("tokens")),
        ("model.moe.sublayers", json!("both")),
        ("model.moe.router", json!({"kind": "mixtral", "k": 2})),
    ]
}

/// Text that a model makes of random prompts.
struct Generated {
    /// Of each step: the logits of all rows.
    logits: Vec<Vec<f64>>,
    /// Of each step: the most probable token of each row, which the next step reads.
    greedy: Vec<Vec<i32>>,
    /// Of three prompts, for which there are more rows than that.
    sampled: Vec<Vec<u32>>,
}

/// Tokens that are generated in a row.
const TOKENS: usize = 4;
/// Slots that prompts take, less at most two of padding.
const PROMPT: usize = 5;

fn generate(changes: Changes, state: &Named) -> Generated {
    let config = config(changes);
    let mut session = session(&config, &["prefill", "decode_step"]);
    for (name, value) in state {
        session.set_state(name, value).unwrap();
    }
    let rows = config.batch.sequences;
    let prompt = tokens(rows, config.batch.target_length, 5);
    let (named, mut slot) = match config.model.num_encoder_layers {
        0 => {
            let inside = |i: usize| {
                let (row, slot) = (i / config.batch.target_length, i % config.batch.target_length);
                if (row % 3..PROMPT).contains(&slot) { 1f32 } else { 0.0 }
            };
            let real: Vec<f32> = (0..rows * config.batch.target_length).map(inside).collect();
            let real = Literal::new(prompt.ty().shape.clone(), &real).unwrap();
            (vec![("prompt".into(), prompt), ("prompt_real".into(), real)], PROMPT)
        }
        _ => (vec![("inputs".into(), tokens(rows, config.batch.input_length, 5))], 0),
    };
    let mut outputs = session.run("prefill", named).unwrap();
    let mut made = Generated { logits: vec![], greedy: vec![], sampled: vec![] };
    let mut read = vec![0; rows];
    for _ in 0..TOKENS {
        // The encoder's prefill returns no logits, the decoder's those of the first token.
        if outputs.is_empty() || !made.greedy.is_empty() {
            let token = Literal::new([rows], &read).unwrap();
            let named = vec![("token".into(), token), ("slot".into(), Literal::scalar(slot as i32))];
            outputs = session.run("decode_step", named).unwrap();
            slot += 1;
        }
        let logits = outputs[0].1.to_f64();
        let most = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i32;
        read = logits.chunks(config.model.vocab_size).map(most).collect();
        made.logits.push(logits);
        made.greedy.push(read.clone());
    }
    let prompts = [vec![5, 6, 7], vec![8, 9], vec![10, 11, 12, 13]];
    let sampling = Sampling { temperature: 1.0, top_k: 40, seed: 3 };
    let mut generator = Generator::new(session, &prompts, 1, sampling).unwrap();
    made.sampled = generator.run(TOKENS).unwrap();
    made
}

/// Each mesh generates what one device does.
fn assert_same_text(common: Changes, meshes: &[(Value, Changes)]) {
    let state = first_state(common);
    let alone = generate(common, &state);
    assert!(
        alone.greedy.concat().iter().collect::<BTreeSet<_>>().len() > 1,
        "a model says more than one word"
    );
    assert_eq!(alone.sampled.len(), 3);
    for (mesh, more) in meshes {
        let found = generate(&[common, more, &[("mesh", mesh.clone())]].concat(), &state);
        for (step, (expected, found)) in alone.logits.iter().zip(&found.logits).enumerate() {
            let error = distance(expected, found);
            assert!(error < ROUNDING, "mesh {mesh}: logits of step {step} differ by {error}");
        }
        assert_eq!(found.greedy, alone.greedy, "mesh {mesh}");
        assert_eq!(found.sampled, alone.sampled, "mesh {mesh}");
    }
}

#[test]
fn an_encoder_decoder_generates_on_a_mesh_what_it_does_on_one_device() {
    assert_same_text(
        &[
            ("model.architecture", json!("encoder_decoder")),
            ("model.num_encoder_layers", json!(2)),
            ("data.objective", json!({"kind": "span_corruption"})),
            // With the embedding as its head it would repeat the first token.
            ("model.tie_embeddings", json!(false)),
        ],
        &[
            (json!({"data": 2}), &[]),
            (json!({"expert": 2, "model": 2}), &[("model.moe.dispatch", json!("einsum"))]),
            (json!({"data": 2, "expert": 2, "model": 2, "shard_state": true}), &[]),
        ],
    );
}

#[test]
fn a_decoder_with_grouped_queries_generates_on_a_mesh_what_it_does_on_one_device() {
    assert_same_text(
        &grouped_queries(),
        &[
            (json!({"model": 2}), &[]),
            (
                json!({"expert": 4, "model": 2, "shard_vocabulary": true}),
                &[("model.scan_blocks", json!(false))],
            ),
        ],
    );
}

#[test]
fn a_decoder_with_latent_attention_generates_on_a_mesh_what_it_does_on_one_device() {
    assert_same_text(
        &latent_attention(),
        &[
            (json!({"expert": 2}), &[]),
            (json!({"data": 2, "model": 4, "shard_state": true, "shard_vocabulary": true}), &[]),
        ],
    );
}

#[test]
fn adafactor_on_a_mesh_is_adafactor_on_one_device() {
    assert_same(
        &[],
        &[
            (json!({"data": 2}), &[]),
            (json!({"expert": 2}), &[("model.moe.dispatch", json!("einsum"))]),
            (json!({"model": 2}), &[]),
            (json!({"data": 2, "shard_state": true}), &[]),
            (json!({"expert": 4, "model": 2}), &[]),
        ],
    );
    // Mean squares of parameters that are split over every axis pass from step to step.
    assert_same_within(
        ROUNDING_OF_OPERANDS,
        &[("target", json!("tpu")), ("model.scan_blocks", json!(false))],
        &[(json!({"data": 2, "expert": 2, "model": 2, "shard_state": true}), &[])],
    );
}

#[test]
fn adamw_on_a_mesh_is_adamw_on_one_device() {
    // Where a gradient is all rounding, AdamW would make an update of it but for this epsilon.
    let adamw = json!({"kind": "adamw", "epsilon": 1e-4, "clip_global_norm": 0.5});
    let rate = json!({"kind": "constant", "rate": 1e-3, "warmup_steps": 0});
    assert_same(
        &[("optimizer", adamw), ("schedule", rate)],
        &[(json!({"data": 4, "model": 2, "shard_state": true}), &[("model.remat", json!("full"))])],
    );
}

#[test]
fn an_encoder_and_its_decoder_run_in_microbatches_on_all_axes_at_once() {
    assert_same(
        &[
            ("model.architecture", json!("encoder_decoder")),
            ("model.num_encoder_layers", json!(2)),
            ("data.objective", json!({"kind": "span_corruption"})),
            ("batch.accumulation", json!(2)),
            ("model.moe.sublayers", json!("both")),
            ("loss", json!({"z_loss": 0.01, "label_smoothing": 0.1})),
        ],
        &[(
            json!({"data": 2, "expert": 2, "model": 2, "shard_state": true, "shard_vocabulary": true}),
            &[("model.moe.dispatch", json!("einsum")), ("model.scan_blocks", json!(false))],
        )],
    );
}

#[test]
fn latent_attention_and_the_bias_of_its_router_run_on_a_mesh() {
    assert_same(
        &latent_attention(),
        &[
            (json!({"expert": 2, "model": 2}), &[]),
            (json!({"data": 2, "expert": 2, "model": 2, "shard_state": true}), &[]),
        ],
    );
}

#[test]
fn grouped_queries_and_experts_in_attention_run_on_a_mesh() {
    assert_same(
        &grouped_queries(),
        &[
            (json!({"model": 2, "shard_vocabulary": true}), &[]),
            (json!({"expert": 4, "model": 2}), &[("model.remat", json!("dots"))]),
        ],
    );
}

#[test]
fn collectives_are_among_the_replicas_of_their_axes() {
    let mesh = json!({"data": 2, "expert": 2, "model": 2, "shard_state": true});
    let artifact = artifact::compile_programs(&config(&[("mesh", mesh)]), &["train_step"]).unwrap();
    let (_, module) = artifact.program("train_step").unwrap();
    let rows = inspect::inspect(module).unwrap().collectives;
    let groups = |opcode: &str| {
        let rows = rows.iter().filter(|row| row.opcode == opcode);
        rows.map(|row| row.group.clone()).collect::<Vec<_>>()
    };
    // Replica (2 data + expert) * 2 + model: neighbours along `model` are 1 apart, along `expert` 2, along `data` 4.
    assert_eq!(groups("all-to-all"), [[0, 2]]);
    assert_eq!(groups("all-gather"), [[0, 4]]);
    assert_eq!(groups("reduce-scatter"), [[0, 4]]);
    // Products that are split over `model`; losses of the whole batch.
    let sums = groups("all-reduce");
    assert!(sums.contains(&vec![0, 1]) && sums.contains(&vec![0, 2, 4, 6]), "{sums:?}");
}

#[test]
fn first_weights_do_not_depend_on_the_mesh() {
    let mesh = json!({"data": 2, "expert": 2, "model": 2, "shard_state": true});
    assert!(first_state(&[]) == first_state(&[("mesh", mesh)]), "a bit differs");
}
