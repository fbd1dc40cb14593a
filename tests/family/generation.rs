//! Generation with a cache gives the tokens and logits of the full forward pass.

use super::model::{Tensors, config, distance, floats, parameters, program, run, tokens, with};
use switchyard::config::{Architecture, DecoderInputs, RunConfig};
use switchyard::ir::Literal;

/// Float32 sums in another order.
const ROUNDING: f64 = 2e-5;

/// Rows of greedy tokens and the logits that each was chosen from.
struct Generated {
    tokens: Vec<Vec<i32>>,
    logits: Vec<Vec<Vec<f64>>>,
}

fn argmax(logits: &[f64]) -> i32 {
    let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.unwrap() as i32
}

fn rows(logits: &Literal) -> Vec<Vec<f64>> {
    logits.to_f64().chunks(logits.ty().shape[logits.ty().shape.len() - 1]).map(<[f64]>::to_vec).collect()
}

/// Greedy tokens by `prefill` and `decode_step`; `real` marks the prompt of a decoder alone.
fn by_cache(
    config: &RunConfig,
    parameters: &Tensors,
    read: &[(&str, Literal)],
    first_slot: usize,
    count: usize,
) -> Generated {
    let batch = config.batch.sequences;
    let (prefill, step) = (program(config, "prefill"), program(config, "decode_step"));
    let mut state = run(&prefill, &with(parameters, read));
    let mut made = Generated { tokens: vec![vec![]; batch], logits: vec![vec![]; batch] };
    let mut slot = first_slot;
    let mut next = vec![0; batch];
    for i in 0..count {
        if i > 0 || config.model.architecture == Architecture::EncoderDecoder {
            let token = ("token", Literal::new([batch], &next).unwrap());
            let inputs = [token, ("slot", Literal::scalar(slot as i32))];
            let given = with(&with(parameters, &inputs), &[]).into_iter().chain(state.clone()).collect();
            let outputs = run(&step, &given);
            state.extend(outputs);
            slot += 1;
        }
        for (row, logits) in rows(&state["logits"]).into_iter().enumerate() {
            next[row] = argmax(&logits);
            made.tokens[row].push(next[row]);
            made.logits[row].push(logits);
        }
    }
    made
}

/// Logits of `forward` for these tokens: `[row][place]`.
fn forward(config: &RunConfig, parameters: &Tensors, given: &[(&str, Literal)]) -> Vec<Vec<Vec<f64>>> {
    let outputs = run(&program(config, "forward"), &with(parameters, given));
    let all = rows(&outputs["logits"]);
    all.chunks(all.len() / config.batch.sequences).map(<[Vec<f64>]>::to_vec).collect()
}

/// `full[row][first[row] + i]` are the logits of generated token i.
fn assert_same(made: &Generated, full: &[Vec<Vec<f64>>], first: &[usize]) {
    for (row, full) in full.iter().enumerate() {
        for (i, logits) in made.logits[row].iter().enumerate() {
            let expected = &full[first[row] + i];
            let found = distance(expected, logits);
            assert!(found < ROUNDING, "row {row}, token {i}: logits differ by {found}");
            assert_eq!(made.tokens[row][i], argmax(expected), "row {row}, token {i}");
        }
    }
}

/// Parameters with which different tokens are generated, and none is 0, which would be padding for the forward pass.
fn telling(
    config: &RunConfig,
    read: &[(&str, Literal)],
    first_slot: usize,
    count: usize,
) -> (Tensors, Generated) {
    let tells = |made: &Generated| {
        let distinct: std::collections::BTreeSet<_> = made.tokens.iter().flatten().collect();
        distinct.len() > 1 && !distinct.contains(&0)
    };
    let made = (0..50).map(|seed| {
        let parameters = parameters(config, seed);
        let made = by_cache(config, &parameters, read, first_slot, count);
        (parameters, made)
    });
    made.into_iter().find(|(_, made)| tells(made)).expect("one of many models says more than one word")
}

/// An encoder-decoder: one row padded on the right, one on the left.
pub fn check_encoder_decoder(changes: &str) {
    let config = config(changes);
    let inputs = ("inputs", tokens(&[&[3, 9, 4, 20, 7, 1, 0, 0], &[0, 0, 0, 11, 12, 13, 14, 1]]));
    let (parameters, made) = telling(&config, std::slice::from_ref(&inputs), 0, 5);
    let padded = |row: &[i32]| [row, &[30]].concat();
    let targets: Vec<Vec<i32>> = made.tokens.iter().map(|row| padded(row)).collect();
    let targets = tokens(&targets.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let full = forward(&config, &parameters, &[inputs, ("targets", targets)]);
    assert_same(&made, &full, &[0, 0]);
}

/// A decoder alone: prompts of three and of two tokens, padded on either side.
pub fn check_decoder(changes: &str) {
    let config = config(changes);
    for left in [true, false] {
        let start: &[i32] = if config.model.decoder_inputs == DecoderInputs::ShiftRight { &[0] } else { &[] };
        let prompts = [vec![5, 6, 7], vec![8, 9]].map(|prompt| [start, &prompt].concat());
        let width = prompts[0].len();
        let (mut read, mut real) = (vec![], vec![]);
        for prompt in &prompts {
            let before = if left { width - prompt.len() } else { 0 };
            let mut row = vec![0; config.batch.target_length];
            row[before..before + prompt.len()].copy_from_slice(prompt);
            read.extend(row);
            let inside = |slot: usize| (before..before + prompt.len()).contains(&slot);
            real.extend((0..config.batch.target_length).map(|slot| if inside(slot) { 1f32 } else { 0.0 }));
        }
        let shape = [2, config.batch.target_length];
        let read = [
            ("prompt", Literal::new(shape, &read).unwrap()),
            ("prompt_real", Literal::new(shape, &real).unwrap()),
        ];
        let count = config.batch.target_length - width;
        let (parameters, made) = telling(&config, &read, width, count);
        // The forward pass reads each row alone, from its first place on.
        let row = |i: usize| {
            let mut row = [&prompts[i][start.len()..], &made.tokens[i]].concat();
            row.resize(config.batch.target_length, 30);
            row
        };
        let targets = tokens(&[&row(0), &row(1)]);
        let full = forward(&config, &parameters, &[("targets", targets)]);
        // The place that predicts the first generated token.
        let first = |i: usize| prompts[i].len() - 1;
        assert_same(&made, &full, &[first(0), first(1)]);
    }
}

#[test]
fn an_encoder_decoder_generates_by_cache_what_it_does_in_full() {
    check_encoder_decoder("{}");
}

#[test]
fn sparse_and_unrolled_encoder_decoders_do_too() {
    let moe = r#""moe": {"num_experts": 3, "every": 2, "capacity": {"eval_factor": 8.0}}"#;
    check_encoder_decoder(&format!(r#"{{"num_decoder_layers": 5, "feed_forward": "gated_gelu", {moe}}}"#));
    check_encoder_decoder(&format!(r#"{{"scan_blocks": false, "dense_after_sparse": true, {moe}}}"#));
}

#[test]
fn a_decoder_alone_generates_by_cache_what_it_does_in_full() {
    check_decoder(r#"{"architecture": "decoder_only"}"#);
}

#[test]
fn grouped_queries_with_rotary_positions_do_too() {
    check_decoder(
        r#"{"architecture": "decoder_only", "decoder_inputs": "tokens", "feed_forward": "gated_silu",
            "attention": {"kind": "grouped_query", "num_kv_heads": 2},
            "positions": {"kind": "rotary", "yarn": {"factor": 4.0, "original_length": 16}},
            "moe": {"num_experts": 3, "every": 1, "capacity": {"eval_factor": 8.0}}}"#,
    );
}

#[test]
fn latent_attention_after_a_dense_block_does_too() {
    let latent = |rank: &str, scan: bool| {
        format!(
            r#"{{"architecture": "decoder_only", "decoder_inputs": "tokens", "feed_forward": "gated_silu",
                "num_decoder_layers": 4, "num_dense_layers": 1, "scan_blocks": {scan},
                "attention": {{"kind": "latent", "query_rank": {rank}, "kv_rank": 6, "nope_dim": 4, "rope_dim": 2,
                               "value_dim": 3}},
                "positions": {{"kind": "rotary", "pairing": "interleaved"}},
                "moe": {{"num_experts": 3, "every": 2, "capacity": {{"eval_factor": 8.0}}}}}}"#
        )
    };
    check_decoder(&latent("5", true));
    check_decoder(&latent("null", false));
}

#[test]
fn the_cache_of_a_step_takes_the_memory_of_the_last() {
    let config = config("{}");
    let step = program(&config, "decode_step");
    let cached: Vec<_> = step.outputs.iter().filter(|port| port.name.starts_with("cache/")).collect();
    assert_eq!(cached.len(), 3 + 4, "real, position, memory_real; keys and values of both attentions");
    for port in cached {
        assert_eq!(step.inputs[port.alias.unwrap()].name, port.name);
    }
    let made = program(&config, "prefill");
    let shapes = |ports: &[switchyard::step::Port]| -> Vec<_> {
        let cache = ports.iter().filter(|port| port.name.starts_with("cache/"));
        cache.map(|port| (port.name.clone(), port.ty.clone())).collect()
    };
    assert_eq!(shapes(&made.outputs), shapes(&step.inputs));
    let inputs = ("inputs", tokens(&[&[1; 8], &[2; 8]]));
    let cache = run(&made, &with(&parameters(&config, 0), &[inputs]));
    assert!(floats(&cache, "cache/real").iter().all(|&real| real == 0.0), "nothing is read yet");
}
