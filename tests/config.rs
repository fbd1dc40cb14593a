//! Configurations: presets, messages, overrides, and no panic on any text.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use switchyard::config::{
    Architecture, Capacity, ConfigError, Exploration, Group, ModelConfig, MoeConfig, Objective,
    OptimizerConfig, Placement, Priority, Rounding, Router, RunConfig, Schedule, Second, Side, Target,
};

fn graphs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs")
}

/// The demo's model as a decoder alone.
const DECODER: [&str; 3] =
    ["model.architecture=decoder_only", "model.num_encoder_layers=0", "data.objective.kind=causal"];

fn preset(name: &str) -> RunConfig {
    RunConfig::load(graphs().join(format!("{name}.json"))).unwrap()
}

fn with(overrides: &[&str]) -> Result<RunConfig, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    RunConfig::load_with(graphs().join("demo.json"), &overrides)
}

fn refusal(overrides: &[&str]) -> String {
    with(overrides).unwrap_err().to_string()
}

#[test]
fn every_preset_reads_back_as_itself_and_is_named_after_its_file() {
    let mut seen = 0;
    for entry in std::fs::read_dir(graphs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let config = RunConfig::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let again = RunConfig::from_json(&config.to_json()).unwrap();
            assert_eq!(again, config, "{}", path.display());
            assert_eq!(again.digest(), config.digest());
            assert_eq!(Some(config.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            seen += 1;
        }
    }
    assert!(seen >= 12, "found {seen} presets");
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    // Source: the paper's tables and the shapes of T5; printed digits, in units of 1e6.
    let table = [
        ("t5-base", "222.9", 1),
        ("t5-large", "737.7", 1),
        ("moe-base-top2-128", "7.42e3", 0),
        ("switch-base-8", "0.62e3", 0),
        ("switch-base-16", "1.07e3", 0),
        ("switch-base-32", "1.98e3", 0),
        ("switch-base-64", "3.79e3", 0),
        ("switch-base-128", "7.42e3", 0),
        ("switch-base-256", "14.66e3", 0),
    ];
    for (name, printed, tenths) in table {
        let millions = preset(name).model.parameter_count() as f64 / 1e6;
        let shown = if tenths == 1 { format!("{millions:.1}") } else { format!("{:.2}e3", millions / 1e3) };
        assert_eq!(shown, printed, "{name}");
    }
    let table = [
        ("t5-xxl", "11.1"),
        ("switch-large-128", "26.3"),
        ("switch-xxl", "394.7"),
        ("switch-c-2048", "1571.3"),
        ("st-moe-32b", "269.1"),
        ("mixtral-8x7b", "46.7"),
        ("deepseek-v3", "671.0"),
    ];
    for (name, billions) in table {
        assert_eq!(format!("{:.1}", preset(name).model.parameter_count() as f64 / 1e9), billions, "{name}");
    }
}

/// The paper's table 9 for 512 input and 114 target tokens, and ST-MoE's number. Neither says whether attention scores and the
/// output head count; products with weights alone give the number for Base and up to 9 % more for the others.
#[test]
fn presets_have_the_published_numbers_of_operations() {
    let table = [
        ("t5-base", 124e9, 1.001),
        ("switch-base-128", 124e9, 1.007), // its routers too
        ("t5-large", 425e9, 1.04),
        ("switch-large-128", 425e9, 1.05),
        ("t5-xxl", 6.3e12, 1.09),
        ("switch-xxl", 6.3e12, 1.09),
        ("switch-c-2048", 890e9, 1.14), // its routers are a tenth
        ("st-moe-32b", 20.2e12, 1.08),
    ];
    for (name, published, most) in table {
        let found = preset(name).model.forward_flops(512, 114) as f64 / published;
        assert!((1.0..most).contains(&found), "{name}: {found} of the published number");
    }
    // Any number of experts costs what the dense model does, but for routers of 768 x experts in 12 layers.
    let dense = preset("t5-base").model.forward_flops(512, 114);
    for experts in [8, 16, 32, 64, 128, 256] {
        let found = preset(&format!("switch-base-{experts}")).model.forward_flops(512, 114);
        assert_eq!(found - dense, 6 * (512 + 114) * 2 * 768 * experts);
    }
    // MoE-Base has more than Switch-Base, in each of six sparse layers of a stack one expert per token.
    let [top_1, top_2] =
        ["switch-base-128", "moe-base-top2-128"].map(|name| preset(name).model.forward_flops(512, 114));
    assert_eq!(top_2 - top_1, 6 * (512 + 114) * 2 * 3 * 768 * 2048);
}

#[test]
fn decoders_have_the_published_numbers_of_operations() {
    // Of one token in a forward pass, the output head too, which a token meets, while of the embedding it reads a row.
    let operations = |name: &str| {
        let model = preset(name).model;
        (model.forward_flops(0, 1) + 2 * (model.d_model * model.vocab_size) as u64) as f64
    };
    // Mixtral: two per value that a token meets; 12.9e9 are published with the embedding's 0.13e9.
    let ratio = operations("mixtral-8x7b") / (2.0 * (12.9e9 - 0.13e9));
    assert!((ratio - 1.0).abs() < 2e-3, "{ratio}");
    // DeepSeek-V3: 250e9 of a training step in rows of 4096 tokens (Insights into DeepSeek-V3, table 2). Backward costs twice
    // forward; scores and sums over 128 + 64 and 128 elements of 128 heads, over half of the tokens in the mean, in 61 blocks.
    let scores = (61u64 * 128 * (128 + 64 + 128) * 4096) as f64;
    let ratio = 3.0 * (operations("deepseek-v3") + scores) / 250e9;
    assert!((ratio - 1.0).abs() < 2e-3, "{ratio}");
}

#[test]
fn counts_by_formula_are_those_of_the_declared_parameters() {
    let declared = |model: &ModelConfig| -> u64 {
        let defs = switchyard::model::declare(model);
        let trained = defs.iter().filter(|def| def.trained);
        trained.map(|def| def.shape.iter().product::<usize>() as u64).sum()
    };
    let latent =
        ["model.positions.kind=rotary", "model.attention.kind=latent", "model.attention.query_rank=24"];
    let variants = [
        vec![],
        vec!["model.num_decoder_layers=7", "model.moe.every=3", "model.num_dense_layers=2"],
        vec!["model.dense_after_sparse=true", "model.feed_forward=gated_silu", "model.moe.d_ff=64"],
        vec![
            "model.attention.kind=grouped_query",
            "model.attention.num_kv_heads=2",
            "model.positions.kind=rotary",
            "model.moe.sublayers=both",
        ],
        vec!["model.moe.sublayers=attention", "model.moe.every=3", "model.num_dense_layers=1"],
        vec!["model.num_decoder_layers=7", "model.moe.decoder_every=3", "model.moe.decoder_offset=0"],
        vec!["model.moe.decoder_every=0"],
        vec!["model.moe.every=0", "model.moe.decoder_every=1"],
        [&DECODER[..], &latent].concat(),
        [&DECODER[..], &latent[..2], &["model.tie_embeddings=false"]].concat(),
    ];
    let mut models: Vec<ModelConfig> = variants.iter().map(|changes| with(changes).unwrap().model).collect();
    models.extend(
        ["t5-xxl", "switch-c-2048", "st-moe-32b", "mixtral-8x7b", "deepseek-v3"]
            .map(|name| preset(name).model),
    );
    for model in models {
        assert_eq!(model.parameter_count(), declared(&model), "{model:?}");
    }
}

#[test]
fn decoders_have_the_published_numbers_of_parameters_that_a_token_meets() {
    for (name, billions) in [("mixtral-8x7b", "12.9"), ("deepseek-v3", "37.6")] {
        assert_eq!(
            format!("{:.1}", preset(name).model.active_parameter_count() as f64 / 1e9),
            billions,
            "{name}"
        );
    }
}

#[test]
fn a_token_of_a_switch_model_meets_as_many_values_as_in_the_dense_one_and_the_routers() {
    let (dense, sparse) = (preset("t5-base").model, preset("switch-base-128").model);
    // 12 sparse layers, each with a router of 768 x 128.
    assert_eq!(sparse.sparse_layers(), 12);
    assert_eq!(sparse.active_parameter_count() - dense.parameter_count(), 12 * 768 * 128);
    assert_eq!(dense.active_parameter_count(), dense.parameter_count());
}

#[test]
fn stacks_with_different_sparse_blocks_count_each_its_own() {
    let counts = |settings: &[&str]| {
        let model = with(settings).unwrap().model;
        (model.sparse_layers(), model.parameter_count(), model.forward_flops(10, 3))
    };
    let (_, dense, flops) = counts(&["model.moe.num_experts=0"]);
    // A sparse layer has 7 more experts of 2 * 128 * 512 values and a router of 128 * 8, which each token meets.
    let expected = |encoder: u64, decoder: u64| {
        let layers = encoder + decoder;
        let more = layers * (7 * 2 * 128 * 512 + 128 * 8);
        (layers as usize, dense + more, flops + 2 * 128 * 8 * (10 * encoder + 3 * decoder))
    };
    assert_eq!(counts(&[]), expected(2, 2));
    assert_eq!(counts(&["model.moe.decoder_every=4"]), expected(2, 1));
    assert_eq!(counts(&["model.moe.decoder_every=0"]), expected(2, 0));
    assert_eq!(counts(&["model.moe.every=0", "model.moe.decoder_every=1"]), expected(0, 4));
}

#[test]
fn one_block_counts_by_hand() {
    let model = ModelConfig {
        vocab_size: 10,
        d_model: 2,
        d_ff: 3,
        d_kv: 5,
        num_heads: 1,
        num_encoder_layers: 1,
        num_decoder_layers: 1,
        ..ModelConfig::default()
    };
    // embedding 10 * 2; attention 4 * 2 * 5 = 40, feed-forward 2 * 2 * 3 = 12, norms of 2, position biases 32.
    // encoder: 40 + 12 + 2 norms * 2 + 32 + last norm 2 = 90; decoder: 2 * 40 + 12 + 3 * 2 + 32 + 2 = 132.
    assert_eq!(model.parameter_count(), 20 + 90 + 132);
    let untied = ModelConfig { tie_embeddings: false, ..model };
    assert_eq!(untied.parameter_count(), 40 + 90 + 132);
}

#[test]
fn counting_saturates_rather_than_overflows() {
    let model = ModelConfig {
        d_model: usize::MAX,
        d_ff: usize::MAX,
        num_heads: usize::MAX,
        ..ModelConfig::default()
    };
    assert_eq!(model.parameter_count(), u64::MAX);
}

#[test]
fn an_empty_object_is_a_whole_configuration_with_every_field_printed() {
    let config = RunConfig::from_json("{}").unwrap();
    assert_eq!(config.batch.target_length, 29);
    assert_eq!(config.model.moe.offset, Some(1));
    assert_eq!(config.model.moe.d_ff, Some(512));
    let tree: Value = serde_json::from_str(&config.to_json()).unwrap();
    let exploration = tree.pointer("/model/moe/router/exploration").unwrap();
    assert_eq!(*exploration, json!({"kind": "input_jitter", "epsilon": 0.01}));
    assert_eq!(*tree.pointer("/optimizer/beta1").unwrap(), Value::Null);
}

#[test]
fn the_reference_page_names_every_field() {
    fn walk(value: &Value, path: &str, page: &str) {
        for (key, inner) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if inner.is_object() {
                walk(inner, &path, page);
            } else {
                assert!(page.contains(&format!("| `{path}` |")), "docs/config.md lacks {path}");
            }
        }
    }
    let page = std::fs::read_to_string(graphs().join("../docs/config.md")).unwrap();
    let files = [
        vec![],
        vec!["optimizer.kind=adafactor"],
        vec!["schedule.kind=constant"],
        vec!["schedule.kind=inverse_square_root"],
        vec!["data.objective.kind=text_to_text"],
        vec!["model.attention.kind=grouped_query"],
        vec!["model.positions.kind=rotary", "model.positions.yarn.factor=4"],
        [&DECODER[..], &["model.positions.kind=rotary", "model.attention.kind=latent"]].concat(),
        vec!["data.tokenizer.kind=hugging_face", "data.tokenizer.path=x"],
        vec!["model.moe.router.kind=top_k", "model.moe.router.exploration.kind=input_dropout"],
        vec!["model.moe.router.kind=gshard", "model.moe.router.exploration.kind=sample"],
        vec!["model.moe.router.kind=gshard", "model.moe.router.second_eval.kind=random"],
        vec!["model.moe.router.kind=no_token_left_behind", "model.moe.capacity.kind=absolute"],
        vec!["model.moe.router.kind=deepseek_v3", "model.moe.capacity.kind=dropless"],
    ];
    for overrides in files {
        walk(&serde_json::from_str(&with(&overrides).unwrap().to_json()).unwrap(), "", &page);
    }
}

#[test]
fn overrides_are_json_or_strings_and_make_what_is_omitted() {
    let config = with(&[
        "model.moe.num_experts=16",
        "name=other",
        "model.moe.group={\"tokens\":1024}",
        "model.moe.router.exploration.epsilon=0.02",
        "model.moe.capacity.train_factor=2",
    ]);
    // 16 rows of 29 decoder tokens: one group of 464, below the limit.
    let config = config.unwrap();
    assert_eq!(config.model.moe.num_experts, 16);
    assert_eq!(config.name, "other");
    assert_eq!(config.model.moe.group, Group::Tokens(1024));
    assert_eq!(
        config.model.moe.router,
        Router::Switch {
            exploration: Exploration::InputJitter { epsilon: 0.02 },
            priority: Priority::Position
        }
    );
    let capacity = Capacity::Factor {
        train_factor: 2.0,
        eval_factor: 2.0,
        rounding: Rounding::Floor,
        minimum: 4,
        multiple: 1,
    };
    assert_eq!(config.model.moe.capacity, capacity);
}

#[test]
fn routers_and_capacities_read_as_written() {
    let router = |text: &str| with(&[&format!("model.moe.router={text}")]).unwrap().model.moe.router;
    assert_eq!(
        router(r#"{"kind": "gshard", "second": {"kind": "random", "threshold": 0.3}}"#),
        Router::Gshard {
            second: Second::Random { threshold: 0.3 },
            second_eval: None,
            exploration: Exploration::Argmax,
            priority: Priority::Position
        }
    );
    assert_eq!(
        router(r#"{"kind": "mixtral", "k": 4, "placement": "token_major"}"#),
        Router::Mixtral {
            k: 4,
            exploration: Exploration::Argmax,
            priority: Priority::Position,
            placement: Placement::TokenMajor
        }
    );
    for kind in Router::KINDS {
        let moe = MoeConfig { num_experts: 8, router: kind, ..MoeConfig::default() };
        let moe = MoeConfig { decoder_router: Some(Router::default()), ..moe };
        let model = ModelConfig { moe, ..ModelConfig::default() };
        let config = RunConfig { model, ..RunConfig::default() }.resolved().unwrap();
        assert_eq!(RunConfig::from_json(&config.to_json()).unwrap(), config);
    }
    // A capacity without a kind is a factor; a setting of a kind drops its fields.
    assert_eq!(with(&["model.moe.capacity={}"]).unwrap().model.moe.capacity, Capacity::default());
    let capacity = |settings: &[&str]| with(settings).unwrap().model.moe.capacity;
    let settings = ["model.moe.capacity.train=3", "model.moe.capacity.kind=absolute"];
    assert_eq!(capacity(&settings), Capacity::Absolute { train: 3, eval: 64, multiple: 1 });
    assert_eq!(capacity(&["model.moe.capacity.kind=dropless"]), Capacity::Dropless {});
    // Experts that choose need a decoder of its own kind, or a dense one.
    assert!(with(&["model.moe.router.kind=expert_choice", "model.moe.decoder_every=0"]).is_ok());
    let settings = ["model.moe.router.kind=expert_choice", "model.moe.decoder_router.kind=top_k"];
    assert_eq!(with(&settings).unwrap().model.moe.decoder_router, Some(Router::KINDS[1]));
}

#[test]
fn a_token_meets_as_many_experts_as_its_router_gives_it() {
    let active = |settings: &[&str]| with(settings).unwrap().model.active_parameter_count();
    // The demo has two sparse layers in each stack, experts of 2 * 128 * 512 values.
    let (expert, one) = (2 * 128 * 512, active(&["model.moe.router.kind=switch"]));
    assert_eq!(active(&["model.moe.router.kind=gshard"]) - one, 4 * expert);
    assert_eq!(active(&["model.moe.decoder_router={\"kind\":\"mixtral\",\"k\":4}"]) - one, 2 * 3 * expert);
    // Experts of attention are 128 x 3 x 128 values; every token meets one of them in place of the dense ones.
    let (attention, router) = (128 * 3 * 128, 128 * 8);
    assert_eq!(active(&["model.moe.sublayers=both"]) - one, 4 * router);
    let both = ["model.moe.sublayers=both", "model.moe.router.kind=top_k"];
    assert_eq!(active(&both) - one, 4 * (router + attention + expert));
    let shared = ["model.moe.shared_experts=2"];
    assert_eq!(active(&shared) - one, 4 * 2 * expert);
    let added = with(&shared).unwrap().model.parameter_count() - with(&[]).unwrap().model.parameter_count();
    assert_eq!(added, 4 * 2 * expert);
}

#[test]
fn an_override_of_a_length_moves_what_follows_from_it() {
    assert_eq!(with(&["batch.input_length=64"]).unwrap().batch.target_length, 14);
}

#[test]
fn an_override_of_a_kind_comes_first_and_drops_the_fields_of_the_old_kind() {
    let config = with(&["schedule.rate=0.5", "schedule.kind=constant", "optimizer.kind=adafactor"]).unwrap();
    assert_eq!(config.schedule, Schedule::Constant { rate: 0.5, warmup_steps: 100 });
    assert_eq!(config.optimizer, OptimizerConfig::default());
    // The same kind again keeps its fields.
    assert_eq!(with(&["schedule.kind=cosine"]).unwrap(), with(&[]).unwrap());
}

#[test]
fn causal_decoder_only_models_have_equal_lengths() {
    let config = with(&DECODER).unwrap();
    assert_eq!(config.model.architecture, Architecture::DecoderOnly);
    assert_eq!(config.data.objective, Objective::Causal);
    assert_eq!(config.batch.target_length, 128);
}

#[test]
fn unknown_keys_are_refused_with_path_allowed_fields_and_the_closest() {
    assert_eq!(
        refusal(&["model.moe.capacity.train_facto=1"]),
        "model.moe.capacity.train_facto: unknown field, did you mean train_factor?; allowed here: kind, train_factor, \
         eval_factor, rounding, minimum, multiple"
    );
    assert_eq!(
        refusal(&["modle.d_ff=1"]),
        "modle: unknown field, did you mean model?; allowed here: name, description, model, mesh, target, batch, loss, \
         optimizer, schedule, data, distillation, seed"
    );
    assert_eq!(
        RunConfig::from_json(r#"{"optimizer": {"kind": "adamw", "clip_threshold": 1}}"#)
            .unwrap_err()
            .to_string(),
        "optimizer.clip_threshold: unknown field; allowed here: kind, beta1, beta2, epsilon, weight_decay, \
         clip_global_norm"
    );
    assert_eq!(
        refusal(&["model.moe.router.exploration={\"kind\":\"argmax\",\"epsilon\":1}"]),
        "model.moe.router.exploration.epsilon: unknown field; allowed here: kind"
    );
}

#[test]
fn kinds_and_types_are_refused_with_a_value_that_works() {
    let cases = [
        (
            "optimizer.kind=sgd",
            "optimizer.kind: found \"sgd\", expected one of \"adafactor\", \"adamw\"; for example \"adafactor\"",
        ),
        (
            "schedule={\"peak\":1}",
            "schedule.kind: found nothing, expected one of \"inverse_square_root\", \"cosine\", \"constant\"; \
             for example \"inverse_square_root\"",
        ),
        (
            "model.d_model=wide",
            "model.d_model: invalid type: string \"wide\", expected usize; for example 128",
        ),
        ("seed=-1", "seed: invalid value: integer `-1`, expected u64; for example 0"),
        (
            "model.architecture=encoder",
            "model.architecture: unknown variant `encoder`, expected `encoder_decoder` or `decoder_only`; \
             for example \"encoder_decoder\"",
        ),
        (
            "optimizer.epsilon2=x",
            "optimizer.epsilon2: invalid type: string \"x\", expected f64; for example 0.001",
        ),
        (
            "model.moe.router.exploration.epsilon=true",
            "model.moe.router.exploration.epsilon: invalid type: boolean `true`, expected f64; for example 0.01",
        ),
        ("model=1", "model: invalid type: integer `1`, expected struct ModelConfig"),
        ("data.tokenizer.kind=hugging_face", "data.tokenizer: missing field `path`"),
        (
            r#"data.tokenizer={"kind":"hugging_face","path":"x","eos_token":3}"#,
            "data.tokenizer.eos_token: invalid type: integer `3`, expected a string; for example \"</s>\"",
        ),
    ];
    for (setting, message) in cases {
        let found = refusal(&[setting]);
        assert!(found.starts_with(message), "{setting}\n found {found}\nwanted {message}");
    }
}

#[test]
fn settings_that_cannot_be_read_are_refused() {
    let cases = [
        ("seed", "override `seed`: expected key=value, for example seed=1"),
        (
            "model..d_ff=1",
            "override `model..d_ff=1`: expected field names joined by dots before =, for example model.d_ff=512",
        ),
        ("name.x=1", "override `name.x=1`: expected an object at `name`, found \"demo\""),
    ];
    for (setting, message) in cases {
        assert_eq!(refusal(&[setting]), message);
    }
}

#[test]
fn impossible_values_are_refused_with_path_value_range_and_example() {
    let cases: [(&[&str], &str); 48] = [
        (
            &["model.d_model=0"],
            "model.d_model: found 0, expected a whole number from 1 to 16777216; for example 512",
        ),
        (
            &["model.vocab_size=300"],
            "model.vocab_size: found 300, expected at least 359: 3 special ids, 256 bytes, 100 sentinels; for example 384",
        ),
        (
            &["model.num_encoder_layers=1", "model.num_decoder_layers=1"],
            "model.num_decoder_layers: found 1, expected a stack of at least 2 blocks, the first with its sparse block; \
             for example 2",
        ),
        (
            &["model.moe.offset=2"],
            "model.moe.offset: found 2, expected a whole number from 0 to 1; for example 1",
        ),
        (
            &["model.moe.decoder_every=5", "model.moe.decoder_offset=5"],
            "model.moe.decoder_offset: found 5, expected a whole number from 0 to 4; for example 4",
        ),
        (
            &["model.moe.every=0"],
            "model.moe.every: found 0, expected a number above 0: a model with experts has a sparse block; for example 2",
        ),
        (
            &["model.moe.every=5", "model.moe.decoder_every=0"],
            "model.num_encoder_layers: found 4, expected a stack of at least 5 blocks, the first with its sparse block; \
             for example 5",
        ),
        (
            &[DECODER[0], DECODER[1], DECODER[2], "model.moe.decoder_every=2"],
            "model.moe.decoder_every: found 2, expected null in a decoder_only model, which has model.moe.every; for example null",
        ),
        (
            &["model.dropout=1"],
            "model.dropout: found 1.0, expected a number from 0 to below 1; for example 0.1",
        ),
        (
            &["model.moe.capacity.train_factor=0"],
            "model.moe.capacity.train_factor: found 0.0, expected a number above 0 that float32 holds; for example 1.25",
        ),
        (
            &["model.moe.router={\"kind\":\"top_k\",\"k\":9}"],
            "model.moe.router.k: found 9, expected from 1 to model.moe.num_experts = 8; for example 2",
        ),
        (
            &["model.moe.router={\"kind\":\"no_token_left_behind\",\"rounds\":0}"],
            "model.moe.router.rounds: found 0, expected from 1 to model.moe.num_experts = 8; for example 2",
        ),
        (
            &["model.moe.router.kind=gshard", "model.moe.num_experts=1"],
            "model.moe.num_experts: found 1, expected at least 2 experts, since the router gshard chooses two; for example 8",
        ),
        (
            &["model.moe.router={\"kind\":\"gshard\",\"second\":{\"kind\":\"random\",\"threshold\":0}}"],
            "model.moe.router.second.threshold: found 0.0, expected a number above 0 that float32 holds; for example 0.2",
        ),
        (
            &["model.moe.router.exploration={\"kind\":\"sample\",\"temperature\":0}"],
            "model.moe.router.exploration.temperature: found 0.0, expected a number above 0 that float32 holds; for example 1.0",
        ),
        (
            &["model.moe.router={\"kind\":\"deepseek_v3\",\"k\":2,\"n_routing_groups\":3}"],
            "model.moe.router.n_routing_groups: found 3, expected a divisor of model.moe.num_experts = 8; for example 2",
        ),
        (
            &[
                "model.moe.router={\"kind\":\"deepseek_v3\",\"k\":2,\"n_routing_groups\":8,\"topk_routing_group\":2}",
            ],
            "model.moe.router.n_routing_groups: found 8, expected at most 4, so that each group has two experts whose scores \
             rank it; for example 1",
        ),
        (
            &[
                "model.moe.router={\"kind\":\"deepseek_v3\",\"k\":5,\"n_routing_groups\":4,\"topk_routing_group\":2}",
            ],
            "model.moe.router.topk_routing_group: found 2, expected at least 3, since 5 experts are chosen from groups of 2; \
             for example 3",
        ),
        (
            &["model.moe.sublayers=attention", "model.moe.shared_experts=1"],
            "model.moe.sublayers: found \"attention\", expected both, since model.moe.shared_experts belongs to experts of the \
             feed-forward network; for example \"both\"",
        ),
        (
            &[
                "model.architecture=decoder_only",
                "model.num_encoder_layers=0",
                "model.positions.kind=rotary",
                "model.attention.kind=latent",
                "model.moe.sublayers=both",
            ],
            "model.moe.sublayers: found \"both\", expected feed_forward, since model.attention is latent: experts make queries, \
             keys and values of heads; for example \"feed_forward\"",
        ),
        (
            &["model.moe.router.kind=expert_choice"],
            "model.moe.decoder_router: found null, expected a causal router, since model.moe.router looks at later tokens, \
             which a decoder must not; for example {\"kind\":\"switch\"}",
        ),
        (
            &["model.moe.router.priority=probability"],
            "model.moe.decoder_router: found null, expected a causal router",
        ),
        (
            &["model.moe.decoder_router={\"kind\":\"top_k\",\"priority\":\"probability\"}"],
            "model.moe.decoder_router.priority: found \"probability\", expected position: the order of probabilities looks \
             at later tokens, which a decoder must not; for example \"position\"",
        ),
        (
            &[DECODER[0], DECODER[1], DECODER[2], "model.moe.router.kind=expert_choice"],
            "model.moe.router.kind: found \"expert_choice\", expected a router whose tokens choose: experts that choose look \
             at later tokens, which a decoder must not; for example \"switch\"",
        ),
        (
            &[DECODER[0], DECODER[1], DECODER[2], "model.moe.decoder_router.kind=top_k"],
            "model.moe.decoder_router: found {\"kind\":\"top_k\"",
        ),
        (
            &["model.moe.capacity={\"kind\":\"absolute\",\"eval\":0}"],
            "model.moe.capacity.eval: found 0, expected a whole number from 1 to 2147483647; for example 64",
        ),
        (
            &["model.norm_epsilon=1e-60"],
            "model.norm_epsilon: found 1e-60, expected a number above 0 that float32 holds; for example 1e-6",
        ),
        (
            &["model.positions.num_buckets=33"],
            "model.positions.num_buckets: found 33, expected an even number: the encoder halves it by direction; \
             for example 34",
        ),
        (
            &["model.positions.max_distance=16"],
            "model.positions.max_distance: found 16, expected a whole number from 17 to 2147483647; for example 128",
        ),
        (
            &["model.positions.kind=rotary", "model.d_kv=33"],
            "model.d_kv: found 33, expected an even number: its elements turn in pairs; for example 34",
        ),
        (
            &["model.positions.kind=rotary", "model.positions.theta=1"],
            "model.positions.theta: found 1.0, expected a number above 1 that float32 holds; for example 10000.0",
        ),
        (
            &["model.attention.kind=grouped_query", "model.attention.num_kv_heads=3"],
            "model.attention.num_kv_heads: found 3, expected a divisor of model.num_heads = 4; for example 1",
        ),
        (
            &["model.attention.kind=latent"],
            "model.attention.kind: found \"latent\", expected another kind: latent attention is decoder_only; \
             for example \"multi_head\"",
        ),
        (
            &["model.decoder_inputs=tokens"],
            "model.decoder_inputs: found \"tokens\", expected shift_right, since model.architecture is encoder_decoder; \
             for example \"shift_right\"",
        ),
        (
            &["model.pad_id=384"],
            "model.pad_id: found 384, expected a whole number from 0 to 383; for example 0",
        ),
        (
            &["batch.accumulation=5"],
            "batch.accumulation: found 5, expected a divisor of batch.sequences = 8; for example 4",
        ),
        (
            &["batch.accumulation=0"],
            "batch.accumulation: found 0, expected a whole number from 1 to 8; for example 1",
        ),
        (
            &["batch.target_length=28"],
            "batch.target_length: found 28, expected at least 29, which span corruption fills from 128 inputs; \
             for example 29",
        ),
        (
            &["batch.input_length=16000000", "batch.sequences=1000"],
            "batch.sequences: found 1000, expected at most 134, so that 16000000 tokens each are indexed by s32; \
             for example 134",
        ),
        (
            &["batch.input_length=2048"],
            "data.objective.mean_span_length: found 3.0, expected longer spans: 114 of them need more than 100 \
             sentinels; for example 4.0",
        ),
        (
            &["data.objective.noise_density=0.9", "data.objective.mean_span_length=1"],
            "data.objective.noise_density: found 0.9, expected fewer replaced tokens: 572 spans need as many kept \
             tokens, not 63; for example 0.15",
        ),
        (
            &["data.objective.kind=causal"],
            "data.objective.kind: found \"causal\", expected span_corruption or text_to_text, since \
             model.architecture is encoder_decoder; for example \"span_corruption\"",
        ),
        (
            &["model.architecture=decoder_only"],
            "model.num_encoder_layers: found 4, expected 0 in a decoder_only model; for example 0",
        ),
        (
            &["schedule.total_steps=30"],
            "schedule.total_steps: found 30, expected a number of steps from 31 to 2147483647; for example 300",
        ),
        (
            &["batch.sequences=1", "batch.input_length=127", "model.moe.group={\"tokens\":50}"],
            "model.moe.group.tokens: found 50, expected a size near a divisor of the 127 tokens (1 x 127) of a microbatch, \
             whose largest divisor up to it is 1; for example 127",
        ),
        (
            &["name=../x"],
            "name: found \"../x\", expected 1 to 100 letters, digits, dots, dashes and underscores, a letter or digit \
             first; for example \"demo\"",
        ),
        (
            &["model.d_model=16777216", "model.d_ff=16777216"],
            "model.d_ff: a stack's feed-forward weight would have 4 x 16777216 x 16777216 = 1125899906842624 elements, \
             expected at most 281474976710656; make one of layers, d_model, d_ff smaller",
        ),
        (
            &["model.moe.num_experts=1048576", "model.moe.group=sequence", "batch.sequences=1024"],
            "model.moe.capacity.train_factor: the table of expert slots would have 1024 x 1048576 x 4 = 4294967296 \
             elements, expected at most 2147483647; make one of groups, moe.num_experts, capacity smaller",
        ),
    ];
    for (overrides, message) in cases {
        let found = refusal(overrides);
        assert!(found.starts_with(message), "{overrides:?}\n found {found}\nwanted {message}");
    }
}

#[test]
fn values_built_in_code_are_validated_too() {
    for value in [f64::NAN, f64::INFINITY, -1.0] {
        let model = ModelConfig { init_scale: value, ..ModelConfig::default() };
        assert!(RunConfig { model, ..RunConfig::default() }.resolved().is_err());
        let moe = MoeConfig { expert_dropout: value, ..MoeConfig::default() };
        let model = ModelConfig { moe, ..ModelConfig::default() };
        assert!(RunConfig { model, ..RunConfig::default() }.validate().is_err());
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = RunConfig::load("no/such/config.json").unwrap_err();
    assert_eq!(missing.to_string(), "config no/such/config.json: cannot be read");
    let message = RunConfig::from_json("{\"seed\": }").unwrap_err().to_string();
    assert_eq!(message, "config is not valid JSON: expected value at line 1 column 10");
    assert!(
        RunConfig::from_json("3").unwrap_err().to_string().starts_with("config: invalid type: integer `3`")
    );
}

/// Trees of any form, with the field names and words of configurations in them.
fn trees() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["adamw", "causal", "batch", "bytes", "decoder_only", "\u{1F600}"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let key = prop::sample::select(vec!["kind", "tokens", "epsilon", "moe", "path", "d_ff", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|entries| Value::Object(
                entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

/// Pointers to all values of the demo's tree.
fn pointers() -> Vec<String> {
    fn walk(value: &Value, here: String, found: &mut Vec<String>) {
        for (key, inner) in value.as_object().into_iter().flatten() {
            walk(inner, format!("{here}/{key}"), found);
        }
        found.push(here);
    }
    let mut found = Vec::new();
    walk(&serde_json::from_str(&preset("demo").to_json()).unwrap(), String::new(), &mut found);
    found
}

/// Whatever is accepted is usable: derived values exist and printing reads back.
fn usable(config: &RunConfig) {
    assert_eq!(RunConfig::from_json(&config.to_json()).unwrap(), *config);
    for (groups, rows) in [
        (config.groups(Side::Encoder), config.batch.input_length),
        (config.groups(Side::Decoder), config.batch.target_length),
    ] {
        assert_eq!(
            groups.num_groups * groups.tokens_per_group,
            config.batch.sequences_per_microbatch() * rows
        );
        let capacity = config.model.moe.capacity_for(groups.tokens_per_group, true);
        assert!((1..=groups.tokens_per_group).contains(&capacity));
    }
    assert!(config.model.parameter_count() < u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_change_of_a_value_panics(pointer in prop::sample::select(pointers()), value in trees()) {
        let mut tree: Value = serde_json::from_str(&preset("demo").to_json()).unwrap();
        if let Some(place) = tree.pointer_mut(&pointer) {
            *place = value;
        }
        if let Ok(config) = RunConfig::from_json(&tree.to_string()) {
            usable(&config);
        }
    }

    #[test]
    fn no_change_of_a_byte_panics(at in 0_usize..1_000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = preset("demo").to_json().into_bytes();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(config) = RunConfig::from_json(&String::from_utf8_lossy(&bytes)) {
            usable(&config);
        }
    }

    #[test]
    fn no_override_panics(setting in "[a-z_.]{0,20}=?[-a-z0-9.{}\":]{0,12}") {
        if let Ok(config) = with(&[&setting]) {
            usable(&config);
        }
    }

    #[test]
    fn no_size_panics(values in prop::collection::vec(prop_oneof![0_u64..70, any::<u64>()], 8)) {
        let keys = ["d_model", "d_ff", "num_heads", "num_encoder_layers", "vocab_size"];
        let mut tree = json!({"batch": {"sequences": values[5], "input_length": values[6]}, "model": {"moe": {"num_experts": values[7]}}});
        for (key, value) in keys.into_iter().zip(&values) {
            tree["model"][key] = json!(value);
        }
        if let Ok(config) = RunConfig::from_json(&tree.to_string()) {
            usable(&config);
        }
    }
}

#[test]
fn meshes_that_do_not_divide_are_refused_with_the_nearest_that_do() {
    // The demo has 8 experts, 4 heads, and batches of 8 rows.
    let cases: [(&[&str], &str); 6] = [
        (
            &["mesh.expert=3"],
            "mesh.expert: found 3, expected a divisor of model.moe.num_experts = 8, of which the nearest are 2 or 4; \
             for example 2",
        ),
        (
            &["mesh.data=5"],
            "mesh.data: found 5, expected a divisor of batch.sequences / batch.accumulation / mesh.expert = 8, of which \
             the nearest are 4 or 8; for example 4",
        ),
        (
            &["mesh.data=4", "mesh.expert=4"],
            "mesh.data: found 4, expected a divisor of batch.sequences / batch.accumulation / mesh.expert = 2, of which \
             the nearest are 2; for example 2",
        ),
        (
            &["mesh.model=8"],
            "mesh.model: found 8, expected a divisor of model.num_heads = 4, of which the nearest are 4; for example 4",
        ),
        (
            &["mesh.model=4", "mesh.shard_vocabulary=true", "model.vocab_size=362"],
            "mesh.model: found 4, expected a divisor of model.vocab_size = 362, of which the nearest are 2 or 181; for example 2",
        ),
        (&["mesh.data=0"], "mesh.data: found 0, expected a whole number from 1 to 65536; for example 1"),
    ];
    for (settings, expected) in cases {
        assert_eq!(refusal(settings), expected);
    }
}

#[test]
fn how_a_run_is_computed_is_no_part_of_the_digest() {
    let alone = with(&[]).unwrap();
    for how in [&["mesh.data=2", "mesh.shard_state=true"][..], &["target=tpu"], &["model.scan_blocks=false"]]
    {
        let config = with(how).unwrap();
        assert_ne!(config.to_json(), alone.to_json());
        assert_eq!(config.digest(), alone.digest(), "{how:?}");
    }
    assert_ne!(with(&["model.d_ff=64"]).unwrap().digest(), alone.digest());
}

#[test]
fn few_blocks_are_unrolled_unless_the_configuration_says() {
    let scans = |settings: &[&str]| {
        let config = with(settings).unwrap();
        config.model.scans_blocks(config.target)
    };
    let layers = |encoder, decoder| {
        [format!("model.num_encoder_layers={encoder}"), format!("model.num_decoder_layers={decoder}")]
    };
    let ([a, b], [c, d]) = (layers(6, 6), layers(7, 6));
    assert!(!scans(&[&a, &b]));
    assert!(scans(&[&c, &d]));
    assert!(!scans(&[&c, &d, "model.scan_blocks=false"]));
    // XLA's CPU compiler computes again only what is in loops.
    assert!(scans(&[&a, &b, "model.remat=full"]));
    assert!(scans(&["target=gpu"]));
    let ([a, b], [c, d]) = (layers(12, 12), layers(13, 12));
    assert!(!scans(&["target=tpu", &a, &b]));
    assert!(scans(&["target=tpu", &c, &d]));
    assert!(scans(&["target=tpu", "model.scan_blocks=true"]));
    assert!(!scans(&["target=tpu", &c, &d, "model.scan_blocks=false"]));
    assert!(!scans(&["target=tpu", "model.scan_blocks=null"]));
    // It is decided for each network by itself, wherever a program is built: what was resolved for CPUs does not say.
    let teacher =
        r#"distillation.teacher={"num_encoder_layers": 20, "num_decoder_layers": 20, "vocab_size": 384}"#;
    let student = with(&[teacher]).unwrap();
    let networks = [&student.model, student.distillation.teacher.as_deref().unwrap()];
    assert_eq!(networks.map(|network| network.scan_blocks), [None, None]);
    assert_eq!(networks.map(|network| network.scans_blocks(Target::Cpu)), [false, true]);
    assert_eq!(networks.map(|network| network.scans_blocks(Target::Tpu)), [false, true]);
}
