//! Writing tensor files whole or not at all.

use super::CheckpointError;
use super::digest::StateDigest;
use super::header::layout;
use crate::ir::{Literal, TensorType};
use sha2::{Digest, Sha256};
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

/// Writes tensors whose bytes come in pieces: `produce` gives those of the tensor of this index to the [`Sink`], in order.
///
/// It is called once for each, wide element types first. An existing file is replaced at once. Returns the size of the file.
///
/// Errors: [`CheckpointError::BadName`] for a name used twice; [`CheckpointError::DataLength`] where the bytes are too many or
/// too few; [`CheckpointError::Io`]; what `produce` returns.
pub fn write_streamed<E: From<CheckpointError>>(
    path: &Path,
    metadata: &[(&str, &str)],
    tensors: &[(&str, &TensorType)],
    produce: impl FnMut(usize, &mut Sink) -> Result<(), E>,
) -> Result<u64, E> {
    write_pieces(path, metadata, None, tensors, produce).map(|written| written.size_bytes)
}

/// Takes the bytes of one tensor on their way to the file.
pub struct Sink<'a> {
    partial: &'a mut Partial,
    hash: Option<Sha256>,
    written_bytes: u64,
}

impl Sink<'_> {
    /// Adds the next bytes, row-major and little-endian.
    ///
    /// Errors: [`CheckpointError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.written_bytes += bytes.len() as u64;
        self.partial.write(bytes)
    }
}

/// What [`write_pieces`] wrote.
pub(super) struct Written {
    pub size_bytes: u64,
    /// The digest of the state; empty if no key asked for it.
    pub digest: String,
}

/// Writes a file of fetched tensors; one is held at a time. See [`write_pieces`].
pub(super) fn write_file<L, E>(
    path: &Path,
    metadata: &[(&str, &str)],
    digest_key: Option<&str>,
    tensors: &[(&str, &TensorType)],
    mut fetch: impl FnMut(usize) -> Result<L, E>,
) -> Result<Written, CheckpointError>
where
    L: Borrow<Literal>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    write_pieces(path, metadata, digest_key, tensors, |i, sink| {
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
        sink.write(value.bytes())
    })
}

/// Writes a file under a temporary name, syncs it and renames it to `path`.
///
/// Where `digest_key` names a key of `metadata`, whose value must have 64 bytes, it gets the digest of the state.
pub(super) fn write_pieces<E: From<CheckpointError>>(
    path: &Path,
    metadata: &[(&str, &str)],
    digest_key: Option<&str>,
    tensors: &[(&str, &TensorType)],
    mut produce: impl FnMut(usize, &mut Sink) -> Result<(), E>,
) -> Result<Written, E> {
    let layout = layout(path, metadata, tensors)?;
    let mut partial = Partial::create(path)?;
    partial.write(&layout.head)?;
    let mut hashes = vec![[0; 32]; tensors.len()];
    for &i in &layout.order {
        let hash = digest_key.map(|_| Sha256::new());
        let mut sink = Sink { partial: &mut partial, hash, written_bytes: 0 };
        produce(i, &mut sink)?;
        hashes[i] = finished(path, tensors[i], sink)?;
    }
    let digest = digest_key.map_or_else(String::new, |_| state_digest(tensors, hashes));
    if let Some(at) = digest_key.and_then(|key| value_position(&layout.head, key)) {
        partial.write_at(at, digest.as_bytes())?;
    }
    let size_bytes = partial.finish(path)?;
    Ok(Written { size_bytes, digest })
}

/// The digest of a tensor's bytes, all of which must have come.
fn finished(path: &Path, (name, ty): (&str, &TensorType), sink: Sink) -> Result<[u8; 32], CheckpointError> {
    let (expected_bytes, found_bytes) = (ty.size_bytes() as u64, sink.written_bytes);
    if expected_bytes != found_bytes {
        let (path, tensor) = (path.to_path_buf(), name.to_string());
        return Err(CheckpointError::DataLength { path, tensor, expected_bytes, found_bytes });
    }
    Ok(sink.hash.map_or([0; 32], |hash| hash.finalize().into()))
}

/// The digest of the state, which follows the order of `tensors`.
fn state_digest(tensors: &[(&str, &TensorType)], hashes: Vec<[u8; 32]>) -> String {
    let mut digest = StateDigest::default();
    for (&(name, ty), hash) in tensors.iter().zip(hashes) {
        digest.add_hashed(name, ty, hash);
    }
    digest.finish()
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
    fn pieces_must_make_up_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let ty = TensorType::new(DType::F32, [2]);
        let write = |pieces: &[&[u8]]| {
            write_streamed(&path, &[("format", "pt")], &[("w", &ty)], |_, sink| {
                pieces.iter().try_for_each(|piece| sink.write(piece))
            })
        };
        let error: CheckpointError = write(&[&[0; 4], &[0; 3]]).unwrap_err();
        assert!(error.to_string().ends_with("tensor `w`: expected 8 bytes, 7 were given"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let size = write(&[&1f32.to_le_bytes(), &2f32.to_le_bytes()]).unwrap();
        let file = crate::checkpoint::TensorFile::open(&path).unwrap();
        assert_eq!((file.size_bytes(), file.metadata("format")), (size, Some("pt")));
        assert_eq!(file.tensor("w").unwrap(), Literal::new([2], &[1f32, 2.0]).unwrap());
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let error = write_tensors(Path::new("/nowhere/x.safetensors"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot create /nowhere/x.safetensors.partial");
    }
}
