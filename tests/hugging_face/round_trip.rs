//! Import and export give every tensor back as it was.

use super::fixtures;
use super::folder::{self, Place, Tensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use switchyard::checkpoint::{self, Checkpoint, TensorFile, read_tensors, write_tensors};
use switchyard::convert::{self, Float, Options};
use switchyard::ir::{DType, Literal, TensorType};

/// Every tensor of a folder: type and bytes.
fn contents(folder: &Path) -> BTreeMap<String, (TensorType, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let file = TensorFile::open(&path).unwrap();
            all.extend(
                file.tensors()
                    .map(|(name, ty)| (name.to_string(), (ty.clone(), file.bytes(name).unwrap().to_vec()))),
            );
        }
    }
    all
}

/// Imports `there` into `here` and exports that to `back`.
fn there_and_back(place: &Place, options: Options) -> convert::Exported {
    let made = convert::import(&place.path("there"), &place.path("here")).unwrap();
    let checkpoint = Checkpoint::open(&made.checkpoint.path).unwrap();
    convert::export(&checkpoint, &made.config, &place.path("back"), options).unwrap()
}

/// The tensors with their two upper bytes only: bfloat16.
fn narrowed(tensors: &Tensors) -> Tensors {
    let narrow = |value: &Literal| {
        let bytes = value.bytes().chunks_exact(4).flat_map(|x| [x[2], x[3]]).collect();
        Literal::from_bytes(value.ty().with_dtype(DType::Bf16), bytes).unwrap()
    };
    tensors.iter().map(|(name, value)| (name.clone(), narrow(value))).collect()
}

#[test]
fn every_tensor_and_setting_comes_back() {
    let mut settings = folder::settings();
    settings["task_specific_params"] = json!({"summarization": {"num_beams": 4}});
    let place = Place::new(&settings, &folder::tensors());
    let made = there_and_back(&place, Options::default());
    assert_eq!((made.model_type, made.num_tensors, made.num_files), ("switch_transformers", 61, 1));
    assert_eq!(made.differences, [""; 0]);
    assert_eq!(contents(&place.path("there")), contents(&place.path("back")));
    let back: Value =
        serde_json::from_str(&std::fs::read_to_string(place.path("back/config.json")).unwrap()).unwrap();
    for (key, value) in settings.as_object().unwrap() {
        assert_eq!(back[key], *value, "{key}");
    }
}

#[test]
fn every_case_comes_back() {
    for there in fixtures::folders() {
        let work = tempfile::tempdir().unwrap();
        let weights = there.join("model.safetensors");
        let only = work.path().join("there");
        std::fs::create_dir(&only).unwrap();
        std::fs::copy(&weights, only.join("model.safetensors")).unwrap();
        std::fs::copy(there.join("config.json"), only.join("config.json")).unwrap();
        let made = convert::import(&only, &work.path().join("here")).unwrap();
        let checkpoint = Checkpoint::open(&made.checkpoint.path).unwrap();
        let back = work.path().join("back");
        let exported = convert::export(&checkpoint, &made.config, &back, Options::default()).unwrap();
        assert_eq!(exported.differences, [""; 0], "{}", there.display());
        assert_eq!(contents(&only), contents(&back), "{}", there.display());
        let settings = |folder: &Path| -> BTreeMap<String, Value> {
            serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
        };
        let found = settings(&back);
        for (key, value) in settings(&only) {
            // A width that follows from others is written out, and T5 calls tied what here is a table of its own.
            let told = value.is_null() || key == "tie_word_embeddings";
            assert!(found[&key] == value || told, "{}: {key} is {}", there.display(), found[&key]);
        }
    }
}

#[test]
fn shards_half_precision_and_copies_come_back() {
    let mut tensors = narrowed(&folder::tensors());
    // One tensor in float32 among the others, and the embedding under a second name.
    tensors[5] = folder::tensors()[5].clone();
    let embedding = tensors.iter().find(|(name, _)| name == "shared.weight").unwrap().1.clone();
    tensors.push(("lm_head.weight".into(), embedding));
    let place = Place::new(&folder::settings(), &tensors);
    std::fs::remove_file(place.path("there/model.safetensors")).unwrap();
    let (first, second) = tensors.split_at(20);
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        write_tensors(&place.path("there").join(file), part).unwrap();
        map.extend(part.iter().map(|(name, _)| (name.clone(), file.into())));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(place.path("there/model.safetensors.index.json"), index).unwrap();
    let made = there_and_back(&place, Options { dtype: None, shard_bytes: Some(4000) });
    assert!(made.num_files > 2, "{made:?}");
    assert_eq!(contents(&place.path("there")), contents(&place.path("back")));
    // What came out can come in again.
    let again = convert::import(&place.path("back"), &place.path("again")).unwrap();
    assert_eq!(again.num_tensors, 62);
}

#[test]
fn linear_layers_are_transposed_and_stacked() {
    let place = Place::new(&folder::settings(), &folder::tensors());
    let made = convert::import(&place.path("there"), &place.path("here")).unwrap();
    let ours = Checkpoint::open(&made.checkpoint.path).unwrap();
    let theirs = TensorFile::open(&place.path("there/model.safetensors")).unwrap();
    let wi = ours.tensor("decoder/block_1/moe/experts/wi").unwrap();
    assert_eq!(wi.ty().shape, [1, 4, 8, 16]);
    for expert in 0..4 {
        let name = format!("decoder.block.1.layer.2.mlp.experts.expert_{expert}.wi.weight");
        let matrix = theirs.tensor(&name).unwrap().to_f64();
        for (from, to) in [(0, 0), (3, 5), (15, 7)] {
            // [16, 8] there, [8, 16] here.
            assert_eq!(wi.to_f64()[expert * 128 + to * 16 + from], matrix[from * 8 + to]);
        }
    }
}

#[test]
fn weights_that_changed_are_rounded_only_when_asked() {
    let place = Place::new(&folder::settings(), &narrowed(&folder::tensors()));
    let made = convert::import(&place.path("there"), &place.path("here")).unwrap();
    // As after training: the same checkpoint, with a weight that bfloat16 does not have.
    let mut bytes = std::fs::read(&made.checkpoint.path).unwrap();
    let checkpoint = Checkpoint::open(&made.checkpoint.path).unwrap();
    let embedding = checkpoint.bytes("shared/embedding").unwrap();
    let at = bytes.windows(64).position(|window| window == &embedding[..64]).unwrap();
    bytes[at] = 1;
    std::fs::write(place.path("changed.safetensors"), bytes).unwrap();
    let changed = TensorFile::open(&place.path("changed.safetensors")).unwrap();
    let export = |name: &str, dtype| {
        let options = Options { dtype, shard_bytes: None };
        convert::export(&changed, &made.config, &place.path(name), options)
    };
    let message = export("refused", None).unwrap_err().to_string();
    let expected =
        "tensor `shared.weight` holds numbers that bf16 cannot hold exactly; give --dtype to round them";
    assert!(message.ends_with(expected), "{message}");
    export("rounded", Some(Float::Bf16)).unwrap();
    assert_eq!(contents(&place.path("there")), contents(&place.path("rounded")));
    export("wide", Some(Float::F32)).unwrap();
}

/// Writes the checkpoint again, as training does: with all that it remembers, and the head with other numbers.
fn with_another_head(checkpoint: &Checkpoint, folder: &Path) -> Checkpoint {
    let state: Vec<_> = checkpoint.tensors().map(|(name, ty)| (name.to_string(), ty.clone())).collect();
    let fetch = |i: usize| match state[i].0.as_str() {
        "head" => Ok(Literal::zeros(state[i].1.clone())),
        name => checkpoint.tensor(name),
    };
    let saved = checkpoint::save(folder, checkpoint.meta(), &state, fetch).unwrap();
    Checkpoint::open(&saved.path).unwrap()
}

#[test]
fn a_tied_head_stays_absent_until_training_moves_it() {
    let folders = fixtures::folders();
    let case =
        folders.iter().find(|path| path.ends_with("mixtral_grouped_queries_padding_on_the_right")).unwrap();
    let mut settings: Value =
        serde_json::from_str(&std::fs::read_to_string(case.join("config.json")).unwrap()).unwrap();
    settings["tie_word_embeddings"] = true.into();
    let mut tensors = read_tensors(&case.join("model.safetensors")).unwrap();
    tensors.retain(|(name, _)| name != "lm_head.weight");
    let place = Place::new(&settings, &tensors);
    let made = convert::import(&place.path("there"), &place.path("here")).unwrap();
    let imported = Checkpoint::open(&made.checkpoint.path).unwrap();
    let trained = with_another_head(&imported, &place.path("trained"));
    for (checkpoint, name, tied) in [(&imported, "back", true), (&trained, "tuned", false)] {
        let target = place.path(name);
        convert::export(checkpoint, &made.config, &target, Options::default()).unwrap();
        let text = std::fs::read_to_string(target.join("config.json")).unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["tie_word_embeddings"], tied, "{name}");
        assert_eq!(found["initializer_range"], settings["initializer_range"], "{name}");
        assert_eq!(contents(&target).contains_key("lm_head.weight"), !tied, "{name}");
    }
    assert_eq!(contents(&place.path("there")), contents(&place.path("back")));
}
