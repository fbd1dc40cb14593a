//! A small Switch Transformer as `transformers` would save it, its weights given by a formula.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use switchyard::checkpoint::write_tensors;
use switchyard::ir::Literal;

pub type Tensors = Vec<(String, Literal)>;

/// Two blocks in each stack, the second sparse.
pub fn settings() -> Value {
    json!({
        "model_type": "switch_transformers", "vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2,
        "num_layers": 2, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
        "num_experts": 4, "expert_capacity": 2, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "pad_token_id": 0, "decoder_start_token_id": 0
    })
}

/// All 61 tensors, sorted by name: element j of tensor n is a function of `sin(0.7 j + 1.3 n + 0.5)`.
pub fn tensors() -> Tensors {
    let mut shapes = shapes();
    shapes.sort();
    assert_eq!(shapes.len(), 61);
    let numbered = shapes.into_iter().enumerate();
    numbered.map(|(n, (name, shape))| (name.clone(), values(n, &name, &shape))).collect()
}

fn values(n: usize, name: &str, shape: &[usize]) -> Literal {
    let wave = |j: usize| (0.7 * j as f64 + 1.3 * n as f64 + 0.5).sin();
    let value = |s: f64| match name {
        _ if name.contains("layer_norm") => 1.0 + 0.1 * s,
        _ if name.contains("router") => 0.8 * s,
        _ if name.contains("shared") => s,
        _ => 0.3 * s,
    };
    let data: Vec<f32> = (0..shape.iter().product()).map(|j| value(wave(j)) as f32).collect();
    Literal::new(shape, &data).unwrap()
}

/// Names and shapes, written out apart from the code that reads them.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("shared.weight".to_string(), vec![32, 8])];
    for (stack, last) in [("encoder", 1), ("decoder", 2)] {
        all.push((format!("{stack}.final_layer_norm.weight"), vec![8]));
        for block in 0..2 {
            let mut add = |rest: String, shape: &[usize]| {
                all.push((format!("{stack}.block.{block}.layer.{rest}.weight"), shape.to_vec()));
            };
            for layer in 0..=last {
                add(format!("{layer}.layer_norm"), &[8]);
            }
            for (layer, kind) in [(0, "SelfAttention"), (1, "EncDecAttention")].into_iter().take(last) {
                for matrix in ["q", "k", "v", "o"] {
                    add(format!("{layer}.{kind}.{matrix}"), &[8, 8]);
                }
            }
            if block == 0 {
                add("0.SelfAttention.relative_attention_bias".into(), &[32, 2]);
                add(format!("{last}.mlp.wi"), &[16, 8]);
                add(format!("{last}.mlp.wo"), &[8, 16]);
                continue;
            }
            add(format!("{last}.mlp.router.classifier"), &[4, 8]);
            for expert in 0..4 {
                add(format!("{last}.mlp.experts.expert_{expert}.wi"), &[16, 8]);
                add(format!("{last}.mlp.experts.expert_{expert}.wo"), &[8, 16]);
            }
        }
    }
    all
}

/// Writes a folder with one file of weights.
pub fn write(folder: &Path, settings: &Value, tensors: &Tensors) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), settings.to_string()).unwrap();
    write_tensors(&folder.join("model.safetensors"), tensors).unwrap();
}

/// A temporary place with the folder `there`.
pub struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub fn new(settings: &Value, tensors: &Tensors) -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        write(&place.path("there"), settings, tensors);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}
