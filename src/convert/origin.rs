//! What an imported checkpoint remembers of where it came from, so that exporting it gives the same bytes.

use super::copy::Float;
use super::weights::Weights;
use crate::ir::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The output head, which can be absent where it is the embedding.
pub const HEAD: &str = "lm_head.weight";

/// Settings, element types and optional names of the folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `config.json` as it was.
    pub settings: Map<String, Value>,
    /// The element type of most tensors.
    pub dtype: String,
    /// Tensors of another one.
    pub other_dtypes: BTreeMap<String, String>,
    /// Which of the names that can be absent were there.
    pub optional: Vec<String>,
}

impl Origin {
    pub fn new(settings: Map<String, Value>, weights: &Weights, optional: Vec<String>) -> Self {
        let dtype_of = |name: &str| weights.ty(name).map(|ty| ty.dtype.name().to_string());
        let dtypes: BTreeMap<String, String> =
            weights.names().filter_map(|name| Some((name.to_string(), dtype_of(name)?))).collect();
        let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
        dtypes.values().for_each(|dtype| *counts.entry(dtype).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(dtype, _)| dtype.clone());
        let dtype = most.unwrap_or_else(|| DType::F32.name().into());
        let other_dtypes = dtypes.into_iter().filter(|(_, found)| *found != dtype).collect();
        Self { settings, dtype, other_dtypes, optional }
    }

    /// What the metadata of a checkpoint says. Absent or unreadable, it is as if it had never been imported.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        serde_json::from_str(text?).ok()
    }

    /// Notes that the head is no longer the embedding.
    pub fn untie(&mut self) {
        if self.settings.contains_key("tie_word_embeddings") {
            self.settings.insert("tie_word_embeddings".into(), false.into());
        }
        if !self.optional.iter().any(|name| name == HEAD) {
            self.optional.push(HEAD.into());
        }
    }

    /// The element type that a tensor had.
    pub fn float(&self, name: &str) -> Float {
        let dtype = self.other_dtypes.get(name).unwrap_or(&self.dtype);
        DType::from_name(dtype).and_then(Float::of).unwrap_or(Float::F32)
    }
}
