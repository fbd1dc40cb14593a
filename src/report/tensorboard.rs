//! Event files for TensorBoard: scalars only.
//!
//! A file is a sequence of records, each `length u64, masked CRC of it u32, bytes, masked CRC of them u32`, all little-endian;
//! the bytes are `Event` messages. Sources: TensorFlow `record_writer.h`, `event.proto`, `summary.proto`.

use super::{Record, ReportError};
use prost::Message;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const FILE_PREFIX: &str = "events.out.tfevents.";
const FILE_SUFFIX: &str = ".switchyard";
const FILE_VERSION: &str = "brain.Event:2";
const SESSION_START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Writes one event file; every call reaches the file at once.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts a new event file in `folder`, which is made where it is missing. The run goes on after `step` (0 for a new run):
    /// TensorBoard then forgets what older files of the folder say about later steps.
    ///
    /// Errors: [`ReportError::Io`].
    pub fn create(folder: &Path, step: u64) -> Result<Self, ReportError> {
        std::fs::create_dir_all(folder).map_err(ReportError::io("create", folder))?;
        let seconds = (now() as u64).max(newest(folder)?.saturating_add(1));
        let (path, file) = create_new(folder, seconds)?;
        let mut writer = Self { path, file };
        writer.event(0, What::FileVersion(FILE_VERSION.to_string()))?;
        if step > 0 {
            writer.event(step.saturating_add(1), What::SessionLog(SessionLog { status: SESSION_START }))?;
        }
        Ok(writer)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes named scalars of a step; they are rounded to float32. Errors: [`ReportError::Io`].
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), ReportError> {
        let scalar = |(tag, value): (&str, f64)| SummaryValue {
            tag: tag.to_string(),
            simple_value: Some(value as f32),
        };
        let value = values.into_iter().map(scalar).collect();
        self.event(step, What::Summary(Summary { value }))
    }

    /// Writes the values of a record, and of each of its vectors the least and the greatest element.
    ///
    /// Errors: [`ReportError::Io`].
    pub fn record(&mut self, record: &Record) -> Result<(), ReportError> {
        let mut scalars: Vec<(String, f64)> = record.values.clone();
        for (name, values) in &record.layers {
            if let Some(least) = values.iter().copied().reduce(f64::min) {
                scalars.push((format!("{name}/min"), least));
                scalars.push((format!("{name}/max"), values.iter().copied().fold(least, f64::max)));
            }
        }
        self.scalars(record.step, scalars.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    fn event(&mut self, step: u64, what: What) -> Result<(), ReportError> {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let event = Event { wall_time: now(), step, what: Some(what) };
        let framed = frame(&event.encode_to_vec());
        self.file.write_all(&framed).map_err(ReportError::io("write", &self.path))
    }
}

/// A record: length and bytes, each with its masked CRC.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(bytes.len() + 16);
    framed.extend(length);
    framed.extend(masked_crc(&length).to_le_bytes());
    framed.extend(bytes);
    framed.extend(masked_crc(bytes).to_le_bytes());
    framed
}

/// CRC-32C, rotated right by 15 bits, plus a constant: so that a CRC of data that holds CRCs is not weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The time in the name of the newest event file: TensorBoard reads files by name, so the next must be later even if two runs
/// start in one second or the clock was set back.
fn newest(folder: &Path) -> Result<u64, ReportError> {
    let entries = std::fs::read_dir(folder).map_err(ReportError::io("list", folder))?;
    let time = |name: &str| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX)?.parse().ok();
    let mut newest = 0;
    for entry in entries {
        let name = entry.map_err(ReportError::io("list", folder))?.file_name();
        newest = newest.max(name.to_str().and_then(time).unwrap_or(0));
    }
    Ok(newest)
}

/// Makes a file that was not there, so that no other writer's file is overwritten.
fn create_new(folder: &Path, seconds: u64) -> Result<(PathBuf, File), ReportError> {
    let mut time = seconds;
    loop {
        let path = folder.join(format!("{FILE_PREFIX}{time:010}{FILE_SUFFIX}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && time < seconds + 100 => time += 1,
            opened => return Ok((path.clone(), opened.map_err(ReportError::io("create", &path))?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the records of a file apart and checks both CRCs of each.
    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
            events.push(Event::decode(&rest[12..12 + length]).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    #[test]
    fn crc_and_mask_have_their_known_values() {
        // RFC 3720, appendix B.4: 32 bytes of zeros have the CRC-32C 0x8a9136aa.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // Rotated right by 15: 0x6d551522; plus 0xa282ead8: 0x0fd7fffa.
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa);
    }

    #[test]
    fn a_file_starts_with_its_version_and_holds_the_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&folder.path().join("events"), 0).unwrap();
        writer.scalars(7, [("loss", 2.5), ("lr", 0.0)]).unwrap();
        let name = writer.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents.") && name.ends_with(".switchyard"));
        let events = events(writer.path());
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".into())));
        let value = |tag: &str, value| SummaryValue { tag: tag.into(), simple_value: Some(value) };
        let value = vec![value("loss", 2.5), value("lr", 0.0)];
        assert_eq!((events[1].step, events.len()), (7, 2));
        assert_eq!(events[1].what, Some(What::Summary(Summary { value })));
    }

    #[test]
    fn a_resumed_run_writes_a_later_file_that_voids_later_steps() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventWriter::create(folder.path(), 0).unwrap();
        let second = EventWriter::create(folder.path(), 20).unwrap();
        assert!(second.path() > first.path());
        let start = &events(second.path())[1];
        assert_eq!(start.step, 21);
        assert_eq!(start.what, Some(What::SessionLog(SessionLog { status: 1 })));
    }

    #[test]
    fn vectors_are_told_by_their_extremes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 0).unwrap();
        let mut record = Record::new(1);
        record.push("loss", 1.0).push_layer("load", vec![0.5, 0.125, 0.375]).push_layer("none", vec![]);
        writer.record(&record).unwrap();
        let events = events(writer.path());
        let Some(What::Summary(summary)) = &events[1].what else { panic!("no summary") };
        let told: Vec<_> = summary.value.iter().map(|v| (v.tag.as_str(), v.simple_value.unwrap())).collect();
        assert_eq!(told, [("loss", 1.0), ("load/min", 0.125), ("load/max", 0.5)]);
    }

    #[test]
    fn a_scalar_event_has_the_bytes_of_the_protocol() {
        let value = SummaryValue { tag: "a".into(), simple_value: Some(1.0) };
        let what = Some(What::Summary(Summary { value: vec![value] }));
        let event = Event { wall_time: 0.0, step: 3, what };
        // step: field 2 varint; summary: field 5, 10 bytes; value: field 1, 8 bytes; tag: field 1; simple_value: field 2, 1.0f32.
        let expected = [0x10, 3, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0x3f];
        assert_eq!(event.encode_to_vec(), expected);
    }
}
