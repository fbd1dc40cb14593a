//! Reading tensor files through a memory map.

use super::header::{Entry, Header, MAX_HEADER_BYTES};
use super::{CheckpointError, StateDigest};
use crate::ir::{DType, Literal, TensorType};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

const LENGTH_BYTES: usize = 8;

/// An open safetensors file whose header has been checked against its size; the data is mapped, not read.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    header: Header,
    map: Mmap,
    data_start: usize,
}

impl TensorFile {
    /// Opens a file and checks its header: names, element types, shapes and offsets.
    ///
    /// Errors: all of [`CheckpointError`] that tell of reading, naming the file and the tensor.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let map = map_file(path)?;
        let (length, rest) = split_length(path, &map)?;
        let path = path.to_path_buf();
        let Some(json) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
            let (expected_bytes, found_bytes) =
                (length.saturating_add(LENGTH_BYTES as u64), map.len() as u64);
            return Err(CheckpointError::HeaderTruncated { path, expected_bytes, found_bytes });
        };
        let header = Header::parse(&path, json, (rest.len() - json.len()) as u64)?;
        let data_start = LENGTH_BYTES + json.len();
        Ok(Self { path, header, map, data_start })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.header.entries.len()
    }

    /// Whether the file holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.header.entries.is_empty()
    }

    /// Names and types of the tensors, in the order of the header.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorType)> {
        self.header.entries.iter().map(|entry| (entry.name.as_str(), &entry.ty))
    }

    /// The type of a tensor, if the file has it.
    pub fn ty(&self, name: &str) -> Option<&TensorType> {
        self.find(name).ok().map(|entry| &entry.ty)
    }

    /// The text of a metadata key, if the file has it.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// The bytes of a tensor in the mapped file: row-major, little-endian; aligned to the element in files written here.
    ///
    /// Errors: [`CheckpointError::NoSuchTensor`].
    pub fn bytes(&self, name: &str) -> Result<&[u8], CheckpointError> {
        Ok(self.bytes_of(self.find(name)?))
    }

    /// Gives back the memory of these bytes of a tensor, whose pages are read from the file when they are needed again.
    ///
    /// For programs that pass once over files larger than the memory they should take. Advice only: nothing can fail.
    pub fn release(&self, name: &str, bytes: Range<usize>) {
        let Ok(entry) = self.find(name) else { return };
        let begin = entry.range.start.saturating_add(bytes.start).min(entry.range.end);
        let end = entry.range.start.saturating_add(bytes.end).min(entry.range.end);
        advise_unneeded(&self.map, self.data_start + begin, end.saturating_sub(begin));
    }

    /// A copy of a tensor.
    ///
    /// Errors: [`CheckpointError::NoSuchTensor`]; [`CheckpointError::BadPred`] where a `pred` byte is neither 0 nor 1.
    pub fn tensor(&self, name: &str) -> Result<Literal, CheckpointError> {
        let entry = self.find(name)?;
        let bytes = self.bytes_of(entry);
        let (path, tensor) = (&self.path, &entry.name);
        if entry.ty.dtype == DType::Pred
            && let Some((index, &found)) = bytes.iter().enumerate().find(|(_, byte)| **byte > 1)
        {
            return Err(CheckpointError::BadPred {
                path: path.clone(),
                tensor: tensor.clone(),
                index,
                found,
            });
        }
        Literal::from_bytes(entry.ty.clone(), bytes.to_vec()).map_err(|source| CheckpointError::Literal {
            path: path.clone(),
            tensor: tensor.clone(),
            source,
        })
    }

    /// The digest of all tensors in the order of the header; reads the whole file.
    pub fn digest(&self) -> String {
        let mut digest = StateDigest::default();
        for entry in &self.header.entries {
            digest.add(&entry.name, &entry.ty, self.bytes_of(entry));
        }
        digest.finish()
    }

    /// Checks that the file holds exactly these tensors, in this order and with these types.
    ///
    /// Errors: [`CheckpointError::CountMismatch`], [`CheckpointError::NameMismatch`], [`CheckpointError::TypeMismatch`]
    /// for the first difference.
    pub fn expect(&self, state: &[(String, TensorType)]) -> Result<(), CheckpointError> {
        for (index, (entry, (name, ty))) in self.header.entries.iter().zip(state).enumerate() {
            let path = self.path.clone();
            if entry.name != *name {
                let (expected, found) = (name.clone(), entry.name.clone());
                return Err(CheckpointError::NameMismatch { path, index, expected, found });
            }
            if entry.ty != *ty {
                let (tensor, expected, found) = (name.clone(), ty.clone(), entry.ty.clone());
                return Err(CheckpointError::TypeMismatch { path, tensor, expected, found });
            }
        }
        if self.len() != state.len() {
            let (expected, found) = (state.len(), self.len());
            return Err(CheckpointError::CountMismatch { path: self.path.clone(), expected, found });
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Entry, CheckpointError> {
        let found = self.header.by_name.get(name).and_then(|&index| self.header.entries.get(index));
        found.ok_or_else(|| CheckpointError::NoSuchTensor {
            path: self.path.clone(),
            tensor: name.to_string(),
            num_tensors: self.len(),
        })
    }

    /// The header was checked to lie within the map, so the range always fits.
    fn bytes_of(&self, entry: &Entry) -> &[u8] {
        let data = self.map.get(self.data_start..).unwrap_or_default();
        data.get(entry.range.clone()).unwrap_or_default()
    }
}

/// All tensors of a file with their names, in the order of its header. Metadata is ignored.
///
/// Errors: as [`TensorFile::open`] and [`TensorFile::tensor`].
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Literal)>, CheckpointError> {
    let file = TensorFile::open(path)?;
    file.tensors().map(|(name, _)| Ok((name.to_string(), file.tensor(name)?))).collect()
}

fn map_file(path: &Path) -> Result<Mmap, CheckpointError> {
    let kind = std::fs::metadata(path).map_err(CheckpointError::io("read", path))?;
    // Opening a pipe would wait for its writer.
    if !kind.is_file() {
        return Err(CheckpointError::NotAFile { path: path.to_path_buf() });
    }
    let file = File::open(path).map_err(CheckpointError::io("open", path))?;
    // SAFETY: the map is only read. Files here are replaced by renaming and never changed in place, so the mapped bytes stay
    // as they are for as long as the map lives.
    unsafe { Mmap::map(&file) }.map_err(CheckpointError::io("map", path))
}

#[cfg(unix)]
fn advise_unneeded(map: &Mmap, offset: usize, length: usize) {
    if length > 0 {
        // SAFETY: the map is shared, backed by a file and never written, so dropped pages come back with the same bytes.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, length) };
    }
}

/// Other systems have no such advice.
#[cfg(not(unix))]
fn advise_unneeded(_map: &Mmap, _offset: usize, _length: usize) {}

/// The length of the header and the bytes after it.
fn split_length<'a>(path: &Path, bytes: &'a [u8]) -> Result<(u64, &'a [u8]), CheckpointError> {
    let path = path.to_path_buf();
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(CheckpointError::TooShort { path, found_bytes: bytes.len() as u64 });
    };
    let found_bytes = u64::from_le_bytes(*length);
    if found_bytes > MAX_HEADER_BYTES {
        return Err(CheckpointError::HeaderTooLarge { path, limit_bytes: MAX_HEADER_BYTES, found_bytes });
    }
    Ok((found_bytes, rest))
}

#[cfg(test)]
mod tests {
    use super::super::write_tensors;
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// One tensor of every element type, among them a scalar and an empty one.
    fn all_types() -> Vec<(String, Literal)> {
        let named = |name: &str, value: Literal| (name.to_string(), value);
        vec![
            named("flag", Literal::pred(vec![3], &[true, false, true]).unwrap()),
            named("s8", Literal::new(vec![2], &[-1i8, 7]).unwrap()),
            named("s32", Literal::scalar(-5i32)),
            named("s64", Literal::new(vec![1, 2], &[i64::MIN, i64::MAX]).unwrap()),
            named("u8", Literal::new(vec![1], &[255u8]).unwrap()),
            named("u32", Literal::scalar(u32::MAX)),
            named("u64", Literal::new(vec![2], &[1u64, u64::MAX]).unwrap()),
            named("f16", Literal::scalar(f16::from_f32(1.5))),
            named("bf16", Literal::new(vec![3], &[bf16::from_f32(-2.0); 3]).unwrap()),
            named("f32", Literal::new(vec![2, 2], &[1.0f32, -0.0, f32::NAN, f32::INFINITY]).unwrap()),
            named("f64", Literal::scalar(std::f64::consts::PI)),
            named("leer/ü \"quoted\"", Literal::zeros(TensorType::new(DType::F32, [0, 4]))),
        ]
    }

    fn valid_bytes() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_tensors(&path, &all_types()).unwrap();
        std::fs::read(path).unwrap()
    }

    fn open_bytes(bytes: &[u8]) -> Result<Vec<(String, Literal)>, CheckpointError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        read_tensors(&path)
    }

    #[test]
    fn all_element_types_come_back_in_order_and_bit_for_bit() {
        assert_eq!(open_bytes(&valid_bytes()).unwrap(), all_types());
    }

    #[test]
    fn the_reference_implementation_reads_what_we_write() {
        let bytes = valid_bytes();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, value) in all_types() {
            let view = theirs.tensor(&name).unwrap();
            assert_eq!((view.shape(), view.data()), (value.ty().shape.as_slice(), value.bytes()), "{name}");
        }
    }

    #[test]
    fn we_read_what_the_reference_implementation_writes() {
        let data: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &data).unwrap();
        let bytes = safetensors::serialize([("w", view)], None).unwrap();
        let expected = Literal::new(vec![2], &[1.0f32, 2.0]).unwrap();
        assert_eq!(open_bytes(&bytes).unwrap(), [("w".to_string(), expected)]);
    }

    #[test]
    fn mapped_bytes_are_aligned_to_their_element() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_tensors(&path, &all_types()).unwrap();
        let file = TensorFile::open(&path).unwrap();
        for (name, ty) in file.tensors() {
            assert_eq!(file.bytes(name).unwrap().as_ptr() as usize % ty.dtype.size_bytes(), 0, "{name}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = valid_bytes();
        for length in 0..bytes.len() {
            assert!(open_bytes(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn messages_name_the_fault() {
        let message = |bytes: &[u8]| open_bytes(bytes).unwrap_err().to_string();
        assert!(
            message(b"abc").contains("expected at least 8 bytes of header length, found a file of 3 bytes")
        );
        assert!(
            message(b"PK\x03\x04 not ours at all")
                .contains("expected a JSON header of at most 100000000 bytes")
        );
        assert!(message(&100u64.to_le_bytes()).contains("the header needs 108 bytes, the file has 8"));
        let mut bytes = valid_bytes();
        // The flags end the file: three bytes before the end stands the first.
        let first = bytes.len() - 3 - 2 - 1;
        bytes[first] = 9;
        assert!(message(&bytes).contains("tensor `flag`: element 0 of a pred must be 0 or 1, found 9"));
    }

    #[test]
    fn a_folder_a_missing_file_and_a_missing_tensor_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(TensorFile::open(folder.path()), Err(CheckpointError::NotAFile { .. })));
        let path = folder.path().join("x.safetensors");
        assert!(matches!(TensorFile::open(&path), Err(CheckpointError::Io { .. })));
        write_tensors(&path, &[]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert!(matches!(file.tensor("w"), Err(CheckpointError::NoSuchTensor { num_tensors: 0, .. })));
    }

    #[test]
    fn another_state_than_expected_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_tensors(&path, &[("w".into(), Literal::scalar(1.0f32))]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let state = |name: &str, dtype| vec![(name.to_string(), TensorType::scalar(dtype))];
        assert!(file.expect(&state("w", DType::F32)).is_ok());
        let message = file.expect(&state("w", DType::Bf16)).unwrap_err().to_string();
        assert!(message.ends_with("tensor `w`: expected bf16[], found f32[]"), "{message}");
        let message = file.expect(&state("v", DType::F32)).unwrap_err().to_string();
        assert!(message.ends_with("tensor 0: expected `v`, found `w`"), "{message}");
        assert!(matches!(
            file.expect(&[]),
            Err(CheckpointError::CountMismatch { expected: 0, found: 1, .. })
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = open_bytes(&bytes);
        }

        #[test]
        fn a_random_header_never_panics(json in r#"[\[\]{}":,0-9a-zA-Z_ ]{0,80}"#, data in 0usize..32) {
            let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
            bytes.extend(json.as_bytes());
            bytes.resize(bytes.len() + data, 0);
            let _ = open_bytes(&bytes);
        }

        #[test]
        fn a_changed_file_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            cut_it in any::<bool>(),
        ) {
            let mut bytes = valid_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cut_it {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = open_bytes(&bytes);
        }
    }
}
