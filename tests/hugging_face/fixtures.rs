//! Cases that `transformers` has computed, by the files in `tests/fixtures`.

use super::network::{Network, distance};
use std::path::{Path, PathBuf};
use switchyard::checkpoint::{TensorFile, read_tensors};

/// Relative errors in float32.
const OUTPUTS: f64 = 1e-5;
const GRADIENTS: f64 = 1e-4;

fn folders() -> Vec<PathBuf> {
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
    assert!(folders.len() >= 7, "found {} cases", folders.len());
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
    for (key, _) in expected.tensors() {
        let theirs = expected.tensor(key).unwrap();
        if key.ends_with("/decisions") {
            // The cases have no two experts that are closer than rounding.
            assert_eq!(outputs[key].to_f64(), theirs.to_f64(), "{name}: {key}");
            continue;
        }
        let (ours, limit) = match key.strip_prefix("gradients/") {
            Some(parameter) => (gradients.tensor(parameter).unwrap(), GRADIENTS),
            None => (outputs[key].clone(), OUTPUTS),
        };
        let error = distance(&ours, &theirs);
        assert!(error < limit, "{name}: {key} differs by {error:.1e}, more than {limit:e}");
    }
}
