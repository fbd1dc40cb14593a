//! Which models there are.

use super::error::{ConvertError, Problem};
use super::plan::Plan;
use super::settings::{self, Settings};
use super::{causal, t5, weights::Weights};
use crate::config::{Architecture, Attention, RunConfig};
use serde_json::{Map, Value};
use std::path::Path;

/// A `model_type` of `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Switch,
    T5,
    Mixtral,
    DeepseekV3,
}

/// A folder that is read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub settings: &'a Map<String, Value>,
    pub weights: &'a Weights,
}

impl Family {
    const ALL: [Family; 4] = [Family::Switch, Family::T5, Family::Mixtral, Family::DeepseekV3];

    /// The value of `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Switch => "switch_transformers",
            Family::T5 => "t5",
            Family::Mixtral => "mixtral",
            Family::DeepseekV3 => "deepseek_v3",
        }
    }

    /// The class that `transformers` makes of it.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Switch => "SwitchTransformersForConditionalGeneration",
            Family::T5 => "T5ForConditionalGeneration",
            Family::Mixtral => "MixtralForCausalLM",
            Family::DeepseekV3 => "DeepseekV3ForCausalLM",
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
        let model = &config.model;
        match (model.architecture, model.attention) {
            (Architecture::EncoderDecoder, _) if model.moe.num_experts > 0 => Family::Switch,
            (Architecture::EncoderDecoder, _) => Family::T5,
            (Architecture::DecoderOnly, Attention::Latent(_)) => Family::DeepseekV3,
            (Architecture::DecoderOnly, _) => Family::Mixtral,
        }
    }

    /// The configuration that means the same here; what has no counterpart is a problem.
    pub fn config(self, settings: &mut Settings) -> RunConfig {
        match self {
            Family::Switch | Family::T5 => t5::config(self, settings),
            Family::Mixtral | Family::DeepseekV3 => causal::config(self, settings),
        }
    }

    /// The settings that mean the same there, to be laid over those `before`; what has no counterpart is a problem.
    pub fn settings(
        self,
        config: &RunConfig,
        before: &Map<String, Value>,
        problems: &mut Vec<Problem>,
    ) -> Map<String, Value> {
        match self {
            Family::Switch | Family::T5 => t5::settings(self, config, problems),
            Family::Mixtral | Family::DeepseekV3 => causal::settings(self, config, before, problems),
        }
    }

    /// What differs in behaviour there, although the weights fit.
    pub fn differences(self, config: &RunConfig) -> Vec<String> {
        match self {
            Family::Switch => t5::differences(config),
            Family::T5 => vec![],
            Family::Mixtral | Family::DeepseekV3 => causal::differences(config),
        }
    }

    /// The names and layouts of all tensors; of the folder that is read, if there is one.
    pub fn plan(self, config: &RunConfig, source: Option<Source>) -> Plan {
        match self {
            Family::Switch | Family::T5 => t5::plan(self, config, source.map(|source| source.weights)),
            Family::Mixtral | Family::DeepseekV3 => causal::plan(self, config, source),
        }
    }
}
