//! Gradients of whole models: those of scanned and unrolled stacks agree with each other and with differences.

use super::model::{Tensors, config, distance, parameters, tokens, wave};
use switchyard::build::Builder;
use switchyard::config::Mesh;
use switchyard::config::RunConfig;
use switchyard::grad;
use switchyard::ir::{DType, Graph, Literal, TensorType};
use switchyard::layers::{Context, Phase, Weights};
use switchyard::model::{self, Batch};

/// `loss, gradients..` of the sum of token losses by all parameters, in order.
fn loss_and_gradients(config: &RunConfig) -> Graph {
    let defs = model::declare(&config.model);
    let sizes = &config.batch;
    let row = |length: usize| TensorType::new(DType::S32, [sizes.sequences, length]);
    let mut types: Vec<TensorType> = defs.iter().map(|def| def.ty()).collect();
    types.extend([row(sizes.input_length), row(sizes.target_length)]);
    Builder::graph(&types, |b, values| {
        let (params, batch) = values.split_at(defs.len());
        let held = model::held(&config.model, config.target, &defs);
        let rows = model::split(b, &config.model, config.target, &defs, params)?;
        let weights = Weights::new(Mesh::default(), held.iter().zip(rows));
        let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
        let cx = Context {
            config: &config.model,
            target: config.target,
            mesh: Mesh::default(),
            phase: Phase::Eval,
            weights: &weights,
            key,
        };
        let inputs = (config.model.num_encoder_layers > 0).then_some(batch[0]);
        let forward =
            model::forward(b, &cx, &defs, Batch { inputs, targets: batch[1], roles: None, segments: None })?;
        let loss = forward.token_loss(b, &cx, config.loss, None)?.objective;
        let grads = grad::gradients(b, loss, params)?;
        Ok([vec![loss], grads].concat())
    })
    .unwrap()
}

fn evaluated(config: &RunConfig, graph: &Graph, parameters: &Tensors) -> Vec<Vec<f64>> {
    let mut inputs: Vec<Literal> =
        model::declare(&config.model).iter().map(|def| parameters[&def.name].clone()).collect();
    let batch = [[3, 9, 4, 20, 7, 1, 0, 0], [0, 0, 21, 11, 12, 13, 14, 1]];
    let cut = |length: usize| tokens(&[&batch[0][..length], &batch[1][..length]]);
    inputs.extend([cut(config.batch.input_length), cut(config.batch.target_length)]);
    let outputs = switchyard::eval::evaluate(graph, &inputs).unwrap();
    outputs.iter().map(Literal::to_f64).collect()
}

/// Scanned and unrolled stacks have the same gradients: those of the scanned one, in the order of the parameters.
pub fn gradients(changes: &str) -> (RunConfig, Tensors, Vec<Vec<f64>>) {
    let scanned = config(changes);
    let parameters = parameters(&scanned, 3);
    let results = evaluated(&scanned, &loss_and_gradients(&scanned), &parameters);
    let mut unrolled = scanned.clone();
    unrolled.model.scan_blocks = Some(false);
    let others = evaluated(&unrolled, &loss_and_gradients(&unrolled), &parameters);
    for (n, def) in model::declare(&scanned.model).iter().enumerate() {
        let found = distance(&results[n + 1], &others[n + 1]);
        assert!(found < 1e-5, "gradients of {} differ by {found}", def.name);
    }
    (scanned, parameters, results[1..].to_vec())
}

/// The loss, about 60, is known to six digits.
const STEP: f64 = 1e-2;

/// They are the slopes of the loss along a wave in each parameter.
pub fn check(changes: &str) {
    let (config, parameters, gradients) = gradients(changes);
    let graph = loss_and_gradients(&config);
    for (n, (def, gradient)) in model::declare(&config.model).iter().zip(gradients).enumerate() {
        let wave = wave(&def.ty(), n, 1.0, 0.0).to_f64();
        let norm = wave.iter().map(|w| w * w).sum::<f64>().sqrt();
        let slope = gradient.iter().zip(&wave).map(|(g, w)| g * w / norm).sum::<f64>();
        let loss = |step: f64| {
            let start = parameters[&def.name].to_f64();
            let data: Vec<f32> = start.iter().zip(&wave).map(|(x, w)| (x + step * w / norm) as f32).collect();
            let mut moved = parameters.clone();
            moved.insert(def.name.clone(), Literal::new(def.shape.clone(), &data).unwrap());
            evaluated(&config, &graph, &moved)[0][0]
        };
        let difference = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
        let near = (slope - difference).abs() < 0.02 * slope.abs() + 0.01;
        assert!(near, "{}: {slope} by gradients, {difference} by differences", def.name);
    }
}

/// Five blocks of the decoder: a dense one, a run of three, an incomplete run of one.
fn incomplete_runs(num_experts: usize) -> String {
    format!(
        r#"{{"num_decoder_layers": 5, "num_dense_layers": 1, "dense_after_sparse": true, "feed_forward": "gated_gelu",
             "moe": {{"num_experts": {num_experts}, "every": 3, "offset": 0}}}}"#
    )
}

#[test]
fn gradients_of_encoder_decoders_with_incomplete_runs() {
    // With one expert no choice changes on the way.
    check(&incomplete_runs(1));
    gradients(&incomplete_runs(3));
}

#[test]
fn gradients_of_grouped_queries_and_rotary_positions() {
    check(
        r#"{"architecture": "decoder_only", "decoder_inputs": "tokens", "feed_forward": "gated_silu",
            "attention": {"kind": "grouped_query", "num_kv_heads": 2}, "positions": {"kind": "rotary"}}"#,
    );
}

#[test]
fn gradients_of_latent_attention() {
    check(
        r#"{"architecture": "decoder_only", "decoder_inputs": "tokens", "tie_embeddings": false,
            "attention": {"kind": "latent", "query_rank": 5, "kv_rank": 6, "nope_dim": 4, "rope_dim": 2, "value_dim": 3},
            "positions": {"kind": "rotary", "pairing": "interleaved",
                          "yarn": {"mscale": 1.0, "mscale_all_dim": 1.0, "original_length": 8}}}"#,
    );
}
