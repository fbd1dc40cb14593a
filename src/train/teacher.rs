//! The teacher of a run: its parameters beside the student's state, and in it where the student starts from them.

use super::initial::{InitialError, check_fit};
use super::session::{Session, SessionError};
use super::transfer::{Transfer, plan};
use crate::checkpoint::{Checkpoint, CheckpointError, StateDigest, TensorFile};
use crate::config::{ModelConfig, RunConfig};
use crate::ir::{Literal, LiteralError, TensorType};
use crate::{model, step};
use std::path::PathBuf;

/// Whom a run learns from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teacher {
    /// A checkpoint, or another safetensors file with tensors of these names.
    pub checkpoint: PathBuf,
    /// Whether the student starts from all weights of the teacher but its experts and routers.
    pub copy: bool,
}

/// A run cannot have its teacher.
#[derive(Debug, thiserror::Error)]
pub enum TeacherError {
    #[error("the configuration has a teacher; give its checkpoint, as `distill` does")]
    NoCheckpoint,
    #[error("the configuration has no teacher; give one in `distillation.teacher`, as `distill` does")]
    NoNetwork,
    #[error(
        "`{}` learnt from a teacher with other parameters (digest {expected}, `{}` has {found}); give the teacher that \
             the run began with", run.display(), teacher.display()
    )]
    Other { run: PathBuf, teacher: PathBuf, expected: String, found: String },
    #[error("the teacher cannot be used")]
    Unfit(#[source] InitialError),
    #[error("the student cannot start from the teacher; let it start anew")]
    NoCopy(#[source] InitialError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Literal(#[from] LiteralError),
}

/// A teacher whose parameters are known to fit.
pub(super) struct Opened<'a> {
    network: &'a ModelConfig,
    file: TensorFile,
    copy: bool,
}

/// Opens the teacher that the configuration asks for; `None` where there is none.
pub(super) fn open<'a>(
    config: &'a RunConfig,
    teacher: Option<&Teacher>,
) -> Result<Option<Opened<'a>>, TeacherError> {
    let (network, teacher) = match (config.distillation.teacher.as_deref(), teacher) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(TeacherError::NoCheckpoint),
        (None, Some(_)) => return Err(TeacherError::NoNetwork),
        (Some(network), Some(teacher)) => (network, teacher),
    };
    let file = TensorFile::open(&teacher.checkpoint)?;
    check_fit(&file, &params(network)).map_err(TeacherError::Unfit)?;
    if teacher.copy {
        plan(Transfer::Distillation, &config.model, network, &file).map_err(TeacherError::NoCopy)?;
    }
    Ok(Some(Opened { network, file, copy: teacher.copy }))
}

fn params(network: &ModelConfig) -> Vec<(String, TensorType)> {
    model::declare(network).into_iter().map(|def| (def.name.clone(), def.ty())).collect()
}

impl Opened<'_> {
    /// The digest of its parameters: that of a state of them alone.
    pub(super) fn digest(&self) -> Result<String, TeacherError> {
        let mut digest = StateDigest::default();
        for (name, ty) in params(self.network) {
            digest.add(&name, &ty, self.file.bytes(&name)?);
        }
        Ok(digest.finish())
    }

    /// Refuses to go on with a run that learnt from another teacher. Checkpoints that do not say from whom fit any.
    pub(super) fn expect_of(&self, checkpoint: &Checkpoint, found: &str) -> Result<(), TeacherError> {
        match &checkpoint.meta().teacher_digest {
            Some(expected) if expected != found => Err(TeacherError::Other {
                run: checkpoint.path().into(),
                teacher: self.file.path().into(),
                expected: expected.clone(),
                found: found.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Puts the teacher's parameters on the device.
    pub(super) fn upload(&self, session: &mut Session) -> Result<(), TeacherError> {
        for (name, _) in params(self.network) {
            session.set_state(&format!("{}{name}", step::TEACHER_PREFIX), &self.file.tensor(&name)?)?;
        }
        Ok(())
    }

    /// Replaces the student's first parameters by the teacher's, if it is to start from them.
    pub(super) fn copy(&self, session: &mut Session, student: &ModelConfig) -> Result<(), TeacherError> {
        if !self.copy {
            return Ok(());
        }
        let recipes = plan(Transfer::Distillation, student, self.network, &self.file);
        for recipe in recipes.map_err(TeacherError::NoCopy)?.into_iter().filter(|recipe| !recipe.is_fresh()) {
            let fresh = || -> Result<Vec<u8>, TeacherError> { Ok(session.state(&recipe.name)?.into_bytes()) };
            let bytes = recipe.bytes(&self.file, fresh)?;
            session.set_state(&recipe.name, &Literal::from_bytes(recipe.ty.clone(), bytes)?)?;
        }
        Ok(())
    }
}
