//! Pairs of texts for a decoder alone: a row is an input and its target, of which the target alone is predicted.

use super::model::{config, distance, floats, parameters, program, run, tokens, with};
use switchyard::config::{Objective, RunConfig};

const LENGTH: usize = 8;
/// Inputs and targets.
const PAIRS: [(&[i32], &[i32]); 3] = [(&[5, 6, 7], &[8, 1]), (&[9], &[10, 1]), (&[11, 12], &[13, 14, 15, 1])];

/// Rows of one pair, or of as many as are given; every expert has room for all tokens, so that no other row matters.
fn pairs(decoder_inputs: &str, sequences: usize, packing: bool) -> RunConfig {
    let model = format!(
        r#"{{"architecture": "decoder_only", "decoder_inputs": "{decoder_inputs}", "positions": {{"kind": "rotary"}},
             "moe": {{"num_experts": 3, "every": 2, "capacity": {{"kind": "dropless"}}}}}}"#
    );
    let mut config = config(&model);
    config.data.objective = Objective::text_to_text();
    (config.batch.sequences, config.batch.packing) = (sequences, packing);
    config.resolved().unwrap()
}

/// What stands at the places of a pair, the one of this number in its row.
type Side = fn(usize, &[i32], &[i32]) -> Vec<i32>;

/// Tokens, roles and numbers of rows of pairs.
fn rows(all: &[&[usize]]) -> [Vec<Vec<i32>>; 3] {
    let tokens: Side = |_, input, target| [input, target].concat();
    let roles: Side = |_, input, target| [vec![1; input.len()], vec![2; target.len()]].concat();
    let numbers: Side = |n, input, target| vec![n as i32 + 1; input.len() + target.len()];
    [tokens, roles, numbers].map(|side| {
        let row = |pairs: &&[usize]| {
            let parts = pairs.iter().enumerate().flat_map(|(n, &i)| side(n, PAIRS[i].0, PAIRS[i].1));
            let mut row: Vec<i32> = parts.collect();
            row.resize(LENGTH, 0);
            row
        };
        all.iter().map(row).collect()
    })
}

fn matrix(rows: &[Vec<i32>]) -> switchyard::ir::Literal {
    tokens(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn the_loss_is_that_of_the_targets_and_packed_pairs_do_not_see_one_another() {
    for decoder_inputs in ["shift_right", "tokens"] {
        let (apart, together) = (pairs(decoder_inputs, 3, false), pairs(decoder_inputs, 2, true));
        let values = parameters(&apart, 5);
        let [ids, roles, _] = rows(&[&[0], &[1], &[2]]);
        let alone = with(&values, &[("targets", matrix(&ids)), ("target_roles", matrix(&roles))]);
        let [packed_ids, packed_roles, numbers] = rows(&[&[0, 1], &[2]]);
        let packed = with(
            &values,
            &[
                ("targets", matrix(&packed_ids)),
                ("target_roles", matrix(&packed_roles)),
                ("target_segments", matrix(&numbers)),
            ],
        );
        let (a, b) = (run(&program(&apart, "forward"), &alone), run(&program(&together, "forward"), &packed));

        // By hand from the logits: place i predicts token i, or token i + 1 where the tokens themselves are read.
        let logits = floats(&a, "logits");
        let ahead = usize::from(decoder_inputs == "tokens");
        let mut losses = vec![];
        for (row, (input, target)) in PAIRS.iter().enumerate() {
            for (i, &token) in target.iter().enumerate() {
                let place = row * LENGTH + input.len() + i - ahead;
                let logits = &logits[place * 31..][..31];
                let sum: f64 = logits.iter().map(|x| x.exp()).sum();
                losses.push(sum.ln() - logits[token as usize]);
            }
        }
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        for found in [&a, &b] {
            let error = (floats(found, "cross_entropy")[0] - mean).abs();
            assert!(error < 1e-5 * mean, "{decoder_inputs}: differs by {error} of {mean}");
        }
        // The second pair stands behind the first, five places on.
        let both = floats(&b, "logits");
        let error = distance(&logits[LENGTH * 31..][..3 * 31], &both[5 * 31..][..3 * 31]);
        assert!(error < 2e-5, "{decoder_inputs}: logits of a packed pair differ by {error}");

        let sums = run(&program(&together, "eval_step"), &packed);
        assert_eq!(floats(&sums, "tokens"), [8.0], "{decoder_inputs}");
        assert_eq!(floats(&sums, "sequences"), [3.0], "{decoder_inputs}");
    }
}
