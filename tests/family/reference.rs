//! Known answers: logits of Hugging Face's models (transformers 5.23, float32, eager attention) with the same weights.

use super::model::{Tensors, config, distance, floats, program, run, tokens, wave, with};
use switchyard::config::{Pairing, Rotary, RunConfig, Yarn};
use switchyard::model;

/// Parameter n is a wave of its own: around 1 for norms, of size 1 for the embedding, 0.3 for all else.
fn waves(config: &RunConfig) -> Tensors {
    let wave = |(n, def): (usize, switchyard::layers::ParamDef)| {
        let (scale, offset) = match def.name.rsplit('/').next() {
            Some(name) if name.ends_with("norm") => (0.1, 1.0),
            Some("embedding") => (1.0, 0.0),
            _ => (0.3, 0.0),
        };
        (def.name.clone(), wave(&def.ty(), n, scale, offset))
    };
    model::declare(&config.model).into_iter().enumerate().map(wave).collect()
}

/// Logits of a row of eight tokens and of one padded on the left by two: the norm of all that are real, and the first six
/// after the last token of the first row, after that of the second, and after its second token.
struct Known {
    norm: f64,
    first: [[f64; 6]; 3],
}

fn check(changes: &str, known: Known) {
    let config = config(changes);
    let ids = tokens(&[&[3, 9, 4, 20, 7, 1, 30, 2], &[0, 0, 21, 11, 12, 13, 14, 1]]);
    let outputs = run(&program(&config, "forward"), &with(&waves(&config), &[("targets", ids)]));
    let logits = floats(&outputs, "logits");
    let row = |row: usize, place: usize| &logits[(row * 8 + place) * 31..][..31];
    for ((r, place), known) in [(0, 7), (1, 7), (1, 3)].into_iter().zip(known.first) {
        let found = distance(&known, &row(r, place)[..6]);
        assert!(found < 1e-5, "row {r}, place {place}: off by {found}: {:?}", &row(r, place)[..6]);
    }
    let real = logits.chunks(31).enumerate().filter(|(i, _)| ![8, 9].contains(i));
    let norm = real.flat_map(|(_, logits)| logits).map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm / known.norm - 1.0).abs() < 1e-5, "{norm}");
}

const GROUPED: &str = r#""architecture": "decoder_only", "decoder_inputs": "tokens", "feed_forward": "gated_silu",
    "tie_embeddings": false, "norm_epsilon": 1e-5, "attention": {"kind": "grouped_query", "num_kv_heads": 2}"#;

#[test]
fn grouped_queries_with_rotary_positions_have_the_logits_of_llama() {
    check(
        &format!(r#"{{{GROUPED}, "positions": {{"kind": "rotary"}}}}"#),
        Known {
            norm: 38.55354565,
            first: [
                [-1.29657972, 2.72320509, -1.53167963, -1.13243747, 2.70780349, -1.67982590],
                [1.83294237, 0.50914848, -2.36173248, 1.94369352, 0.34305674, -2.29998422],
                [-1.64384031, 2.66821980, -1.12731218, -1.49741888, 2.68249750, -1.28856230],
            ],
        },
    );
}

#[test]
fn stretched_rotary_positions_have_the_logits_of_llama() {
    check(
        &format!(
            r#"{{{GROUPED}, "positions": {{"kind": "rotary", "theta": 100.0,
                "yarn": {{"factor": 4.0, "original_length": 16, "beta_fast": 2.0, "beta_slow": 0.5}}}}}}"#
        ),
        Known {
            norm: 38.72470283,
            first: [
                [-1.12052500, 2.71932936, -1.70370889, -0.94989604, 2.69024944, -1.84413612],
                [1.75297117, 0.63738740, -2.41494703, 1.87072217, 0.47205779, -2.36099029],
                [-1.45336151, 2.70989037, -1.36106908, -1.29631507, 2.70739245, -1.51552141],
            ],
        },
    );
}

/// `query_rank` and `positions` of a model like DeepSeek-V3's, all its blocks dense.
fn latent(query_rank: &str, positions: &str) -> String {
    format!(
        r#"{{"architecture": "decoder_only", "decoder_inputs": "tokens", "feed_forward": "gated_silu",
            "tie_embeddings": false, "norm_epsilon": 1e-5,
            "attention": {{"kind": "latent", "query_rank": {query_rank}, "kv_rank": 6, "nope_dim": 4, "rope_dim": 8,
                           "value_dim": 3}},
            "positions": {{"kind": "rotary", "pairing": "interleaved", {positions}}}}}"#
    )
}

#[test]
fn latent_attention_has_the_logits_of_deepseek() {
    check(
        &latent("null", r#""theta": 1e4"#),
        Known {
            norm: 37.70818651,
            first: [
                [1.09885836, 1.44496822, -2.59956980, 1.25488579, 1.29627383, -2.60116625],
                [1.56538463, -2.37803984, 0.90439373, 1.43875717, -2.39865422, 1.05243051],
                [0.98932767, 1.53104031, -2.57943130, 1.14789855, 1.38724995, -2.58866477],
            ],
        },
    );
    check(
        &latent(
            "5",
            r#""theta": 100.0, "yarn": {"factor": 4.0, "original_length": 16, "beta_fast": 2.0, "beta_slow": 0.5,
                                        "mscale": 0.7, "mscale_all_dim": 1.0}"#,
        ),
        Known {
            norm: 36.84199582,
            first: [
                [-0.08731180, -2.12593031, 2.29525471, -0.25786918, -2.02743745, 2.36351967],
                [-2.30974340, 1.77597582, 0.46525541, -2.25917935, 1.88107693, 0.30553547],
                [0.66018254, -2.37336516, 1.80474091, 0.49900240, -2.32299332, 1.91360581],
            ],
        },
    );
}

#[test]
fn the_angles_of_deepseek_v3_are_the_published_ones() {
    let yarn = Yarn { mscale: 1.0, mscale_all_dim: 1.0, ..Yarn::default() };
    let rotary = Rotary { pairing: Pairing::Interleaved, yarn: Some(yarn), ..Rotary::default() };
    let angles = rotary.angles(64);
    let known = [
        (0, 1.0),
        (1, 0.7498942),
        (9, 0.074989416),
        (10, 0.056234129),
        (11, 0.039006926),
        (15, 0.0083345091),
        (20, 0.00079056941),
        (22, 0.00017782794),
        (23, 3.3338034e-05),
        (24, 2.5e-05),
        (31, 3.3338035e-06),
    ];
    for (pair, angle) in known {
        assert!((f64::from(angles[pair]) / angle - 1.0).abs() < 1e-6, "pair {pair}: {}", angles[pair]);
    }
    assert_eq!(rotary.table_factor(), 1.0);
    // (0.1 ln 40 + 1)^2
    assert!((yarn.score_factor() - 1.8738542).abs() < 1e-6);
}
