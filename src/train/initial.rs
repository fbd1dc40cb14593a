//! Parameters from another checkpoint: what a run starts from instead of random numbers.

use super::session::{Session, SessionError};
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::ir::TensorType;
use crate::step;
use std::path::{Path, PathBuf};

/// Where a run takes its first parameters from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initial {
    /// A checkpoint, or another safetensors file with tensors of these names; all but the parameters is passed over.
    pub checkpoint: PathBuf,
    /// The number of the first step. Optimizer slots start anew whatever it is.
    pub step: u64,
}

/// Parameters cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum InitialError {
    /// Everything that does not fit, in the order of the model, then of the file.
    #[error("`{}` does not fit the model: {}", path.display(), listed(misfits))]
    Misfits { path: PathBuf, misfits: Vec<Misfit> },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

fn listed(misfits: &[Misfit]) -> String {
    misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A tensor that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("`{name}` {ty} is missing")]
    Missing { name: String, ty: TensorType },
    #[error("`{name}` must be {expected}, found {found}")]
    Type { name: String, expected: TensorType, found: TensorType },
    #[error("the model has no `{name}` {ty}")]
    Unknown { name: String, ty: TensorType },
}

/// Checks that a file holds these parameters and no others. Optimizer slots, step and random key beside them are no matter.
///
/// Errors: [`InitialError::Misfits`] with all that does not fit.
pub fn check_fit(file: &TensorFile, params: &[(String, TensorType)]) -> Result<(), InitialError> {
    let mut misfits = vec![];
    for (name, expected) in params {
        let (name, expected) = (name.clone(), expected.clone());
        match file.ty(&name).cloned() {
            None => misfits.push(Misfit::Missing { name, ty: expected }),
            Some(found) if found != expected => misfits.push(Misfit::Type { name, expected, found }),
            Some(_) => {}
        }
    }
    let known = |name: &str| params.iter().any(|(param, _)| param == name);
    let others = file.tensors().filter(|(name, _)| step::is_parameter(name) && !known(name));
    misfits.extend(others.map(|(name, ty)| Misfit::Unknown { name: name.into(), ty: ty.clone() }));
    match misfits.is_empty() {
        true => Ok(()),
        false => Err(InitialError::Misfits { path: file.path().to_path_buf(), misfits }),
    }
}

/// Opens the checkpoint and checks it against the parameters of the session's model.
pub(super) fn open(session: &Session, path: &Path) -> Result<TensorFile, InitialError> {
    let file = TensorFile::open(path)?;
    check_fit(&file, &params(session))?;
    Ok(file)
}

/// Puts the parameters of a file that fits into the state.
pub(super) fn copy(session: &mut Session, file: &TensorFile) -> Result<(), InitialError> {
    for (name, _) in params(session) {
        session.set_state(&name, &file.tensor(&name)?)?;
    }
    Ok(())
}

fn params(session: &Session) -> Vec<(String, TensorType)> {
    session.state_layout().into_iter().filter(|(name, _)| step::is_parameter(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::write_tensors;
    use crate::ir::{DType, Literal};

    #[test]
    fn all_that_does_not_fit_is_listed_and_the_rest_of_a_state_is_no_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let named = |name: &str, shape: &[usize]| {
            let ty = TensorType::new(DType::F32, shape);
            (name.to_string(), ty)
        };
        let saved = [named("a", &[2]), named("b", &[3]), named("d", &[1]), named("optimizer/v/a", &[2])];
        let zeros = saved.map(|(name, ty)| (name, Literal::zeros(ty)));
        write_tensors(&path, &zeros).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let message = |params: &[(String, TensorType)]| {
            check_fit(&file, params).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let params = [named("a", &[2]), named("b", &[4]), named("c", &[])];
        assert_eq!(
            message(&params),
            format!(
                "`{}` does not fit the model: `b` must be f32[4], found f32[3]; `c` f32[] is missing; the model has no \
                 `d` f32[1]",
                path.display()
            )
        );
        assert_eq!(message(&[named("a", &[2]), named("b", &[3]), named("d", &[1])]), "");
    }
}
