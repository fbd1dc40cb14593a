//! Checkpoints of a training run: saving, finding the newest, removing old ones.

use super::CheckpointError;
use super::file::TensorFile;
use super::write::{PARTIAL_SUFFIX, Sink, Written, write_file, write_pieces};
use crate::ir::{Literal, TensorType};
use std::error::Error;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// The version of the metadata that this code writes and reads.
const FORMAT_VERSION: u32 = 1;
const VERSION_KEY: &str = "switchyard_checkpoint";
const STEP_KEY: &str = "step";
const SEED_KEY: &str = "seed";
const CONFIG_KEY: &str = "config_digest";
const DATA_KEY: &str = "data_position";
const DIGEST_KEY: &str = "state_digest";
const TEACHER_KEY: &str = "teacher_digest";
const ORIGIN_KEY: &str = "hugging_face";
const NAME_PREFIX: &str = "step_";
const NAME_SUFFIX: &str = ".safetensors";

/// What a checkpoint holds beside the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Number of steps done.
    pub step: u64,
    /// The seed of the run.
    pub seed: u64,
    /// Digest of the resolved config that the state belongs to.
    pub config_digest: String,
    /// Where the input goes on, in the words of the data pipeline (JSON).
    pub data_position: String,
    /// Digest of the parameters of the teacher, where the run has one.
    pub teacher_digest: Option<String>,
    /// Of imported parameters, what exporting them needs to know, in the words of the conversion (JSON).
    pub origin: Option<String>,
}

/// A checkpoint just written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    pub size_bytes: u64,
    /// Digest of the state: see [`super::StateDigest`].
    pub digest: String,
}

/// Writes the checkpoint `step_{step}.safetensors` into `folder`, which is made where it is missing.
///
/// `fetch` downloads the tensor of this index of `state`; it is called once for each, wide element types first, and one value is
/// held at a time. The file appears under its name when it is complete and synced. Leftovers of killed runs are removed.
///
/// Errors: [`CheckpointError::Fetch`], [`CheckpointError::TypeMismatch`] and [`CheckpointError::BadName`] for the tensor at fault,
/// [`CheckpointError::Io`]; an older checkpoint of the same step then stays as it was.
pub fn save<E>(
    folder: &Path,
    meta: &Meta,
    state: &[(String, TensorType)],
    mut fetch: impl FnMut(usize) -> Result<Literal, E>,
) -> Result<Saved, CheckpointError>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    save_with(folder, meta, state, |path, metadata, tensors| {
        write_file(path, metadata, Some(DIGEST_KEY), tensors, &mut fetch)
    })
}

/// As [`save`], with tensors whose bytes `produce` gives in pieces.
///
/// Errors: as [`save`], and what `produce` returns.
pub fn save_streamed<E: From<CheckpointError>>(
    folder: &Path,
    meta: &Meta,
    state: &[(String, TensorType)],
    mut produce: impl FnMut(usize, &mut Sink) -> Result<(), E>,
) -> Result<Saved, E> {
    save_with(folder, meta, state, |path, metadata, tensors| {
        write_pieces(path, metadata, Some(DIGEST_KEY), tensors, &mut produce)
    })
}

fn save_with<E: From<CheckpointError>>(
    folder: &Path,
    meta: &Meta,
    state: &[(String, TensorType)],
    write: impl FnOnce(&Path, &[(&str, &str)], &[(&str, &TensorType)]) -> Result<Written, E>,
) -> Result<Saved, E> {
    std::fs::create_dir_all(folder).map_err(CheckpointError::io("create", folder))?;
    remove_leftovers(folder)?;
    let path = folder.join(format!("{NAME_PREFIX}{:08}{NAME_SUFFIX}", meta.step));
    let (version, step, seed) = (FORMAT_VERSION.to_string(), meta.step.to_string(), meta.seed.to_string());
    let place_of_digest = "0".repeat(64);
    // The digest comes before all text from outside, which could contain its key.
    let mut metadata = vec![
        (VERSION_KEY, version.as_str()),
        (DIGEST_KEY, &place_of_digest),
        (STEP_KEY, &step),
        (SEED_KEY, &seed),
        (CONFIG_KEY, &meta.config_digest),
        (DATA_KEY, &meta.data_position),
    ];
    metadata.extend(meta.teacher_digest.iter().map(|digest| (TEACHER_KEY, digest.as_str())));
    metadata.extend(meta.origin.iter().map(|origin| (ORIGIN_KEY, origin.as_str())));
    let tensors: Vec<_> = state.iter().map(|(name, ty)| (name.as_str(), ty)).collect();
    let written = write(&path, &metadata, &tensors)?;
    Ok(Saved { path, size_bytes: written.size_bytes, digest: written.digest })
}

/// Removes old checkpoints, so that of those up to `step`, the one just saved, the newest `keep` stay (at least one).
///
/// Checkpoints of later steps are left alone: after a resume from an earlier one they belong to a run given up, and must not
/// push out good ones.
///
/// Errors: [`CheckpointError::Io`].
pub fn prune(folder: &Path, step: u64, keep: usize) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut old: Vec<_> = list(folder)?.into_iter().filter(|found| found.0 <= step).collect();
    old.truncate(old.len().saturating_sub(keep.max(1)));
    for (_, path) in &old {
        std::fs::remove_file(path).map_err(CheckpointError::io("remove", path))?;
    }
    Ok(old.into_iter().map(|(_, path)| path).collect())
}

/// What [`Meta::origin`] was when the file was written.
pub fn origin(file: &TensorFile) -> Option<String> {
    file.metadata(ORIGIN_KEY).map(str::to_string)
}

/// An open checkpoint: a [`TensorFile`] with its [`Meta`].
#[derive(Debug)]
pub struct Checkpoint {
    file: TensorFile,
    meta: Meta,
    recorded_digest: String,
}

impl Checkpoint {
    /// Opens a checkpoint and checks its header and metadata, not its data (see [`Checkpoint::verify`]).
    ///
    /// Errors: as [`TensorFile::open`]; [`CheckpointError::NoMetadata`], [`CheckpointError::BadMetadata`],
    /// [`CheckpointError::Version`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = TensorFile::open(path)?;
        let found = text(&file, VERSION_KEY)?;
        if found != FORMAT_VERSION.to_string() {
            let (path, found) = (path.to_path_buf(), found.to_string());
            return Err(CheckpointError::Version { path, expected: FORMAT_VERSION, found });
        }
        let meta = Meta {
            step: number(&file, STEP_KEY)?,
            seed: number(&file, SEED_KEY)?,
            config_digest: text(&file, CONFIG_KEY)?.to_string(),
            data_position: text(&file, DATA_KEY)?.to_string(),
            teacher_digest: text(&file, TEACHER_KEY).ok().map(str::to_string),
            origin: origin(&file),
        };
        let recorded_digest = text(&file, DIGEST_KEY)?.to_string();
        Ok(Self { file, meta, recorded_digest })
    }

    /// Step, seed, config digest and data position.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The digest of the state as recorded when it was saved.
    pub fn recorded_digest(&self) -> &str {
        &self.recorded_digest
    }

    /// Reads the whole file and compares the digest of the state with the recorded one.
    ///
    /// Errors: [`CheckpointError::DigestMismatch`].
    pub fn verify(&self) -> Result<(), CheckpointError> {
        let found = self.file.digest();
        if found == self.recorded_digest {
            return Ok(());
        }
        let (path, expected) = (self.file.path().to_path_buf(), self.recorded_digest.clone());
        Err(CheckpointError::DigestMismatch { path, expected, found })
    }
}

impl Deref for Checkpoint {
    type Target = TensorFile;

    fn deref(&self) -> &TensorFile {
        &self.file
    }
}

/// The newest sound checkpoint of a folder.
#[derive(Debug, Default)]
pub struct Latest {
    /// `None` where the folder has no sound checkpoint or does not exist.
    pub checkpoint: Option<Checkpoint>,
    /// Why newer ones were passed over, newest first; each names its file.
    pub skipped: Vec<CheckpointError>,
}

/// Finds the checkpoint with the highest step whose header, metadata and data are sound; reads it whole to be sure.
///
/// Errors: [`CheckpointError::Io`] if the folder cannot be listed. Damaged checkpoints are no error but in [`Latest::skipped`].
pub fn latest(folder: &Path) -> Result<Latest, CheckpointError> {
    let mut latest = Latest::default();
    for (step, path) in list(folder)?.into_iter().rev() {
        match open_sound(step, &path) {
            Ok(checkpoint) => {
                latest.checkpoint = Some(checkpoint);
                break;
            }
            Err(error) => latest.skipped.push(error),
        }
    }
    Ok(latest)
}

fn open_sound(step: u64, path: &Path) -> Result<Checkpoint, CheckpointError> {
    let checkpoint = Checkpoint::open(path)?;
    if checkpoint.meta.step != step {
        return Err(bad(&checkpoint.file, STEP_KEY, format!("{step} as in the file's name")));
    }
    checkpoint.verify()?;
    Ok(checkpoint)
}

/// The checkpoints of a folder by step, lowest first. A folder that does not exist has none.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let mut found: Vec<_> =
        files(folder)?.into_iter().filter_map(|(name, path)| Some((step_of(&name)?, path))).collect();
    found.sort();
    Ok(found)
}

fn step_of(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix(NAME_PREFIX)?.strip_suffix(NAME_SUFFIX)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Removes what a killed run left half-written. Such files end in `.partial`, so no reader takes them for checkpoints.
fn remove_leftovers(folder: &Path) -> Result<(), CheckpointError> {
    for (name, path) in files(folder)? {
        if name.strip_suffix(PARTIAL_SUFFIX).and_then(step_of).is_some() {
            std::fs::remove_file(&path).map_err(CheckpointError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Names and paths of a folder's entries whose names are UTF-8, as all ours are.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CheckpointError::io("list", folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io("list", folder))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

fn text<'a>(file: &'a TensorFile, key: &'static str) -> Result<&'a str, CheckpointError> {
    file.metadata(key).ok_or_else(|| CheckpointError::NoMetadata { path: file.path().to_path_buf(), key })
}

fn number(file: &TensorFile, key: &'static str) -> Result<u64, CheckpointError> {
    text(file, key)?.parse().map_err(|_| bad(file, key, "a whole number".to_string()))
}

fn bad(file: &TensorFile, key: &'static str, expected: String) -> CheckpointError {
    let found = file.metadata(key).unwrap_or_default().to_string();
    CheckpointError::BadMetadata { path: file.path().to_path_buf(), key, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;
    use std::convert::Infallible;

    fn meta(step: u64) -> Meta {
        let data_position = r#"{"file":"a \"b\"","offset":7,"state_digest":"x"}"#.to_string();
        let teacher_digest = step.is_multiple_of(2).then(|| "def".to_string());
        let origin = step.is_multiple_of(3).then(|| r#"{"dtype":"bf16"}"#.to_string());
        Meta { step, seed: u64::MAX, config_digest: "abc".into(), data_position, teacher_digest, origin }
    }

    fn state() -> Vec<(String, TensorType)> {
        vec![
            ("step".into(), TensorType::scalar(DType::S32)),
            ("w".into(), TensorType::new(DType::F32, [2])),
            ("key".into(), TensorType::new(DType::U64, [2])),
        ]
    }

    fn values(step: u64) -> Vec<Literal> {
        vec![
            Literal::scalar(step as i32),
            Literal::new(vec![2], &[0.5f32, step as f32]).unwrap(),
            Literal::new(vec![2], &[1u64, step]).unwrap(),
        ]
    }

    fn save_step(folder: &Path, step: u64) -> Saved {
        let values = values(step);
        save(folder, &meta(step), &state(), |i| Ok::<_, Infallible>(values[i].clone())).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = files(folder).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_comes_back_with_meta_state_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        let saved = save_step(&folder.path().join("checkpoints"), 1000);
        assert!(saved.path.ends_with("checkpoints/step_00001000.safetensors"));
        let checkpoint = Checkpoint::open(&saved.path).unwrap();
        assert_eq!(*checkpoint.meta(), meta(1000));
        checkpoint.expect(&state()).unwrap();
        for ((name, _), value) in state().iter().zip(values(1000)) {
            assert_eq!(checkpoint.tensor(name).unwrap(), value);
        }
        let state = state();
        let values = values(1000);
        let direct = super::super::digest(
            state.iter().zip(&values).map(|((name, ty), value)| (name.as_str(), ty, value.bytes())),
        );
        assert_eq!(saved.digest, direct);
        assert_eq!(checkpoint.recorded_digest(), direct);
        assert_eq!(saved.size_bytes, checkpoint.size_bytes());
        checkpoint.verify().unwrap();
    }

    #[test]
    fn pruning_keeps_the_newest_up_to_the_saved_step() {
        let folder = tempfile::tempdir().unwrap();
        for step in [1, 2, 3, 9] {
            save_step(folder.path(), step);
        }
        prune(folder.path(), 3, 2).unwrap();
        let file = |step: u64| format!("step_{step:08}.safetensors");
        assert_eq!(names(folder.path()), [file(2), file(3), file(9)]);
        prune(folder.path(), 9, 0).unwrap();
        assert_eq!(names(folder.path()), [file(9)]);
    }

    #[test]
    fn steps_beyond_eight_digits_are_ordered_by_number() {
        let folder = tempfile::tempdir().unwrap();
        save_step(folder.path(), 99_999_999);
        save_step(folder.path(), 100_000_000);
        assert_eq!(latest(folder.path()).unwrap().checkpoint.unwrap().meta().step, 100_000_000);
    }

    #[test]
    fn leftovers_are_no_checkpoints_and_go_with_the_next_save() {
        let folder = tempfile::tempdir().unwrap();
        let leftover = folder.path().join("step_00000007.safetensors.partial");
        std::fs::write(&leftover, b"half").unwrap();
        std::fs::write(folder.path().join("notes.txt"), b"mine").unwrap();
        let found = latest(folder.path()).unwrap();
        assert!(found.checkpoint.is_none() && found.skipped.is_empty());
        save_step(folder.path(), 3);
        assert_eq!(names(folder.path()), ["notes.txt", "step_00000003.safetensors"]);
    }

    #[test]
    fn damaged_checkpoints_are_passed_over_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let good = save_step(folder.path(), 1);
        let cut = save_step(folder.path(), 3);
        let bytes = std::fs::read(&cut.path).unwrap();
        std::fs::write(&cut.path, &bytes[..bytes.len() - 1]).unwrap();
        let flipped = save_step(folder.path(), 2);
        let mut bytes = std::fs::read(&flipped.path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&flipped.path, &bytes).unwrap();
        std::fs::copy(&good.path, folder.path().join("step_00000004.safetensors")).unwrap();
        let found = latest(folder.path()).unwrap();
        assert_eq!(found.checkpoint.unwrap().path(), good.path);
        let reasons: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
        assert!(
            reasons[0].ends_with("metadata `step`: expected 4 as in the file's name, found `1`"),
            "{reasons:?}"
        );
        assert!(reasons[1].contains("step_00000003.safetensors: truncated"), "{reasons:?}");
        assert!(
            reasons[2].contains("step_00000002.safetensors: damaged: expected state digest"),
            "{reasons:?}"
        );
    }

    #[test]
    fn a_folder_that_does_not_exist_has_no_checkpoint() {
        let found = latest(Path::new("/nowhere/at/all")).unwrap();
        assert!(found.checkpoint.is_none() && found.skipped.is_empty());
    }

    #[test]
    fn plain_tensor_files_and_other_versions_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain.safetensors");
        super::super::write_tensors(&path, &[]).unwrap();
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(
            message.ends_with("not a checkpoint: the metadata has no `switchyard_checkpoint`"),
            "{message}"
        );
        let saved = save_step(folder.path(), 1);
        let text = std::fs::read(&saved.path).unwrap();
        let at = text.windows(4).position(|window| window == b":\"1\"").unwrap();
        let mut newer = text.clone();
        newer[at + 2] = b'2';
        std::fs::write(&path, newer).unwrap();
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(message.contains("checkpoint format version `2` is not supported, expected 1"), "{message}");
    }
}
