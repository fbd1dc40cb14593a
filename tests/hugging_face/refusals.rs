//! Folders that do not fit are refused with everything that is wrong.

use super::fixtures;
use super::folder::{self, Place, Tensors};
use serde_json::{Value, json};
use switchyard::checkpoint::read_tensors;
use switchyard::checkpoint::{TensorFile, write_tensors};
use switchyard::config::{RunConfig, Sublayers};
use switchyard::convert::{self, ConvertError};
use switchyard::ir::{DType, Literal, TensorType};

fn refusal(settings: &Value, tensors: &Tensors) -> ConvertError {
    let place = Place::new(settings, tensors);
    let error = convert::import(&place.path("there"), &place.path("here")).unwrap_err();
    assert!(!place.path("here").exists(), "nothing is written: {error}");
    error
}

fn problems(settings: &Value, tensors: &Tensors) -> Vec<String> {
    match refusal(settings, tensors) {
        ConvertError::Refused { problems, .. } => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_name_shape_and_setting_that_does_not_fit_is_listed() {
    let mut settings = folder::settings();
    settings["router_bias"] = true.into();
    settings["dense_act_fn"] = "gelu".into();
    settings["dropout_rate"] = "much".into();
    let mut tensors = folder::tensors();
    tensors.retain(|(name, _)| name != "encoder.final_layer_norm.weight");
    for (name, value) in &mut tensors {
        match name.as_str() {
            "decoder.final_layer_norm.weight" => *value = Literal::zeros(TensorType::new(DType::F32, [9])),
            "encoder.block.1.layer.1.mlp.experts.expert_3.wi.weight" => {
                *value = Literal::zeros(TensorType::new(DType::S32, [16, 8]));
            }
            _ => (),
        }
    }
    tensors.push(("encoder.block.2.extra".into(), Literal::scalar(1f32)));
    tensors.push(("lm_head.weight".into(), Literal::zeros(TensorType::new(DType::F32, [32, 8]))));
    let expected = [
        "setting `dropout_rate`: found \"much\", expected a number",
        "setting `dense_act_fn`: found \"gelu\", expected \"relu\"",
        "setting `router_bias`: found true, expected false",
        "tensor `lm_head.weight` differs from `shared.weight`, whose numbers it must hold",
        "tensor `encoder.block.1.layer.1.mlp.experts.expert_3.wi.weight`: element type is s32, expected f32, bf16 or f16",
        "tensor `encoder.final_layer_norm.weight` [8] is missing",
        "tensor `decoder.final_layer_norm.weight`: shape is [9], expected [8]",
        "tensor `encoder.block.2.extra` [] has no place in this model",
    ];
    assert_eq!(problems(&settings, &tensors), expected);
}

#[test]
fn a_table_that_old_files_have_is_passed_over() {
    let mut tensors = folder::tensors();
    let name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    tensors.push((name.into(), Literal::zeros(TensorType::new(DType::F32, [32, 2]))));
    let place = Place::new(&folder::settings(), &tensors);
    convert::import(&place.path("there"), &place.path("here")).unwrap();
}

#[test]
fn a_setting_alone_makes_no_names() {
    let mut settings = folder::settings();
    settings["num_experts"] = (1 << 20).into();
    // 2 stacks with 2 tensors per expert, and 45 tensors outside of experts.
    let message = format!("the settings ask for {} tensors, the files hold 61", (4 << 20) + 45);
    assert_eq!(problems(&settings, &folder::tensors()), [message]);
}

#[test]
fn settings_without_a_sparse_block_are_those_of_another_model() {
    let mut settings = folder::settings();
    // 2 blocks over 3 are distance 0, which is none.
    for key in ["num_sparse_encoder_layers", "num_sparse_decoder_layers"] {
        settings[key] = 3.into();
    }
    let expected = "setting `num_sparse_encoder_layers`: found 3, expected a sparse block in the encoder or in the decoder";
    assert_eq!(problems(&settings, &folder::tensors())[0], expected);
}

#[test]
fn models_and_files_that_are_not_known_are_named() {
    let with = |key: &str, value: Value| {
        let mut settings = folder::settings();
        settings[key] = value;
        refusal(&settings, &folder::tensors()).to_string()
    };
    let message = with("model_type", "bert".into());
    assert!(
        message.contains("config.json: model_type is \"bert\", expected one of switch_transformers, t5"),
        "{message}"
    );
    let message = with("d_model", 0.into());
    assert!(message.ends_with("there/config.json: the settings make no configuration"), "{message}");

    let place = Place::new(&folder::settings(), &folder::tensors());
    let import = || convert::import(&place.path("there"), &place.path("here")).unwrap_err().to_string();
    let weights = place.path("there/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 4]).unwrap();
    assert!(import().contains("model.safetensors: truncated: tensor"), "{}", import());
    std::fs::write(&weights, u64::MAX.to_le_bytes()).unwrap();
    assert!(import().contains("expected a JSON header of at most"), "{}", import());
    std::fs::remove_file(&weights).unwrap();
    assert!(import().contains("there: holds neither model.safetensors nor"), "{}", import());
    std::fs::write(place.path("there/config.json"), "{").unwrap();
    assert!(import().ends_with("there/config.json: not valid JSON"), "{}", import());
    std::fs::create_dir(place.path("here")).unwrap();
    std::fs::write(place.path("here/mine"), "").unwrap();
    assert!(import().ends_with("here: exists already; give another folder"), "{}", import());
}

#[test]
fn an_index_that_does_not_fit_its_files_is_listed() {
    let tensors = folder::tensors();
    let place = Place::new(&folder::settings(), &tensors);
    std::fs::rename(place.path("there/model.safetensors"), place.path("there/a.safetensors")).unwrap();
    let mut map: serde_json::Map<String, Value> =
        tensors.iter().map(|(name, _)| (name.clone(), "a.safetensors".into())).collect();
    map[&tensors[0].0] = "b.safetensors".into();
    map[&tensors[1].0] = "../a.safetensors".into();
    map.insert("ghost".into(), "a.safetensors".into());
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(place.path("there/model.safetensors.index.json"), index).unwrap();
    let error = convert::import(&place.path("there"), &place.path("here")).unwrap_err().to_string();
    let (first, second) = (&tensors[0].0, &tensors[1].0);
    for expected in [
        format!("tensor `{first}` of `a.safetensors` is not in the index"),
        format!("tensor `{second}` of `a.safetensors` is not in the index"),
        "tensor `ghost` should be in `a.safetensors`, which does not hold it".into(),
        "file `../a.safetensors`: expected the name of a file in the same folder".into(),
        "file `b.safetensors`: cannot read ".into(),
        format!("tensor `{first}` [8, 8] is missing"),
    ] {
        assert!(error.contains(&expected), "{expected}\n{error}");
    }
}

#[test]
fn experts_in_attention_are_not_exported() {
    let place = Place::new(&folder::settings(), &folder::tensors());
    convert::import(&place.path("there"), &place.path("here")).unwrap();
    let mut config = RunConfig::load(place.path("here/config.json")).unwrap();
    config.model.moe.sublayers = Sublayers::Both;
    let tensors: Vec<(String, Literal)> = switchyard::model::declare(&config.model)
        .into_iter()
        .map(|def| (def.name.clone(), Literal::zeros(def.ty())))
        .collect();
    write_tensors(&place.path("both"), &tensors).unwrap();
    let file = TensorFile::open(&place.path("both")).unwrap();
    let error = convert::export(&file, &config, &place.path("out"), Default::default()).unwrap_err();
    let expected = "setting `model.moe.sublayers` is both, which switch_transformers cannot express: it has feed_forward";
    assert!(error.to_string().contains(expected), "{error}");
    assert!(!place.path("out").exists());
}

/// What is wrong with the settings of a case after these changes.
fn problems_with(case: &str, changes: &[(&str, Value)]) -> Vec<String> {
    let folders = fixtures::folders();
    let there = folders.iter().find(|path| path.file_name().is_some_and(|name| name == case)).unwrap();
    let text = std::fs::read_to_string(there.join("config.json")).unwrap();
    let mut settings: Value = serde_json::from_str(&text).unwrap();
    changes.iter().for_each(|(key, value)| settings[*key] = value.clone());
    let tensors = read_tensors(&there.join("model.safetensors")).unwrap();
    problems(&settings, &tensors)
}

const MIXTRAL: &str = "mixtral_grouped_queries_padding_on_the_right";
const DEEPSEEK: &str = "deepseek_v3_groups_shared_experts_a_dense_block_padding_on_the_right";

#[test]
fn settings_of_decoders_that_have_no_counterpart_are_listed() {
    let yarn = json!({"type": "yarn", "factor": 4.0, "mscale_all_dim": 1.0, "attention_factor": 2.0});
    let changes = [
        ("hidden_act", "gelu".into()),
        ("sliding_window", 4096.into()),
        ("attention_dropout", 0.1.into()),
        ("rope_scaling", yarn),
    ];
    let expected = [
        "setting `hidden_act`: found \"gelu\", expected \"silu\"",
        "setting `attention_dropout`: found 0.1, expected 0.0",
        "setting `sliding_window`: found 4096, expected null",
        "setting `rope_scaling.attention_factor`: found 2.0, expected none: it follows from factor and mscale",
        "setting `rope_scaling.mscale_all_dim`: found 1.0, expected 0.0",
    ];
    assert_eq!(problems_with(MIXTRAL, &changes), expected);
    let changes = [("scoring_func", "softmax".into()), ("rope_scaling", json!({"rope_type": "llama3"}))];
    let expected = [
        "setting `scoring_func`: found \"softmax\", expected \"sigmoid\"",
        "setting `rope_scaling.rope_type`: found \"llama3\", expected default or yarn",
    ];
    assert_eq!(problems_with(DEEPSEEK, &changes), expected);
}

#[test]
fn tensors_of_a_decoder_that_do_not_fit_are_listed() {
    let expected = [
        "tensor `model.layers.2.self_attn.q_proj.weight` [18, 8] is missing",
        "tensor `model.layers.2.self_attn.q_a_layernorm.weight` [5] has no place in this model",
        "tensor `model.layers.2.self_attn.q_a_proj.weight` [5, 8] has no place in this model",
        "tensor `model.layers.2.self_attn.q_b_proj.weight` [18, 5] has no place in this model",
    ];
    let found = problems_with(DEEPSEEK, &[("q_lora_rank", Value::Null)]);
    assert_eq!(found.len(), 3 * expected.len());
    expected.iter().for_each(|line| assert!(found.iter().any(|found| found == line), "{line}: {found:#?}"));
}

#[test]
fn experts_in_one_tensor_are_named_without_all_that_would_follow() {
    let there = fixtures::folders().into_iter().find(|path| path.ends_with(MIXTRAL)).unwrap();
    let text = std::fs::read_to_string(there.join("config.json")).unwrap();
    let mut tensors = read_tensors(&there.join("model.safetensors")).unwrap();
    tensors.retain(|(name, _)| !name.contains("block_sparse_moe"));
    let packed = "model.layers.1.mlp.experts.gate_up_proj";
    tensors.push((packed.into(), Literal::zeros(TensorType::new(DType::F32, [4, 32, 8]))));
    let found = problems(&serde_json::from_str(&text).unwrap(), &tensors);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with(&format!("tensor `{packed}` holds all experts of a layer; save")),
        "{found:?}"
    );
}

#[test]
fn quantised_weights_are_refused_whatever_their_files_hold() {
    let place = Place::new(&folder::settings(), &folder::tensors());
    let settings = json!({"model_type": "deepseek_v3", "quantization_config": {"quant_method": "fp8"}});
    std::fs::write(place.path("there/config.json"), settings.to_string()).unwrap();
    let header = br#"{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), &header[..], &[0]].concat();
    std::fs::write(place.path("there/model.safetensors"), bytes).unwrap();
    let error = convert::import(&place.path("there"), &place.path("here")).unwrap_err().to_string();
    let expected = "setting `quantization_config`: found {\"quant_method\":\"fp8\"}, \
                    expected none: weights in float32, bfloat16 or float16";
    assert!(error.ends_with(expected), "{error}");
}
