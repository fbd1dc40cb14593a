//! Several examples in a row are as many rows with one example each.
#![cfg(feature = "cpu")]

use std::collections::BTreeMap;
use switchyard::artifact;
use switchyard::config::RunConfig;
use switchyard::ir::Literal;
use switchyard::runtime::cpu;
use switchyard::train::{Named, Session};

/// Every expert has room for all tokens, so that no other example matters.
const BASE: &str = r#"{
    "model": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 2,
              "moe": {"num_experts": 2, "every": 2, "load_balancing_coef": 0,
                      "router": {"kind": "switch", "exploration": {"kind": "argmax"}},
                      "capacity": {"train_factor": 2, "eval_factor": 2}}},
    "optimizer": {"kind": "adamw", "epsilon": 1e6, "weight_decay": 0.0},
    "schedule": {"kind": "constant", "rate": 1e6, "warmup_steps": 0},
    "data": {"objective": {"kind": "text_to_text"}}
}"#;

/// Inputs and targets of five examples, as lengths.
const EXAMPLES: [(usize, usize); 5] = [(4, 3), (5, 2), (2, 4), (6, 5), (3, 1)];
/// The examples of each packed row.
const ROWS: [&[usize]; 2] = [&[0, 1, 2], &[3, 4]];
const LENGTHS: [usize; 2] = [12, 10];

fn config(sequences: usize, packing: bool) -> RunConfig {
    let mut json: serde_json::Value = serde_json::from_str(BASE).unwrap();
    let [input, target] = LENGTHS;
    json["batch"] = serde_json::json!({
        "sequences": sequences, "input_length": input, "target_length": target, "packing": packing
    });
    RunConfig::from_json(&json.to_string()).unwrap()
}

fn session(config: &RunConfig, programs: &[&str]) -> Session {
    // SAFETY: both tests set the same value, before anything reads it.
    unsafe { std::env::set_var("XLA_FLAGS", "--xla_backend_optimization_level=0") };
    Session::new(cpu::open_dyn(1).unwrap(), artifact::compile_programs(config, programs).unwrap())
}

/// The tokens of one side of an example.
fn tokens(example: usize, side: usize) -> Vec<i32> {
    let length = [EXAMPLES[example].0, EXAMPLES[example].1][side];
    (0..length).map(|i| 3 + (37 * example + 11 * side + 5 * i) as i32 % 250).collect()
}

/// Rows of examples: tokens and numbers of both sides.
fn batch(rows: &[Vec<usize>], packing: bool) -> Named {
    let mut named = vec![];
    for (side, (name, numbers)) in
        [("inputs", "input_segments"), ("targets", "target_segments")].into_iter().enumerate()
    {
        let (mut ids, mut segments) = (vec![], vec![]);
        for row in rows {
            let end = ids.len() + LENGTHS[side];
            for (number, &example) in (1..).zip(row) {
                let tokens = tokens(example, side);
                segments.extend(vec![number; tokens.len()]);
                ids.extend(tokens);
            }
            ids.resize(end, 0);
            segments.resize(end, 0);
        }
        let literal = |data: &[i32]| Literal::new([rows.len(), LENGTHS[side]], data).unwrap();
        named.push((name.to_string(), literal(&ids)));
        if packing {
            named.push((numbers.to_string(), literal(&segments)));
        }
    }
    named
}

fn packed() -> Named {
    batch(&ROWS.map(<[usize]>::to_vec), true)
}

fn unpacked() -> Named {
    batch(&[0, 1, 2, 3, 4].map(|example| vec![example]), false)
}

/// The state that a seed gives: the same for all batches.
fn first_state() -> Named {
    let mut session = session(&config(2, true), &["init"]);
    session.init(3).unwrap();
    let names = session.state_layout().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), session.state(&name).unwrap())).collect()
}

/// What a program returns.
fn run(session: &mut Session, state: &Named, program: &str, inputs: Named) -> BTreeMap<String, Literal> {
    for (name, value) in state {
        session.set_state(name, value).unwrap();
    }
    session.run(program, inputs).unwrap().into_iter().collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    assert!(found.len() == expected.len() && difference <= 1e-5 * size, "{what}: {difference} of {size}");
}

#[test]
fn a_packed_row_predicts_what_its_examples_do_alone() {
    let state = first_state();
    let mut together = session(&config(2, true), &["forward", "eval_step"]);
    let mut apart = session(&config(5, false), &["forward", "eval_step"]);
    let [a, b] =
        [run(&mut together, &state, "forward", packed()), run(&mut apart, &state, "forward", unpacked())];
    let vocabulary = together.artifact().manifest.config.model.vocab_size;
    let [a_logits, b_logits] = [&a, &b].map(|outputs| outputs["logits"].to_f64());
    let length = LENGTHS[1];
    for (row, examples) in ROWS.iter().enumerate() {
        let mut at = row * length;
        for &example in *examples {
            let count = EXAMPLES[example].1 * vocabulary;
            let found = &a_logits[at * vocabulary..][..count];
            let expected = &b_logits[example * length * vocabulary..][..count];
            assert_close(&format!("logits of example {example}"), found, expected);
            at += EXAMPLES[example].1;
        }
    }
    for name in ["loss", "layers/router_z_loss", "layers/load_balancing_loss", "layers/dropped"] {
        assert_close(name, &a[name].to_f64(), &b[name].to_f64());
    }

    // Sums over tokens and over sequences, of which the packed batch has five too.
    let [a, b] =
        [run(&mut together, &state, "eval_step", packed()), run(&mut apart, &state, "eval_step", unpacked())];
    assert_eq!((a["sequences"].to_f64(), a["tokens"].to_f64()), (vec![5.0], vec![15.0]));
    for name in ["sequences", "tokens", "correct_sum", "exact_sum"] {
        assert_eq!(a[name], b[name], "{name}");
    }
    assert_close("cross entropy", &a["cross_entropy_sum"].to_f64(), &b["cross_entropy_sum"].to_f64());
}

#[test]
fn gradients_of_a_packed_batch_are_those_of_its_examples() {
    let state = first_state();
    let mut together = session(&config(2, true), &["train_step"]);
    let mut apart = session(&config(5, false), &["train_step"]);
    run(&mut together, &state, "train_step", packed());
    run(&mut apart, &state, "train_step", unpacked());
    // One step of this optimizer moves parameters by their gradients, whose first moments it keeps.
    for (name, _) in state.iter().filter(|(name, _)| name.starts_with("optimizer/m/")) {
        let [found, expected] = [&together, &apart].map(|session| session.state(name).unwrap().to_f64());
        assert_close(name, &found, &expected);
    }
}
