//! The whole configuration of a run.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::capacity::Groups;
use super::data::{DataConfig, Objective};
use super::distillation::Distillation;
use super::error::ConfigError;
use super::mesh::Mesh;
use super::model::{Architecture, ModelConfig};
use super::side::Side;
use super::target::Target;
use super::training::{BatchConfig, LossConfig, OptimizerConfig, Schedule};
use super::{json, overrides, schema};

/// All that a run needs to know; the same value gives the same programs, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Short name of the run or preset.
    pub name: String,
    /// Free text; nothing reads it.
    pub description: Option<String>,
    /// The network.
    pub model: ModelConfig,
    /// The devices.
    pub mesh: Mesh,
    /// The compiler that graphs are shaped for.
    pub target: Target,
    /// Shape of a batch.
    pub batch: BatchConfig,
    /// The token loss.
    pub loss: LossConfig,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate by step.
    pub schedule: Schedule,
    /// What is learnt from.
    pub data: DataConfig,
    /// Learning from another model.
    pub distillation: Distillation,
    /// Seed of initialisation, dropout, jitter and shuffling.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            description: None,
            model: ModelConfig::default(),
            mesh: Mesh::default(),
            target: Target::default(),
            batch: BatchConfig::default(),
            loss: LossConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: Schedule::default(),
            data: DataConfig::default(),
            distillation: Distillation::default(),
            seed: 0,
        }
    }
}

/// No configuration is longer; reading stops here, so a device file cannot fill the memory.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

impl RunConfig {
    /// Reads JSON text; the result is resolved and validated.
    ///
    /// Errors: [`ConfigError`] with the path of the field at fault.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Self::from_tree(json::parse(text).map_err(ConfigError::Syntax)?)
    }

    /// Reads a file of at most 4 MiB.
    ///
    /// Errors: as [`from_json`](Self::from_json), and files that cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, &[])
    }

    /// Reads a file and applies `path.to.field=value` settings before anything is resolved or validated.
    ///
    /// Values are JSON, or strings where they are not JSON. Settings of a `kind` come first and drop the other
    /// fields of that object, which belong to the old kind.
    ///
    /// Errors: as [`load`](Self::load), and [`ConfigError::Override`] for settings that cannot be read.
    pub fn load_with(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut tree = json::parse(&read(path.as_ref())?).map_err(ConfigError::Syntax)?;
        overrides::apply(&mut tree, overrides)?;
        Self::from_tree(tree)
    }

    fn from_tree(mut tree: Value) -> Result<Self, ConfigError> {
        schema::name_capacity(&mut tree);
        schema::check_keys(&tree)?;
        schema::typed::<Self>(&tree)?.resolved()
    }

    /// Fills what follows from other fields (decoder length, place and width of experts), then validates.
    ///
    /// Errors: as [`validate`](Self::validate).
    pub fn resolved(mut self) -> Result<Self, ConfigError> {
        let moe = &mut self.model.moe;
        moe.offset = Some(moe.spacing(Side::Encoder).offset);
        moe.decoder_offset =
            moe.decoder_every.map(|_| moe.spacing(Side::Decoder).offset).or(moe.decoder_offset);
        moe.d_ff = Some(moe.d_ff.unwrap_or(self.model.d_ff));
        self.model.score_scale = Some(self.model.score_scale());
        if self.batch.target_length == 0 {
            self.batch.target_length = self.data.objective.exact_target_length(self.batch.input_length);
        }
        self.validate()?;
        Ok(self)
    }

    /// The configuration as indented JSON that names every field, in the order of declaration; ends with a newline.
    ///
    /// A resolved configuration reads back as the same value.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are not strings fail to print, and there are none.
        let text = serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| unreachable!("internal: a config does not print: {error}"));
        text + "\n"
    }

    /// SHA-256 of [`to_json`](Self::to_json) with scanned blocks on one CPU device, 64 hexadecimal digits: mesh, target and loops change how a
    /// run is computed, not what.
    pub fn digest(&self) -> String {
        let mut alone = Self { mesh: Mesh::default(), target: Target::default(), ..self.clone() };
        let teacher = alone.distillation.teacher.as_deref_mut();
        for model in [Some(&mut alone.model), teacher].into_iter().flatten() {
            model.scan_blocks = Some(true);
        }
        let bytes = Sha256::digest(alone.to_json().as_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether input and target of a pair are one row, of which the target alone is predicted.
    pub fn joins_pairs(&self) -> bool {
        let alone = self.model.architecture == Architecture::DecoderOnly;
        alone && matches!(self.data.objective, Objective::TextToText { .. })
    }

    /// Sequences of one microbatch that one device works on.
    pub fn sequences_per_replica(&self) -> usize {
        self.batch.sequences_per_microbatch() / self.mesh.batch_parts().max(1)
    }

    /// A device's groups of one microbatch in the sparse layers of a stack.
    pub fn groups(&self, side: Side) -> Groups {
        self.model.moe.groups(self.sequences_per_replica(), self.row_length(side))
    }

    /// Tokens of a row that a stack reads.
    pub fn row_length(&self, side: Side) -> usize {
        match side {
            Side::Encoder => self.batch.input_length,
            Side::Decoder => self.batch.target_length,
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let length = file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > FILE_LIMIT_BYTES {
        return Err(ConfigError::TooLong { path: path.to_owned(), limit_bytes: FILE_LIMIT_BYTES });
    }
    Ok(text)
}
