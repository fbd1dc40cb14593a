//! Cuts files into segments: the unit that is held out, reordered each epoch, and read at random.
//!
//! A segment is found from sizes alone, so opening a corpus reads no text and a position is a small number. Text is
//! cut after a line end near each multiple of `segment_bytes` (else at white space, else between characters); of a
//! `.jsonl` file a segment owns the lines that start in it. Segments of a file never overlap and leave nothing out.

use super::error::DataError;
use super::files::{Format, SourceFile};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

const MIN_SEGMENT_BYTES: u64 = 1 << 10;
const MAX_SEGMENT_BYTES: u64 = 1 << 18;
/// How far a cut may lie behind the multiple it belongs to.
const MAX_SLACK_BYTES: u64 = 4096;

/// The segments of all files, numbered in the order of the files.
#[derive(Debug)]
pub(super) struct Segments {
    files: Vec<SourceFile>,
    first: Vec<u64>, // per file
    count: u64,
    segment_bytes: u64,
}

/// A line of a `.jsonl` file; other fields are allowed and ignored.
#[derive(Deserialize)]
struct TextRecord {
    text: String,
}

/// The fields of a line that hold a pair of texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairFields<'a> {
    pub(super) input: &'a str,
    pub(super) target: &'a str,
}

impl Segments {
    /// `bytes` is the size of all files: small corpora get small segments, so that a share of them can be held out.
    pub(super) fn new(files: Vec<SourceFile>, bytes: u64) -> Self {
        let segment_bytes = previous_power_of_two(bytes / 256).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        let mut count = 0u64;
        let mut first = Vec::with_capacity(files.len());
        for file in &files {
            first.push(count);
            count += file.size.div_ceil(segment_bytes);
        }
        Self { files, first, count, segment_bytes }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub(super) fn num_files(&self) -> usize {
        self.files.len()
    }

    /// Calls `document` with each document (or part of one) in a segment, in order; empty ones are left out.
    ///
    /// Errors: [`DataError::Io`] also for a file that shrank; [`DataError::JsonLine`]; those of `document`.
    pub(super) fn read(
        &self,
        segment: u64,
        mut document: impl FnMut(&str) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let Some((file, start)) = self.locate(segment) else { return Ok(()) };
        match file.format {
            Format::Text => self.read_text(file, start, &mut document),
            Format::JsonLines => self.read_lines(file, start, |line, at| {
                let expected = || "a JSON object with a string field \"text\"".to_owned();
                let record: TextRecord = serde_json::from_slice(line)
                    .map_err(|source| json_error(file, at, expected(), source))?;
                if record.text.is_empty() { Ok(()) } else { document(&record.text) }
            }),
        }
    }

    /// Calls `pair` with the input and the target of each line of a segment, in order.
    ///
    /// Errors: as [`Segments::read`]; [`DataError::NotJsonLines`] for a file of another format.
    pub(super) fn read_pairs(
        &self,
        segment: u64,
        fields: PairFields,
        mut pair: impl FnMut(&str, &str) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let Some((file, start)) = self.locate(segment) else { return Ok(()) };
        if file.format != Format::JsonLines {
            return Err(DataError::NotJsonLines { path: file.path.clone() });
        }
        self.read_lines(file, start, |line, at| {
            let PairFields { input, target } = fields;
            let expected = || format!("a JSON object with string fields {input:?} and {target:?}");
            let (input, target) =
                parse_pair(line, fields).map_err(|source| json_error(file, at, expected(), source))?;
            pair(&input, &target)
        })
    }

    /// The file of a segment and the byte at which it nominally starts.
    fn locate(&self, segment: u64) -> Option<(&SourceFile, u64)> {
        let owner = self.first.partition_point(|&first| first <= segment).saturating_sub(1);
        let (file, first) = (self.files.get(owner)?, self.first.get(owner)?);
        Some((file, (segment - first) * self.segment_bytes))
    }

    fn read_text(
        &self,
        file: &SourceFile,
        start: u64,
        document: &mut impl FnMut(&str) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let slack = MAX_SLACK_BYTES.min(self.segment_bytes / 2);
        let end = (start + self.segment_bytes).min(file.size);
        let bytes = read_range(file, start, (end + slack).min(file.size))?;
        let from = if start == 0 { 0 } else { cut(&bytes, slack) };
        let nominal = (end - start) as usize;
        let to =
            nominal + if end == file.size { 0 } else { bytes.get(nominal..).map_or(0, |b| cut(b, slack)) };
        let text = String::from_utf8_lossy(bytes.get(from..to).unwrap_or_default());
        if text.is_empty() { Ok(()) } else { document(&text) }
    }

    /// Calls `record` with each line that starts in the segment and is not blank, and its place in the file.
    fn read_lines(
        &self,
        file: &SourceFile,
        start: u64,
        mut record: impl FnMut(&[u8], u64) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let io = |e| DataError::io(&file.path, e);
        let mut reader = BufReader::new(File::open(&file.path).map_err(io)?);
        let end = start + self.segment_bytes;
        let mut at = start;
        if start > 0 {
            // From the byte before, so that a line that starts at `start` is found; no further than this segment.
            at = start - 1;
            reader.seek(SeekFrom::Start(at)).map_err(io)?;
            at += reader.by_ref().take(end - at).skip_until(b'\n').map_err(io)? as u64;
        }
        let mut line = vec![];
        while at < end.min(file.size) {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(io)? as u64;
            if length == 0 {
                return Err(io(shrank()));
            }
            if !line.trim_ascii().is_empty() {
                record(&line, at)?;
            }
            at += length;
        }
        Ok(())
    }
}

fn previous_power_of_two(n: u64) -> u64 {
    n.checked_ilog2().map_or(1, |bits| 1 << bits)
}

fn shrank() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file became shorter while it was in use")
}

fn read_range(file: &SourceFile, start: u64, end: u64) -> Result<Vec<u8>, DataError> {
    let io = |e| DataError::io(&file.path, e);
    let mut reader = File::open(&file.path).map_err(io)?;
    reader.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut bytes = vec![];
    reader.take(end - start).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 == end - start { Ok(bytes) } else { Err(io(shrank())) }
}

/// The offset of the cut among the first `slack` bytes after a multiple of the segment size.
fn cut(bytes: &[u8], slack: u64) -> usize {
    let bytes = &bytes[..bytes.len().min(slack as usize)];
    let after = |found: Option<usize>| found.map(|i| i + 1);
    after(bytes.iter().position(|&b| b == b'\n'))
        .or_else(|| after(bytes.iter().position(u8::is_ascii_whitespace)))
        .or_else(|| bytes.iter().take(4).position(|&b| b & 0xc0 != 0x80)) // not inside a character
        .unwrap_or(0)
}

/// The texts of two fields of a line.
fn parse_pair(line: &[u8], fields: PairFields) -> Result<(String, String), serde_json::Error> {
    let mut object: Map<String, Value> = serde_json::from_slice(line)?;
    let mut take = |name: &str| match object.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(serde_json::Error::custom(format_args!("field {name:?} is no string"))),
        None => Err(serde_json::Error::custom(format_args!("there is no field {name:?}"))),
    };
    Ok((take(fields.input)?, take(fields.target)?))
}

/// The error of the line that starts at byte `at`, with its number counted from the start of the file.
fn json_error(file: &SourceFile, at: u64, expected: String, source: serde_json::Error) -> DataError {
    let mut newlines = 0;
    if let Ok(reader) = File::open(&file.path) {
        let mut before = BufReader::new(reader.take(at));
        while before.skip_until(b'\n').is_ok_and(|n| n > 0) {
            newlines += 1;
        }
    }
    DataError::JsonLine { path: file.path.clone(), line: newlines + 1, expected, source }
}

#[cfg(test)]
mod tests {
    use super::super::files::find;
    use super::*;
    use std::error::Error;
    use std::path::PathBuf;

    fn open(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf, Segments) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let files = find(std::slice::from_ref(&path)).unwrap();
        let segments = Segments::new(files.files, files.bytes);
        (folder, path, segments)
    }

    fn all(segments: &Segments) -> Vec<Vec<String>> {
        let read = |segment| {
            let mut documents = vec![];
            segments
                .read(segment, |text| {
                    documents.push(text.to_string());
                    Ok(())
                })
                .unwrap();
            documents
        };
        (0..segments.count()).map(read).collect()
    }

    #[test]
    fn text_is_cut_after_lines_and_nothing_is_lost() {
        let text: String = (0..700).map(|i| format!("line {i}\n")).collect();
        let (_folder, _, segments) = open("a.txt", text.as_bytes());
        let parts: Vec<String> = all(&segments).concat();
        assert!(parts.len() as u64 == segments.count() && parts.len() > 5);
        assert!(parts.iter().all(|part| part.ends_with('\n')));
        assert_eq!(parts.concat(), text);
    }

    #[test]
    fn text_without_lines_or_spaces_is_cut_between_characters() {
        let text = "né".repeat(3000); // 3 bytes each: multiples of 1024 fall inside characters
        let (_folder, _, segments) = open("a.txt", text.as_bytes());
        assert_eq!(all(&segments).concat().concat(), text);
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        let (_folder, _, segments) = open("a.txt", b"a\xff\xfeb");
        assert_eq!(all(&segments), [["a\u{fffd}\u{fffd}b"]]);
    }

    #[test]
    fn json_lines_of_any_length_are_each_read_once() {
        let texts: Vec<String> = (0..40).map(|i| format!("{i} {}", "x".repeat(i * i * 3))).collect();
        let lines: String = texts.iter().map(|t| format!("{{\"id\": 1, \"text\": \"{t}\"}}\n\n")).collect();
        let (_folder, _, segments) = open("a.jsonl", lines.trim_end().as_bytes());
        assert!(segments.count() > 10);
        assert_eq!(all(&segments).concat(), texts);
    }

    #[test]
    fn a_json_line_at_the_very_start_of_a_segment_belongs_to_it() {
        // The first line has 1024 bytes with its line end, so the second starts at a multiple.
        let line = format!("{{\"text\": \"{}\"}}\n", "x".repeat(1024 - 13));
        assert_eq!(line.len(), 1024);
        let (_folder, _, segments) = open("a.jsonl", format!("{line}{{\"text\": \"y\"}}\n").as_bytes());
        let documents = all(&segments);
        assert_eq!((documents.len(), documents[1].as_slice()), (2, ["y".to_string()].as_slice()));
    }

    #[test]
    fn a_malformed_json_line_is_named() {
        let good = format!("{{\"text\": \"{}\"}}\n", "x".repeat(500));
        for bad in ["{\"text\": 1}", "{\"other\": \"x\"}", "not json"] {
            let (_folder, path, segments) =
                open("a.jsonl", format!("{}{bad}\n{good}", good.repeat(6)).as_bytes());
            let errors: Vec<DataError> =
                (0..segments.count()).filter_map(|s| segments.read(s, |_| Ok(())).err()).collect();
            assert_eq!(errors.len(), 1, "{bad}");
            assert_eq!(
                errors[0].to_string(),
                format!(
                    "data: {} line 7: expected a JSON object with a string field \"text\"",
                    path.display()
                )
            );
            assert!(errors[0].source().is_some());
        }
    }

    #[test]
    fn pairs_are_two_fields_of_a_line_in_any_order() {
        let lines = "{\"b\": \"y\", \"n\": 1, \"a\": \"x\"}\n\n{\"a\": \"\", \"b\": \"z\"}\n";
        let (_folder, path, segments) = open("a.jsonl", lines.as_bytes());
        let mut pairs = vec![];
        let fields = PairFields { input: "a", target: "b" };
        let push = |pairs: &mut Vec<_>, a: &str, b: &str| pairs.push((a.to_string(), b.to_string()));
        segments
            .read_pairs(0, fields, |a, b| {
                push(&mut pairs, a, b);
                Ok(())
            })
            .unwrap();
        assert_eq!(pairs, [("x".into(), "y".into()), (String::new(), "z".into())]);
        let other = PairFields { input: "a", target: "n" };
        let error = segments.read_pairs(0, other, |_, _| Ok(())).unwrap_err();
        let expected = "expected a JSON object with string fields \"a\" and \"n\"";
        assert_eq!(error.to_string(), format!("data: {} line 1: {expected}", path.display()));
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("field \"n\" is no string"));
    }

    #[test]
    fn text_without_fields_holds_no_pairs() {
        let (_folder, path, segments) = open("a.txt", b"text");
        let error =
            segments.read_pairs(0, PairFields { input: "a", target: "b" }, |_, _| Ok(())).unwrap_err();
        let expected = "text_to_text reads JSON lines: files whose names end in .jsonl";
        assert_eq!(error.to_string(), format!("data: {}: {expected}", path.display()));
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        for name in ["a.txt", "a.jsonl"] {
            let (_folder, path, segments) = open(name, "{\"text\": \"x\"}\n".repeat(4).as_bytes());
            std::fs::write(&path, "{\"text\": \"x\"}\n").unwrap();
            assert!(matches!(segments.read(0, |_| Ok(())), Err(DataError::Io { .. })), "{name}");
        }
    }

    #[test]
    fn segments_grow_with_the_corpus() {
        let size = |bytes| Segments::new(vec![], bytes).segment_bytes();
        // 1 MiB / 256 = 4 KiB; 1 GiB / 256 = 4 MiB, more than the most.
        assert_eq!((size(0), size(1000), size(1 << 20), size(1 << 30)), (1024, 1024, 4096, 1 << 18));
    }
}
