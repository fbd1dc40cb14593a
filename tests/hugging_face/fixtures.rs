//! Cases that `transformers` has computed, by the files in `tests/fixtures`.

use super::network::{Network, distance};
use std::path::{Path, PathBuf};
use switchyard::checkpoint::{TensorFile, read_tensors};
use switchyard::config::Architecture;
use switchyard::ir::Literal;

/// Relative errors in float32.
const OUTPUTS: f64 = 1e-5;
const GRADIENTS: f64 = 1e-4;

/// The folders of all cases.
pub fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

#[test]
fn every_case_gives_the_numbers_of_the_other_library() {
    let folders = folders();
    assert!(folders.len() >= 14, "found {} cases", folders.len());
    for folder in folders {
        let work = tempfile::tempdir().unwrap();
        check(&folder, work.path());
    }
}

fn check(folder: &Path, work: &Path) {
    let name = folder.file_name().unwrap().to_string_lossy();
    let batch = read_tensors(&folder.join("batch.safetensors")).unwrap();
    let expected = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
    let network = Network::import(folder, &work.join("here"), &batch);
    let outputs = network.run("forward", &batch);
    let gradients = network.gradients(&batch, work);
    for (key, ty) in expected.tensors() {
        let theirs = expected.tensor(key).unwrap();
        if key.ends_with("/decisions") {
            // The cases have no two experts that are closer than rounding.
            assert_eq!(sorted(&outputs[key]), theirs.to_f64(), "{name}: {key}");
            continue;
        }
        if key == "generated" {
            let found: Vec<f64> =
                network.generate(&batch, ty.shape[1]).concat().into_iter().map(f64::from).collect();
            assert_eq!(found, theirs.to_f64(), "{name}: {key}");
            continue;
        }
        let (ours, limit) = match (key.strip_prefix("gradients/"), key) {
            (Some(parameter), _) => (gradients.tensor(parameter).unwrap(), GRADIENTS),
            (None, "logits") => (shown(&network, &batch, &outputs[key]), OUTPUTS),
            _ => (outputs[key].clone(), OUTPUTS),
        };
        let error = distance(&ours, &theirs);
        assert!(error < limit, "{name}: {key} differs by {error:.1e}, more than {limit:e}");
    }
}

/// The choices of each token in ascending order: the other library gives some in none.
fn sorted(decisions: &Literal) -> Vec<f64> {
    let mut all = decisions.to_f64();
    let choices = decisions.ty().shape.last().copied().unwrap_or(1);
    all.chunks_mut(choices).for_each(|token| token.sort_by(f64::total_cmp));
    all
}

/// The logits, but 0 at padding of a decoder alone, which attends to nothing that counts.
fn shown(network: &Network, batch: &[(String, Literal)], logits: &Literal) -> Literal {
    if network.config.model.architecture == Architecture::EncoderDecoder {
        return logits.clone();
    }
    let tokens = &batch.iter().find(|(name, _)| name == "targets").unwrap().1;
    let values = logits.to_f64();
    let places = values.chunks(logits.ty().shape[2]).zip(tokens.to_f64());
    let kept = |(row, token): (&[f64], f64)| {
        row.iter().map(move |x| if token == 0.0 { 0.0 } else { *x as f32 }).collect::<Vec<_>>()
    };
    Literal::new(&logits.ty().shape[..], &places.flat_map(kept).collect::<Vec<f32>>()).unwrap()
}
