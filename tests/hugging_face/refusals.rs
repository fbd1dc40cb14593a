//! Folders that do not fit are refused with everything that is wrong.

use super::folder::{self, Place, Tensors};
use serde_json::{Value, json};
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
    let sparse = with("num_sparse_decoder_layers", 2.into());
    assert!(sparse.contains("the same distance between sparse blocks"), "{sparse}");

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
