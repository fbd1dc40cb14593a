//! What a run tells: metrics files while it goes, a table and a picture at the end.

use super::run::{Options, TrainError};
use super::session::{Named, Session};
use crate::artifact::Manifest;
use crate::config::Side;
use crate::report::{
    EventWriter, LayerRow, MetricsWriter, PictureOptions, Progress, Record, Status, Summary, bytes_text,
    names, peak_resident_bytes, read_metrics, write_picture,
};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Writes records to all places, and remembers what the summary needs.
pub struct Reporter {
    metrics_path: PathBuf,
    picture_path: PathBuf,
    title: String,
    layer_names: Vec<String>,
    metrics: MetricsWriter,
    events: EventWriter,
    progress: Progress,
    unigram_entropy: f64,
    started: Instant,
    /// Seconds spent in steps and tokens trained on since the start.
    busy: Duration,
    tokens: f64,
    tokens_per_step: f64,
}

impl Reporter {
    /// Opens the files of a run that starts after a step; where it goes on, records of later steps are dropped.
    pub fn start(
        options: &Options,
        session: &Session,
        (start, resumed): (u64, bool),
        unigram_entropy: f64,
    ) -> Result<Self, TrainError> {
        let manifest = &session.artifact().manifest;
        let metrics_path = options.out.join("metrics.jsonl");
        let metrics = match resumed {
            false => MetricsWriter::create(&metrics_path)?,
            true => MetricsWriter::resume(&metrics_path, start)?,
        };
        let batch = &manifest.config.batch;
        let encoder = if manifest.config.model.num_encoder_layers > 0 { batch.input_length } else { 0 };
        Ok(Self {
            metrics_path,
            picture_path: options.out.join("run.svg"),
            title: manifest.config.name.clone(),
            layer_names: layer_names(manifest),
            metrics,
            events: EventWriter::create(&options.out, start)?,
            progress: Progress::new(start, options.steps),
            unigram_entropy,
            started: Instant::now(),
            busy: Duration::ZERO,
            tokens: 0.0,
            tokens_per_step: (batch.sequences * (encoder + batch.target_length)) as f64,
        })
    }

    /// The record of a training step from the program's outputs.
    pub fn step_record(&mut self, step: u64, outputs: &Named, took: Duration) -> Record {
        self.busy += took;
        self.tokens += self.tokens_per_step;
        let mut record = Record::new(step);
        for (name, value) in outputs {
            let values = value.to_f64();
            match (name.strip_prefix("layers/"), value.ty().rank()) {
                (Some("expert_load"), 2) => self.push_loads(&mut record, &values),
                (Some("dropped"), 1) => {
                    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
                    record.push(names::DROPPED_SHARE, mean);
                    record.push_layer("dropped", values);
                }
                (Some(name), 1) => drop(record.push_layer(name, values)),
                _ => drop(record.push(name.clone(), values.first().copied().unwrap_or(f64::NAN))),
            }
        }
        record.push("tokens_per_second", self.tokens_per_step / took.as_secs_f64().max(1e-9));
        record
    }

    fn push_loads(&self, record: &mut Record, values: &[f64]) {
        let experts = values.len() / self.layer_names.len().max(1);
        for (layer, load) in self.layer_names.iter().zip(values.chunks(experts.max(1))) {
            record.push_layer(format!("{layer}/{}", names::EXPERT_LOAD), load.to_vec());
        }
    }

    /// Writes a record everywhere.
    pub fn record(&mut self, record: &Record) -> Result<(), TrainError> {
        self.metrics.write(record)?;
        self.events.record(record)?;
        self.progress.update(&Status {
            step: record.step,
            loss: record.value(names::LOSS).unwrap_or(f64::NAN),
            tokens_per_second: self.tokens / self.busy.as_secs_f64().max(1e-9),
            dropped_share: record.value(names::DROPPED_SHARE).unwrap_or(0.0),
        });
        Ok(())
    }

    /// Draws the picture and returns the table.
    pub fn finish(self, session: &Session, step: u64) -> Result<String, TrainError> {
        self.progress.finish();
        let records = read_metrics(&self.metrics_path)?;
        let options = PictureOptions {
            title: format!("{}: {step} steps", self.title),
            unigram_entropy: Some(self.unigram_entropy),
            ..PictureOptions::default()
        };
        if !records.is_empty() {
            write_picture(&self.metrics_path, &self.picture_path, &options)?;
        }
        let manifest = &session.artifact().manifest;
        let nats = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4} nats/token"));
        let find = |name: &str, from_end: bool| {
            let mut values = records.iter().filter_map(|r| r.value(name));
            if from_end { values.next_back() } else { values.next() }
        };
        let mut table = Summary::default();
        table.row("steps", step.to_string());
        table.row("parameters", manifest.num_parameters.to_string());
        table.row("first loss", nats(find(names::LOSS, false)));
        table.row("last loss", nats(find(names::LOSS, true)));
        table.row("held-out loss", nats(find(names::HELD_OUT_LOSS, true)));
        table.row("unigram entropy of the text", nats(Some(self.unigram_entropy)));
        let percent = |x: f64| format!("{:.1} %", 100.0 * x);
        table.row("held-out accuracy", find("held_out_accuracy", true).map_or("-".into(), percent));
        if let Some(exact) = find("held_out_exact_match", true) {
            table.row("held-out exact match", percent(exact));
        }
        if find(names::EXAMPLES, true).is_some() {
            table.row("truncated", truncated_text(&records));
        }
        table.row("tokens/s", format!("{:.0}", self.tokens / self.busy.as_secs_f64().max(1e-9)));
        table.row("time compiling", format!("{:.1} s", session.compile_time().as_secs_f64()));
        table.row("time training", format!("{:.1} s", self.started.elapsed().as_secs_f64()));
        if let Some(peak) = peak_resident_bytes() {
            table.row("peak memory of the process", bytes_text(peak));
            table.row("training state", bytes_text(manifest.state_bytes));
            let ratio = peak as f64 / manifest.state_bytes.max(1) as f64;
            table.row("peak memory / state", format!("{ratio:.2}"));
        }
        if let Some(peak) = session.device_memory().and_then(|memory| memory.peak_bytes) {
            table.row("peak memory of the device", bytes_text(peak));
        }
        table.row("artifact", self.metrics_path.with_file_name("artifact").display().to_string());
        table.row("picture", self.picture_path.display().to_string());
        // Without a step there is nothing to tell of the layers.
        for (layer, name) in self.layer_names.iter().enumerate().filter(|_| !records.is_empty()) {
            table.layer(layer_row(&records, name, layer));
        }
        Ok(table.render())
    }
}

/// How many of all examples were cut.
fn truncated_text(records: &[Record]) -> String {
    let sum = |name: &str| records.iter().filter_map(|record| record.value(name)).sum::<f64>();
    let [examples, inputs, targets] =
        [names::EXAMPLES, names::TRUNCATED_INPUTS, names::TRUNCATED_TARGETS].map(sum);
    format!("{inputs} inputs and {targets} targets of {examples} examples")
}

/// Means over the last tenth of the run.
fn layer_row(records: &[Record], name: &str, layer: usize) -> LayerRow {
    let tail = &records[records.len() - records.len().div_ceil(10)..];
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let dropped = tail.iter().filter_map(|r| r.layer("dropped")?.get(layer).copied()).collect();
    let loads: Vec<&[f64]> =
        tail.iter().filter_map(|r| r.layer(&format!("{name}/{}", names::EXPERT_LOAD))).collect();
    let experts = loads.first().map_or(0, |l| l.len());
    let load = |e: usize| mean(loads.iter().filter_map(|l| l.get(e).copied()).collect());
    LayerRow {
        name: name.into(),
        dropped_share: mean(dropped),
        expert_load: (0..experts).map(load).collect(),
    }
}

/// `encoder/1`, `encoder/3`, ..: the numbers of the sparse blocks, encoder first; `encoder/1/attention` for experts there.
fn layer_names(manifest: &Manifest) -> Vec<String> {
    let model = &manifest.config.model;
    let sparse = |side: Side| {
        let places = model.places(side).into_iter().enumerate();
        let sparse = places.filter(|(_, place)| place.sparse).map(|(layer, _)| layer);
        sparse.flat_map(move |layer| {
            let name = move |scope: &&str| match *scope {
                "moe" => format!("{}/{layer}", side.name()),
                other => format!("{}/{layer}/{other}", side.name()),
            };
            model.moe.sublayers.scopes().iter().map(name)
        })
    };
    Side::BOTH.into_iter().flat_map(sparse).collect()
}
