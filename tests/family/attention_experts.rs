//! Experts that make queries, keys and values (Switch Transformer, appendix A).

use super::generation::{check_decoder, check_encoder_decoder};
use super::gradients;
use super::model::{Tensors, config, distance, floats, parameters, program, run, tokens, with};
use switchyard::ir::{DType, Literal, TensorType};

/// Four sparse blocks, two in each stack.
fn sparse(sublayers: &str, more: &str) -> String {
    format!(r#"{{"moe": {{"every": 1, "sublayers": "{sublayers}", {more}}}}}"#)
}

fn batch() -> [(&'static str, Literal); 2] {
    [
        ("inputs", tokens(&[&[3, 9, 4, 20, 7, 1, 0, 0], &[21, 11, 12, 13, 14, 15, 16, 1]])),
        ("targets", tokens(&[&[9, 4, 20, 7, 1, 0], &[5, 11, 12, 13, 14, 1]])),
    ]
}

/// Parameters with each matrix of queries, keys and values as that of each of `experts` experts.
fn with_experts(dense: &Tensors, experts: usize, router: &dyn Fn(Vec<usize>) -> Literal) -> Tensors {
    let mut all = dense.clone();
    for (name, value) in dense {
        let Some((block, matrix @ ("q" | "k" | "v"))) = name.rsplit_once('/') else { continue };
        if !block.ends_with("/attention") {
            continue;
        }
        let [repeats, input, output] = value.ty().shape[..] else { panic!("{name}") };
        let rows = value.to_f64();
        let copies = rows.chunks(input * output).flat_map(|row| row.repeat(experts)).map(|x| x as f32);
        let shape = [repeats, experts, input, output];
        let copies = Literal::new(shape, &copies.collect::<Vec<_>>()).unwrap();
        all.insert(format!("{block}/experts/{matrix}"), copies);
        all.insert(format!("{block}/router"), router(vec![repeats, input, experts]));
    }
    all
}

#[test]
fn equal_experts_whose_gates_add_up_to_one_are_the_dense_projections() {
    let dense = config("{}");
    let values = parameters(&dense, 4);
    let experts = with_experts(&values, 3, &|shape| {
        super::model::wave(&TensorType::new(DType::F32, shape), 5, 1.0, 0.0)
    });
    let expected = run(&program(&dense, "forward"), &with(&values, &batch()));
    for form in ["einsum", "gather"] {
        let router = r#""num_experts": 3, "router": {"kind": "mixtral"}, "capacity": {"kind": "dropless"}"#;
        let sparse = config(&sparse("attention", &format!(r#"{router}, "dispatch": "{form}""#)));
        let found = run(&program(&sparse, "forward"), &with(&experts, &batch()));
        // Padding has no key here and one that is hidden there; what it makes of itself counts nowhere.
        let real = |tensors: &Tensors| {
            let logits = floats(tensors, "logits");
            [&logits[..5 * 31], &logits[6 * 31..]].concat()
        };
        let error = distance(&real(&expected), &real(&found));
        assert!(error < 1e-5, "{form}: logits differ by {error}");
        assert_eq!(floats(&found, "layers/dropped"), [0.0; 4]);
    }
}

#[test]
fn both_dispatch_forms_agree_where_tokens_are_dropped() {
    let with_form = |form: &str| {
        let capacity = r#""num_experts": 3, "capacity": {"kind": "absolute", "train": 3, "eval": 3}"#;
        let config = config(&sparse("both", &format!(r#"{capacity}, "dispatch": "{form}""#)));
        run(&program(&config, "gradients"), &with(&parameters(&config, 6), &batch()))
    };
    let (einsum, gather) = (with_form("einsum"), with_form("gather"));
    for (name, value) in &einsum {
        let error = distance(&value.to_f64(), &floats(&gather, name));
        assert!(error < 2e-5, "{name} differs by {error}");
    }
}

#[test]
fn each_sublayer_reports_in_the_order_of_the_depth_and_its_bias_follows_its_own_load() {
    let router = r#""num_experts": 3, "router": {"kind": "deepseek_v3", "k": 1}"#;
    let config = config(&sparse("both", router));
    let seed = Literal::new([2], &[0u32, 1]).unwrap();
    let state = run(&program(&config, "init"), &[("seed".to_string(), seed)].into_iter().collect());
    let found = run(&program(&config, "train_step"), &with(&state, &batch()));
    let load = floats(&found, "layers/expert_load");
    assert_eq!(load.len(), 2 * 2 * 2 * 3, "two stacks of two blocks of two sublayers with three experts");
    for (stack, side) in ["encoder", "decoder"].into_iter().enumerate() {
        for (sublayer, scope) in ["attention", "moe"].into_iter().enumerate() {
            let bias = floats(&found, &format!("{side}/block_0/{scope}/router_bias"));
            for block in 0..2 {
                let layer = (stack * 2 + block) * 2 + sublayer;
                let load = &load[3 * layer..][..3];
                let expected: Vec<f64> = load.iter().map(|x| 0.001 * (1.0 / 3.0 - x).signum()).collect();
                let found = &bias[3 * block..][..3];
                let off = load.iter().all(|x| (x - 1.0 / 3.0).abs() > 1e-6);
                assert!(
                    !off || distance(&expected, found) < 1e-6,
                    "{side}, block {block}, {scope}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn generation_with_a_cache_is_that_in_full() {
    let moe = |sublayers: &str| {
        format!(
            r#""moe": {{"num_experts": 3, "every": 2, "sublayers": "{sublayers}", "capacity": {{"eval_factor": 8.0}}}}"#
        )
    };
    check_encoder_decoder(&format!("{{{}}}", moe("both")));
    check_decoder(&format!(
        r#"{{"architecture": "decoder_only", "decoder_inputs": "tokens", "positions": {{"kind": "rotary"}},
             "attention": {{"kind": "grouped_query", "num_kv_heads": 2}}, {}}}"#,
        moe("attention")
    ));
}

#[test]
fn gradients_are_those_of_differences_and_of_unrolled_blocks() {
    // With one expert no choice changes on the way.
    gradients::check(&sparse("both", r#""num_experts": 1"#));
    gradients::gradients(&sparse("both", r#""num_experts": 3"#));
}
