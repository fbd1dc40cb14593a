//! The tensors of a folder: one safetensors file, or several with an index.

use super::error::{ConvertError, Problem};
use super::settings;
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::ir::TensorType;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub const SINGLE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";

/// An index of many tensors is long; reading stops here.
const INDEX_LIMIT_BYTES: u64 = 256 << 20;

/// Mapped files, and which of them holds a tensor.
#[derive(Debug, Default)]
pub struct Weights {
    files: Vec<TensorFile>,
    place: BTreeMap<String, usize>,
}

impl Weights {
    /// Opens the files of a folder; what is wrong with shards and index goes to `problems`.
    pub fn open(folder: &Path, problems: &mut Vec<Problem>) -> Result<Self, ConvertError> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            let file = TensorFile::open(&single)?;
            let place = file.tensors().map(|(name, _)| (name.to_string(), 0)).collect();
            return Ok(Self { files: vec![file], place });
        }
        if index.exists() {
            return Self::sharded(folder, &index, problems);
        }
        Err(ConvertError::NoWeights { path: folder.to_path_buf() })
    }

    fn sharded(folder: &Path, index: &Path, problems: &mut Vec<Problem>) -> Result<Self, ConvertError> {
        let named = weight_map(index, problems)?;
        let names: BTreeSet<&str> = named.values().map(String::as_str).collect();
        let mut weights = Self::default();
        for name in names {
            match open_shard(folder, name) {
                Ok(file) => weights.add(name, file, &named, problems),
                Err(why) => problems.push(Problem::File { file: name.into(), why }),
            }
        }
        Ok(weights)
    }

    /// Adds a shard, whose tensors must be those that the index says.
    fn add(
        &mut self,
        shard: &str,
        file: TensorFile,
        named: &BTreeMap<String, String>,
        problems: &mut Vec<Problem>,
    ) {
        let number = self.files.len();
        for (name, _) in file.tensors() {
            if named.get(name).is_some_and(|found| found == shard) {
                self.place.insert(name.to_string(), number);
            } else {
                problems.push(Problem::NotInIndex { name: name.into(), file: shard.into() });
            }
        }
        let missing = named.iter().filter(|(name, of)| *of == shard && file.ty(name).is_none());
        problems
            .extend(missing.map(|(name, _)| Problem::NotInFile { name: name.clone(), file: shard.into() }));
        self.files.push(file);
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.place.len()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// The file that holds a tensor.
    pub fn file(&self, name: &str) -> Option<&TensorFile> {
        self.place.get(name).and_then(|&number| self.files.get(number))
    }

    /// The type of a tensor.
    pub fn ty(&self, name: &str) -> Option<&TensorType> {
        self.file(name).and_then(|file| file.ty(name))
    }

    /// The bytes of a tensor.
    ///
    /// Errors: [`CheckpointError::NoSuchTensor`].
    pub fn bytes(&self, name: &str) -> Result<&[u8], CheckpointError> {
        let missing = || CheckpointError::NoSuchTensor {
            path: self.files.first().map(|file| file.path().to_path_buf()).unwrap_or_default(),
            tensor: name.to_string(),
            num_tensors: self.len(),
        };
        self.file(name).ok_or_else(missing)?.bytes(name)
    }

    /// Gives the mapped pages of a tensor back; they are read anew when they are needed again.
    pub fn release(&self, name: &str) {
        if let Some(file) = self.file(name) {
            file.release(name, 0..usize::MAX);
        }
    }
}

/// `weight_map` of the index: the file of each tensor.
fn weight_map(index: &Path, problems: &mut Vec<Problem>) -> Result<BTreeMap<String, String>, ConvertError> {
    let tree = settings::read_object(index, INDEX_LIMIT_BYTES)?;
    let Some(map) = tree.get("weight_map").and_then(Value::as_object) else {
        let why = "expected an object `weight_map` from tensors to files".to_string();
        problems.push(Problem::File { file: INDEX.into(), why });
        return Ok(BTreeMap::new());
    };
    let mut named = BTreeMap::new();
    for (name, file) in map {
        match file.as_str() {
            Some(file) => drop(named.insert(name.clone(), file.to_string())),
            None => {
                let why = format!("the file of `{name}` is not text");
                problems.push(Problem::File { file: INDEX.into(), why });
            }
        }
    }
    Ok(named)
}

/// Opens a file beside the index; a path that leads elsewhere is refused.
fn open_shard(folder: &Path, name: &str) -> Result<TensorFile, String> {
    if Path::new(name).file_name().is_none_or(|file| file != name) {
        return Err("expected the name of a file in the same folder".into());
    }
    TensorFile::open(&folder.join(name)).map_err(|error| settings::with_causes(&error))
}
