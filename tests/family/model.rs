//! Tiny models and their programs.

use std::collections::BTreeMap;
use switchyard::config::RunConfig;
use switchyard::eval::evaluate;
use switchyard::ir::{DType, Literal, TensorType};
use switchyard::layers::row_of;
use switchyard::step::{self, Program};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Literal>;

/// The base of all models here, with these fields of `model` instead.
pub fn config(changes: &str) -> RunConfig {
    let mut json = serde_json::json!({
        "model": {
            "vocab_size": 31, "d_model": 12, "d_ff": 16, "d_kv": 4, "num_heads": 4,
            "num_encoder_layers": 2, "num_decoder_layers": 2, "scan_blocks": true, "init_scale": 1.0
        },
        "batch": {"sequences": 2, "input_length": 8, "target_length": 6},
        // Nothing here reads text.
        "data": {"tokenizer": {"kind": "hugging_face", "path": "none"}}
    });
    let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
    let causal = changes["architecture"] == "decoder_only";
    for (key, value) in changes.as_object().unwrap() {
        json["model"][key] = value.clone();
    }
    if causal {
        json["model"]["num_encoder_layers"] = 0.into();
        json["batch"]["target_length"] = 8.into();
        json["data"]["objective"] = serde_json::json!({"kind": "causal"});
    }
    RunConfig::from_json(&json.to_string()).unwrap()
}

pub fn program(config: &RunConfig, name: &str) -> Program {
    step::build(config, name).unwrap().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Evaluates a program on tensors by name; all that it needs must be there.
pub fn run(program: &Program, given: &Tensors) -> Tensors {
    let input = |port: &step::Port| {
        let value = given.get(&port.name).unwrap_or_else(|| panic!("{}: no `{}`", program.name, port.name));
        assert_eq!(*value.ty(), port.ty, "{}", port.name);
        value.clone()
    };
    let inputs: Vec<Literal> = program.inputs.iter().map(input).collect();
    let outputs = evaluate(&program.graph, &inputs).unwrap();
    program.outputs.iter().map(|port| port.name.clone()).zip(outputs).collect()
}

/// Parameters from a seed.
pub fn parameters(config: &RunConfig, seed: u32) -> Tensors {
    let init = program(config, "init");
    let seed = Literal::new([2], &[0, seed]).unwrap();
    let mut state = run(&init, &[("seed".to_string(), seed)].into_iter().collect());
    let wanted = program(config, "eval_step");
    state.retain(|name, _| wanted.inputs.iter().any(|port| port.name == *name));
    // Gains of one would hide a norm that is left out.
    for (name, value) in state
        .iter_mut()
        .filter(|(name, _)| row_of(name).map_or(&***name, |(stack, _)| stack).ends_with("norm"))
    {
        *value = wave(value.ty(), name.len(), 0.3, 1.0);
    }
    state
}

/// `offset + scale * sin(0.7 j + 1.3 n + 0.5)` of element j of tensor n: a tensor that needs no generator.
pub fn wave(ty: &TensorType, n: usize, scale: f64, offset: f64) -> Literal {
    let element = |j: usize| (offset + scale * (0.7 * j as f64 + 1.3 * n as f64 + 0.5).sin()) as f32;
    Literal::new(ty.shape.clone(), &(0..ty.elements()).map(element).collect::<Vec<f32>>()).unwrap()
}

pub fn tokens(rows: &[&[i32]]) -> Literal {
    Literal::new([rows.len(), rows[0].len()], &rows.concat()).unwrap()
}

/// Adds inputs to a copy of `tensors`.
pub fn with(tensors: &Tensors, inputs: &[(&str, Literal)]) -> Tensors {
    let mut all = tensors.clone();
    all.extend(inputs.iter().map(|(name, value)| (name.to_string(), value.clone())));
    all
}

/// The greatest difference of two values over the greatest size in the first.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let size = a.iter().fold(1e-30, |most: f64, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs())) / size
}

pub fn floats(tensors: &Tensors, name: &str) -> Vec<f64> {
    let value = tensors.get(name).unwrap_or_else(|| panic!("no `{name}`"));
    assert_ne!(value.ty().dtype, DType::Pred);
    value.to_f64()
}
