//! Which models there are.

use super::error::{ConvertError, Problem};
use super::plan::Plan;
use super::settings::{self, Settings};
use super::{t5, weights::Weights};
use crate::config::RunConfig;
use serde_json::{Map, Value};
use std::path::Path;

/// A `model_type` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Switch,
    T5,
}

impl Family {
    const ALL: [Family; 2] = [Family::Switch, Family::T5];

    /// The value of `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Switch => "switch_transformers",
            Family::T5 => "t5",
        }
    }

    /// The class that `transformers` makes of it.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Switch => "SwitchTransformersForConditionalGeneration",
            Family::T5 => "T5ForConditionalGeneration",
        }
    }

    /// The family that the settings of a folder name.
    pub fn of(folder: &Path, tree: &Map<String, Value>) -> Result<Self, ConvertError> {
        let found = tree.get("model_type");
        let family = Self::ALL.into_iter().find(|family| found == Some(&family.name().into()));
        family.ok_or_else(|| ConvertError::UnknownModel {
            path: folder.join(settings::FILE),
            found: found.map_or("missing".into(), Value::to_string),
            known: Self::ALL.map(Self::name).to_vec(),
        })
    }

    /// The family that has such models.
    pub fn holding(config: &RunConfig) -> Self {
        if config.model.moe.num_experts > 0 { Family::Switch } else { Family::T5 }
    }

    /// The configuration that means the same here; what has no counterpart is a problem.
    pub fn config(self, settings: &mut Settings) -> RunConfig {
        match self {
            Family::Switch | Family::T5 => t5::config(self, settings),
        }
    }

    /// The settings that mean the same there; what has no counterpart is a problem.
    pub fn settings(self, config: &RunConfig, problems: &mut Vec<Problem>) -> Map<String, Value> {
        match self {
            Family::Switch | Family::T5 => t5::settings(self, config, problems),
        }
    }

    /// What differs in behaviour there, although the weights fit.
    pub fn differences(self, config: &RunConfig) -> Vec<String> {
        match self {
            Family::Switch => t5::differences(config),
            Family::T5 => vec![],
        }
    }

    /// The names and layouts of all tensors; `weights` are those to be read, if there are any yet.
    pub fn plan(self, config: &RunConfig, weights: Option<&Weights>) -> Plan {
        match self {
            Family::Switch | Family::T5 => t5::plan(self, config, weights),
        }
    }
}
