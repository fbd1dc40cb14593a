//! Writing tensor files whole or not at all.

use super::CheckpointError;
use super::digest::{StateDigest, bytes_digest};
use super::header::layout;
use crate::ir::{Literal, TensorType};
use std::borrow::Borrow;
use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Ends the name of a file that is still being written.
pub(super) const PARTIAL_SUFFIX: &str = ".partial";

/// Writes named tensors to a file, in this order and without metadata. An existing file is replaced at once.
///
/// Errors: [`CheckpointError::BadName`] for a name used twice; [`CheckpointError::Io`].
pub fn write_tensors(path: &Path, tensors: &[(String, Literal)]) -> Result<(), CheckpointError> {
    let types: Vec<_> = tensors.iter().map(|(name, value)| (name.as_str(), value.ty())).collect();
    let fetch = |i: usize| Ok::<_, Infallible>(&tensors[i].1);
    write_file(path, &[], None, &types, fetch).map(|_| ())
}

/// What [`write_file`] wrote.
pub(super) struct Written {
    pub size_bytes: u64,
    pub digest: String,
}

/// Writes a file under a temporary name, syncs it and renames it to `path`; one fetched tensor is held at a time.
///
/// Where `digest_key` names a key of `metadata`, whose value must have 64 bytes, it gets the digest of the state.
pub(super) fn write_file<L, E>(
    path: &Path,
    metadata: &[(&str, &str)],
    digest_key: Option<&str>,
    tensors: &[(&str, &TensorType)],
    fetch: impl FnMut(usize) -> Result<L, E>,
) -> Result<Written, CheckpointError>
where
    L: Borrow<Literal>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let layout = layout(path, metadata, tensors)?;
    let mut partial = Partial::create(path)?;
    partial.write(&layout.head)?;
    let digest = write_data(&mut partial, path, &layout.order, tensors, fetch)?;
    if let Some(at) = digest_key.and_then(|key| value_position(&layout.head, key)) {
        partial.write_at(at, digest.as_bytes())?;
    }
    let size_bytes = partial.finish(path)?;
    Ok(Written { size_bytes, digest })
}

/// Writes the data in `order`; returns the digest of the state, which follows the order of `tensors`.
fn write_data<L, E>(
    partial: &mut Partial,
    path: &Path,
    order: &[usize],
    tensors: &[(&str, &TensorType)],
    mut fetch: impl FnMut(usize) -> Result<L, E>,
) -> Result<String, CheckpointError>
where
    L: Borrow<Literal>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut hashes = vec![[0; 32]; tensors.len()];
    for &i in order {
        let (name, ty) = tensors[i];
        let (path, tensor) = (path.to_path_buf(), name.to_string());
        let value = match fetch(i) {
            Ok(value) => value,
            Err(source) => return Err(CheckpointError::Fetch { path, tensor, source: source.into() }),
        };
        let value: &Literal = value.borrow();
        if value.ty() != ty {
            let (expected, found) = (ty.clone(), value.ty().clone());
            return Err(CheckpointError::TypeMismatch { path, tensor, expected, found });
        }
        hashes[i] = bytes_digest(value.bytes());
        partial.write(value.bytes())?;
    }
    let mut digest = StateDigest::default();
    for (&(name, ty), hash) in tensors.iter().zip(hashes) {
        digest.add_hashed(name, ty, hash);
    }
    Ok(digest.finish())
}

/// Where the text of a metadata key starts in the head. Metadata comes first in it, so the first match is the right one.
fn value_position(head: &[u8], key: &str) -> Option<u64> {
    let pattern = format!("\"{key}\":\"");
    let at = head.windows(pattern.len()).position(|window| window == pattern.as_bytes())?;
    Some((at + pattern.len()) as u64)
}

/// A file under its temporary name; removed when dropped unfinished.
struct Partial {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, CheckpointError> {
        let mut name = target.as_os_str().to_os_string();
        name.push(PARTIAL_SUFFIX);
        let path = PathBuf::from(name);
        let file = File::create(&path).map_err(CheckpointError::io("create", &path))?;
        Ok(Self { path, file, finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all(bytes).map_err(CheckpointError::io("write", &self.path))
    }

    fn write_at(&mut self, position: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.seek(SeekFrom::Start(position)).map_err(CheckpointError::io("write", &self.path))?;
        self.write(bytes)
    }

    /// Syncs the file, renames it and syncs the folder, so that the new name survives a loss of power. Returns its size.
    fn finish(mut self, target: &Path) -> Result<u64, CheckpointError> {
        self.file.sync_all().map_err(CheckpointError::io("sync", &self.path))?;
        let size = self.file.metadata().map_err(CheckpointError::io("read", &self.path))?.len();
        std::fs::rename(&self.path, target).map_err(CheckpointError::io("rename to", target))?;
        self.finished = true;
        sync_folder(target)?;
        Ok(size)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is the one to report.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(unix)]
fn sync_folder(target: &Path) -> Result<(), CheckpointError> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(CheckpointError::io("sync", folder))
}

/// Other systems cannot open a folder as a file; renaming is all there is.
#[cfg(not(unix))]
fn sync_folder(_target: &Path) -> Result<(), CheckpointError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    #[test]
    fn a_failed_fetch_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let old = vec![("w".to_string(), Literal::scalar(1.0f32))];
        write_tensors(&path, &old).unwrap();
        let ty = TensorType::scalar(DType::F32);
        let failing = |i| if i == 0 { Ok(Literal::scalar(2.0f32)) } else { Err("device lost") };
        let error = write_file(&path, &[], None, &[("w", &ty), ("v", &ty)], failing).err().unwrap();
        assert!(error.to_string().contains("tensor `v`: its value could not be fetched"));
        assert_eq!(crate::checkpoint::read_tensors(&path).unwrap(), old);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ty = TensorType::new(DType::F32, [1]);
        let fetch = |_| Ok::<_, Infallible>(Literal::scalar(2.0f32));
        let error = write_file(&folder.path().join("x"), &[], None, &[("w", &ty)], fetch).err().unwrap();
        assert!(error.to_string().ends_with("tensor `w`: expected f32[1], found f32[]"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let error = write_tensors(Path::new("/nowhere/x.safetensors"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot create /nowhere/x.safetensors.partial");
    }
}
