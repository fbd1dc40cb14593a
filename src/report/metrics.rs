//! Metrics as JSON lines: one record per step.

use super::ReportError;
use serde::de::Error as _;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Names that the picture and the table look for.
pub mod names {
    /// Value: training loss of the step, in nats per token.
    pub const LOSS: &str = "loss";
    /// Value: loss on held-out text, in nats per token; only at steps that evaluate.
    pub const HELD_OUT_LOSS: &str = "held_out_loss";
    /// Value: pairs of texts in the step's batch, and how many of their inputs and targets were cut to a row.
    pub const EXAMPLES: &str = "examples";
    pub const TRUNCATED_INPUTS: &str = "truncated_inputs";
    pub const TRUNCATED_TARGETS: &str = "truncated_targets";
    /// Value: share of tokens that found no room in their expert, 0 to 1, over all MoE layers.
    pub const DROPPED_SHARE: &str = "dropped_share";
    /// End of the name of a layer vector: share of tokens (or their count) per expert, such as `encoder/block_1/expert_load`.
    pub const EXPERT_LOAD: &str = "expert_load";
}

const STEP: &str = "step";

/// The metrics of one step: values and vectors by name, in the order given.
///
/// In JSON it is one flat object: `{"step":3,"loss":5.5,"encoder/block_1/expert_load":[0.25,0.75]}`. JSON has no non-finite
/// numbers, so they stand there as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`; `null` is read as NaN.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub step: u64,
    pub values: Vec<(String, f64)>,
    /// One vector per layer and quantity, such as the load of each expert.
    pub layers: Vec<(String, Vec<f64>)>,
}

impl Record {
    /// A record of this step without metrics.
    pub fn new(step: u64) -> Self {
        Self { step, ..Self::default() }
    }

    /// Adds a value.
    pub fn push(&mut self, name: impl Into<String>, value: f64) -> &mut Self {
        self.values.push((name.into(), value));
        self
    }

    /// Adds a vector.
    pub fn push_layer(&mut self, name: impl Into<String>, values: Vec<f64>) -> &mut Self {
        self.layers.push((name.into(), values));
        self
    }

    /// The value of this name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(found, _)| found == name).map(|(_, value)| *value)
    }

    /// The vector of this name.
    pub fn layer(&self, name: &str) -> Option<&[f64]> {
        self.layers.iter().find(|(found, _)| found == name).map(|(_, values)| values.as_slice())
    }

    /// The record as one line of JSON, without its end of line.
    ///
    /// Errors: [`ReportError::BadName`] for a name used twice or called `step`.
    pub fn to_json(&self) -> Result<String, ReportError> {
        let mut json = Map::new();
        json.insert(STEP.to_string(), self.step.into());
        let values = self.values.iter().map(|(name, value)| (name, number(*value)));
        let layers = self
            .layers
            .iter()
            .map(|(name, values)| (name, Value::Array(values.iter().map(|&value| number(value)).collect())));
        for (name, value) in values.chain(layers) {
            if json.insert(name.clone(), value).is_some() {
                let why = if name == STEP { "reserved for the step" } else { "used twice" };
                return Err(ReportError::BadName { step: self.step, name: name.clone(), why });
            }
        }
        Ok(Value::Object(json).to_string())
    }

    /// Reads a line of JSON. Errors: where it is no object of a step, numbers and arrays of numbers.
    pub fn from_json(line: &[u8]) -> Result<Self, serde_json::Error> {
        let json: Map<String, Value> = serde_json::from_slice(line)?;
        let step = json.get(STEP).and_then(Value::as_u64);
        let step = step.ok_or_else(|| serde_json::Error::custom("expected a whole number `step`"))?;
        let mut record = Record::new(step);
        for (name, value) in json.into_iter().filter(|(name, _)| name != STEP) {
            let bad =
                || serde_json::Error::custom(format!("`{name}`: expected a number or an array of them"));
            if let Value::Array(items) = &value {
                let numbers: Option<Vec<f64>> = items.iter().map(parse_number).collect();
                let numbers = numbers.ok_or_else(bad)?;
                record.layers.push((name, numbers));
            } else {
                let number = parse_number(&value).ok_or_else(bad)?;
                record.values.push((name, number));
            }
        }
        Ok(record)
    }
}

fn number(value: f64) -> Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => number.into(),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn parse_number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(f64::NAN),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Appends records to a file; each is written through at once, so that a killed process loses no finished step.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
    last_step: Option<u64>,
}

impl MetricsWriter {
    /// Starts an empty file; one that exists is emptied. Errors: [`ReportError::Io`].
    pub fn create(path: &Path) -> Result<Self, ReportError> {
        let file = File::create(path).map_err(ReportError::io("create", path))?;
        Ok(Self { path: path.to_path_buf(), file, last_step: None })
    }

    /// Opens the file of a run that goes on after `step`: records of later steps and a half-written last line are dropped,
    /// so that the file has each step once. A missing file is started.
    ///
    /// Errors: [`ReportError::Io`]; [`ReportError::Line`] or [`ReportError::StepOrder`] for a damaged line before that.
    pub fn resume(path: &Path, step: u64) -> Result<Self, ReportError> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).append(true).create(true).open(path);
        let file = opened.map_err(ReportError::io("open", path))?;
        let (mut kept_bytes, mut last_step) = (0, None);
        let mut lines = Lines::new(path, &file);
        while let Some((record, end)) = lines.next()? {
            if record.step > step {
                break;
            }
            (kept_bytes, last_step) = (end, Some(record.step));
        }
        file.set_len(kept_bytes).map_err(ReportError::io("truncate", path))?;
        Ok(Self { path: path.to_path_buf(), file, last_step })
    }

    /// Appends a record.
    ///
    /// Errors: [`ReportError::StepNotNew`] unless its step is above the last one; [`ReportError::BadName`]; [`ReportError::Io`].
    pub fn write(&mut self, record: &Record) -> Result<(), ReportError> {
        if let Some(last) = self.last_step.filter(|&last| record.step <= last) {
            return Err(ReportError::StepNotNew { last, found: record.step });
        }
        let line = record.to_json()? + "\n";
        self.file.write_all(line.as_bytes()).map_err(ReportError::io("write", &self.path))?;
        self.last_step = Some(record.step);
        Ok(())
    }
}

/// Reads all records of a file; a half-written last line is dropped.
///
/// Errors: [`ReportError::Io`], [`ReportError::Line`], [`ReportError::StepOrder`].
pub fn read_metrics(path: &Path) -> Result<Vec<Record>, ReportError> {
    let file = File::open(path).map_err(ReportError::io("open", path))?;
    let mut lines = Lines::new(path, &file);
    let mut records = Vec::new();
    while let Some((record, _)) = lines.next()? {
        records.push(record);
    }
    Ok(records)
}

/// The complete lines of a file as records with their end in bytes.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<&'a File>,
    buffer: Vec<u8>,
    line: usize,
    end: u64,
    last_step: Option<u64>,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: &'a File) -> Self {
        let reader = BufReader::new(file);
        Self { path, reader, buffer: Vec::new(), line: 0, end: 0, last_step: None }
    }

    fn next(&mut self) -> Result<Option<(Record, u64)>, ReportError> {
        self.buffer.clear();
        let read = self.reader.read_until(b'\n', &mut self.buffer);
        let read = read.map_err(ReportError::io("read", self.path))?;
        // A line without its end was being written when the process was killed.
        if self.buffer.last() != Some(&b'\n') {
            return Ok(None);
        }
        self.line += 1;
        self.end += read as u64;
        let (path, line) = (self.path.to_path_buf(), self.line);
        let record = match Record::from_json(&self.buffer) {
            Ok(record) => record,
            Err(source) => return Err(ReportError::Line { path, line, source }),
        };
        if let Some(last) = self.last_step.filter(|&last| record.step <= last) {
            return Err(ReportError::StepOrder { path, line, last, found: record.step });
        }
        self.last_step = Some(record.step);
        Ok(Some((record, self.end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        let mut record = Record::new(step);
        record.push(names::LOSS, 5.5).push_layer("block_1/expert_load", vec![0.25, 0.75]);
        record
    }

    fn steps(path: &Path) -> Vec<u64> {
        read_metrics(path).unwrap().iter().map(|record| record.step).collect()
    }

    /// A file with steps 1 to 4 in a folder that lives as long as the first value.
    fn four_steps() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        (1..=4).for_each(|step| writer.write(&record(step)).unwrap());
        (folder, path)
    }

    #[test]
    fn a_record_is_one_flat_line() {
        let expected = r#"{"step":3,"loss":5.5,"block_1/expert_load":[0.25,0.75]}"#;
        assert_eq!(record(3).to_json().unwrap(), expected);
        assert_eq!(Record::from_json(expected.as_bytes()).unwrap(), record(3));
    }

    #[test]
    fn numbers_that_are_not_finite_survive() {
        let mut record = Record::new(1);
        record.push("a", f64::NAN).push("b", f64::INFINITY).push_layer("c", vec![f64::NEG_INFINITY]);
        let json = record.to_json().unwrap();
        assert_eq!(json, r#"{"step":1,"a":"NaN","b":"Infinity","c":["-Infinity"]}"#);
        let back = Record::from_json(json.as_bytes()).unwrap();
        assert!(back.value("a").unwrap().is_nan());
        assert_eq!(back.value("b"), Some(f64::INFINITY));
        assert_eq!(back.layer("c"), Some([f64::NEG_INFINITY].as_slice()));
    }

    #[test]
    fn names_used_twice_and_the_name_step_are_refused() {
        for name in ["loss", "step"] {
            let mut record = record(1);
            record.push(name, 1.0);
            assert!(matches!(record.to_json(), Err(ReportError::BadName { .. })));
        }
    }

    #[test]
    fn resuming_drops_later_steps_and_a_half_written_line() {
        let (_folder, path) = four_steps();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(br#"{"step":5,"lo"#);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(steps(&path), [1, 2, 3, 4]);
        let mut writer = MetricsWriter::resume(&path, 2).unwrap();
        writer.write(&record(3)).unwrap();
        assert_eq!(steps(&path), [1, 2, 3]);
        drop(MetricsWriter::resume(&path, 9).unwrap());
        assert_eq!(steps(&path), [1, 2, 3]);
        drop(MetricsWriter::resume(&path, 0).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn resuming_without_a_file_starts_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        MetricsWriter::resume(&path, 7).unwrap().write(&record(8)).unwrap();
        assert_eq!(steps(&path), [8]);
    }

    #[test]
    fn a_step_is_written_once() {
        let (_folder, path) = four_steps();
        let mut writer = MetricsWriter::resume(&path, 4).unwrap();
        let message = writer.write(&record(4)).unwrap_err().to_string();
        assert_eq!(message, "metrics: expected a step above 4, the last one written, found 4");
    }

    #[test]
    fn damaged_lines_are_told_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let cases = [
            ("{\"step\":1}\nnot json\n", "line 2: expected a record"),
            ("{\"step\":2}\n{\"step\":2}\n", "line 2: expected a step above 2, found 2"),
            ("{\"loss\":2}\n", "line 1: expected a record"),
            ("{\"step\":1,\"loss\":true}\n", "line 1: expected a record"),
        ];
        for (text, part) in cases {
            std::fs::write(&path, text).unwrap();
            let message = read_metrics(&path).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
            assert!(MetricsWriter::resume(&path, 9).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
