//! The safetensors header: element type names, parsing with all checks, writing.

use super::CheckpointError;
use crate::ir::{DType, TensorType};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// The largest header accepted, as in the reference implementation.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;
const METADATA_KEY: &str = "__metadata__";

/// Element types by their name in safetensors files.
const NAMES: [(DType, &str); 11] = [
    (DType::Pred, "BOOL"),
    (DType::S8, "I8"),
    (DType::S32, "I32"),
    (DType::S64, "I64"),
    (DType::U8, "U8"),
    (DType::U32, "U32"),
    (DType::U64, "U64"),
    (DType::F16, "F16"),
    (DType::Bf16, "BF16"),
    (DType::F32, "F32"),
    (DType::F64, "F64"),
];

fn file_name_of(dtype: DType) -> &'static str {
    NAMES.iter().find(|row| row.0 == dtype).map_or("", |row| row.1)
}

/// A tensor of a file: its name, type and place in the data section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    pub ty: TensorType,
    pub range: Range<usize>,
}

/// A checked header: entries in the order of the header, which cover the data section without gap or overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    pub entries: Vec<Entry>,
    pub by_name: HashMap<String, usize>,
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Parses and checks the JSON of a header whose file holds `data_bytes` bytes of data. `path` is for messages.
    pub fn parse(path: &Path, json: &[u8], data_bytes: u64) -> Result<Self, CheckpointError> {
        let raw: RawHeader = serde_json::from_slice(json)
            .map_err(|source| CheckpointError::Header { path: path.to_path_buf(), source })?;
        let entries = raw
            .tensors
            .into_iter()
            .map(|(name, raw)| entry(path, name, raw))
            .collect::<Result<Vec<_>, _>>()?;
        check_cover(path, &entries, data_bytes)?;
        let by_name = entries.iter().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
        Ok(Self { entries, by_name, metadata: raw.metadata.unwrap_or_default() })
    }
}

/// Checks one tensor by itself.
fn entry(path: &Path, tensor: String, raw: RawTensor) -> Result<Entry, CheckpointError> {
    let path = path.to_path_buf();
    let Some(&(dtype, _)) = NAMES.iter().find(|row| row.1 == raw.dtype) else {
        let expected = NAMES.map(|row| row.1).join(", ");
        return Err(CheckpointError::UnknownDType { path, tensor, found: raw.dtype, expected });
    };
    let shape: Option<Vec<usize>> = raw.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    let ty = shape.map(|shape| TensorType::new(dtype, shape));
    let sized = ty.and_then(|ty| Some((checked_bytes(&ty)?, ty)));
    let Some((expected_bytes, ty)) = sized else {
        return Err(CheckpointError::ShapeTooLarge { path, tensor, dtype: raw.dtype, shape: raw.shape });
    };
    let (begin, end) = raw.data_offsets;
    match (usize::try_from(begin), usize::try_from(end)) {
        (Ok(from), Ok(to)) if to.checked_sub(from) == Some(expected_bytes) => {
            Ok(Entry { name: tensor, ty, range: from..to })
        }
        _ => {
            let expected_bytes = expected_bytes as u64;
            Err(CheckpointError::SizeMismatch { path, tensor, ty, expected_bytes, begin, end })
        }
    }
}

/// Size in bytes, or `None` where it overflows or no slice can be that long.
fn checked_bytes(ty: &TensorType) -> Option<usize> {
    let bytes = ty.checked_elements()?.checked_mul(ty.dtype.size_bytes())?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

/// Checks that the tensors, taken by offset, follow each other from 0 to the end of the data.
fn check_cover(path: &Path, entries: &[Entry], data_bytes: u64) -> Result<(), CheckpointError> {
    let path = path.to_path_buf();
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let mut end = 0;
    for Entry { name, range, .. } in sorted {
        let (expected, found, tensor) = (end as u64, range.start as u64, name.clone());
        if found != expected {
            return Err(CheckpointError::OverlapOrGap { path, tensor, expected, found });
        }
        end = range.end;
        if end as u64 > data_bytes {
            let (expected_bytes, found_bytes) = (end as u64, data_bytes);
            return Err(CheckpointError::OutOfFile { path, tensor, expected_bytes, found_bytes });
        }
    }
    if end as u64 != data_bytes {
        let (expected_bytes, found_bytes) = (end as u64, data_bytes);
        return Err(CheckpointError::TrailingBytes { path, expected_bytes, found_bytes });
    }
    Ok(())
}

/// A file about to be written: the bytes before the data, and where each tensor comes to lie.
pub(super) struct Layout {
    /// Length, JSON, and padding to a multiple of 8.
    pub head: Vec<u8>,
    /// Indices of tensors in the order of their data.
    pub order: Vec<usize>,
}

/// Lays out a file. The header names the tensors in the given order; the data has wide elements first, so that each tensor
/// is aligned to its element.
///
/// Errors: [`CheckpointError::BadName`] for a name used twice or reserved; [`CheckpointError::ShapeTooLarge`].
pub(super) fn layout(
    path: &Path,
    metadata: &[(&str, &str)],
    tensors: &[(&str, &TensorType)],
) -> Result<Layout, CheckpointError> {
    check_names(path, tensors)?;
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(tensors[i].1.dtype.size_bytes()));
    let mut ranges = vec![0..0; tensors.len()];
    let mut end = 0usize;
    for &i in &order {
        let (name, ty) = tensors[i];
        let next = checked_bytes(ty).and_then(|bytes| end.checked_add(bytes));
        let next = next.ok_or_else(|| CheckpointError::ShapeTooLarge {
            path: path.to_path_buf(),
            tensor: name.to_string(),
            dtype: ty.dtype.to_string(),
            shape: ty.shape.iter().map(|&size| size as u64).collect(),
        })?;
        ranges[i] = end..next;
        end = next;
    }
    Ok(Layout { head: encode(metadata, tensors, &ranges), order })
}

fn check_names(path: &Path, tensors: &[(&str, &TensorType)]) -> Result<(), CheckpointError> {
    let mut seen = std::collections::HashSet::new();
    for &(name, _) in tensors {
        let why = match name {
            METADATA_KEY => "reserved in this format",
            _ if !seen.insert(name) => "used twice",
            _ => continue,
        };
        return Err(CheckpointError::BadName { path: path.to_path_buf(), tensor: name.to_string(), why });
    }
    Ok(())
}

fn encode(metadata: &[(&str, &str)], tensors: &[(&str, &TensorType)], ranges: &[Range<usize>]) -> Vec<u8> {
    let mut json = serde_json::Map::new();
    if !metadata.is_empty() {
        let pairs: serde_json::Map<_, _> =
            metadata.iter().map(|(k, v)| (k.to_string(), (*v).into())).collect();
        json.insert(METADATA_KEY.to_string(), pairs.into());
    }
    for ((name, ty), range) in tensors.iter().zip(ranges) {
        let info = serde_json::json!({
            "dtype": file_name_of(ty.dtype),
            "shape": ty.shape,
            "data_offsets": [range.start, range.end],
        });
        json.insert(name.to_string(), info);
    }
    let mut json = serde_json::Value::Object(json).to_string().into_bytes();
    // Spaces after the JSON keep the data aligned to 8 bytes; the format allows them.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.append(&mut json);
    head
}

/// The header as JSON gives it, in order.
#[derive(Default)]
struct RawHeader {
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Keeps the order of the tensors and refuses a name that comes twice.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of named tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut raw = RawHeader::default();
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let at = |e: A::Error| de::Error::custom(format!("`{name}`: {e}"));
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format!("`{name}` is described twice")));
            }
            if name == METADATA_KEY {
                raw.metadata = Some(map.next_value().map_err(at)?);
            } else {
                let tensor = map.next_value().map_err(at)?;
                raw.tensors.push((name, tensor));
            }
        }
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str, data_bytes: u64) -> String {
        let error = Header::parse(Path::new("x"), json.as_bytes(), data_bytes).unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    fn one(dtype: &str, shape: &str, offsets: &str) -> String {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    }

    #[test]
    fn every_element_type_has_its_row() {
        assert_eq!(NAMES.map(|row| row.0), DType::ALL);
        assert!(DType::ALL.iter().all(|&d| !file_name_of(d).is_empty()));
    }

    #[test]
    fn the_header_is_padded_so_that_data_starts_at_a_multiple_of_eight() {
        let ty = TensorType::new(DType::F32, [2]);
        let head = layout(Path::new("x"), &[("k", "v")], &[("w", &ty)]).unwrap().head;
        assert_eq!(head.len() % 8, 0);
        assert_eq!(u64::from_le_bytes(head[..8].try_into().unwrap()) as usize, head.len() - 8);
    }

    #[test]
    fn wide_elements_come_first_in_the_data_and_order_stays_in_the_header() {
        let (narrow, wide) = (TensorType::new(DType::Pred, [3]), TensorType::new(DType::F64, [1]));
        let layout = layout(Path::new("x"), &[], &[("a", &narrow), ("b", &wide)]).unwrap();
        assert_eq!(layout.order, [1, 0]);
        let header = Header::parse(Path::new("x"), &layout.head[8..], 11).unwrap();
        assert_eq!(header.entries[0].range, 8..11);
        assert_eq!(header.entries[1].range, 0..8);
        assert_eq!(header.entries[0].name, "a");
    }

    #[test]
    fn each_fault_is_told_with_tensor_expectation_and_finding() {
        let cases = [
            (one("F8_E4M3", "[4]", "[0,4]"), 4, "unknown element type `F8_E4M3`, expected one of BOOL, I8"),
            (one("F32", "[4]", "[0,4]"), 4, "f32[4] has 16 bytes, its offsets 0..4 span another number"),
            (one("F32", "[4]", "[16,0]"), 16, "its offsets 16..0"),
            (
                one("F32", "[4]", "[4,20]"),
                20,
                "expected data at offset 0, where the tensor before ends, found 4",
            ),
            (one("F32", "[4]", "[0,16]"), 12, "`w` ends at offset 16, the file holds 12 bytes"),
            (one("F32", "[4]", "[0,16]"), 20, "expected 16 bytes of data, found 20"),
            (one("F32", "[9223372036854775807,4,0]", "[0,0]"), 0, "overflows"),
            (one("F32", "[4611686018427387904]", "[0,0]"), 0, "overflows"),
            (one("F32", "[-1]", "[0,4]"), 4, "`w`: invalid value"),
            (r#"{"w":{"dtype":"F32","shape":[]}}"#.into(), 4, "missing field `data_offsets`"),
            ("[]".into(), 0, "expected an object of named tensors"),
            ("{".into(), 0, "EOF"),
        ];
        for (json, data_bytes, part) in cases {
            let message = refusal(&json, data_bytes);
            assert!(message.contains(part), "{json}: {message}");
        }
    }

    #[test]
    fn overlapping_tensors_and_repeated_names_are_refused() {
        let info = r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        assert!(
            refusal(&format!(r#"{{"a":{info},"b":{info}}}"#), 4)
                .contains("tensor `b`: expected data at offset 4")
        );
        assert!(refusal(&format!(r#"{{"a":{info},"a":{info}}}"#), 4).contains("`a` is described twice"));
    }

    #[test]
    fn names_that_cannot_be_written_are_refused() {
        let ty = TensorType::scalar(DType::F32);
        for names in [["a", "a"], ["a", METADATA_KEY]] {
            let refused = layout(Path::new("x"), &[], &names.map(|name| (name, &ty)));
            assert!(matches!(refused, Err(CheckpointError::BadName { .. })));
        }
    }
}
