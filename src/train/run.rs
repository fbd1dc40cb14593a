//! The training loop: batches in, metrics and checkpoints out.

use super::evaluate::{self, HeldOutText};
use super::generate::GenerateError;
use super::initial::{self, Initial, InitialError};
use super::session::{Named, Session, SessionError};
use super::teacher::{self, Opened, Teacher, TeacherError};
use super::{data_spec, report::Reporter};
use crate::artifact::Artifact;
use crate::checkpoint::{self, Checkpoint, CheckpointError, Meta, Saved, TensorFile};
use crate::config::{Objective, RunConfig};
use crate::data::{Batch, Corpus, DataError, DataSpec, Position, Segments};
use crate::ir::Literal;
use crate::report::{Record, ReportError, names};
use crate::runtime::Backend;
use crate::step::DISTILL_STEP;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Raw tokens from which the unigram entropy is measured.
const ENTROPY_TOKENS: u64 = 4 << 20;
/// The program of an evaluation.
const EVAL_STEP: &str = "eval_step";

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Text files and folders.
    pub data: Vec<PathBuf>,
    /// Text to evaluate on, instead of a share of the data; then all of that is trained on.
    pub held_out: Vec<PathBuf>,
    /// First parameters, where they are not random.
    pub initial: Option<Initial>,
    /// The teacher, if the configuration has one.
    pub teacher: Option<Teacher>,
    /// Steps of the whole run, those before a resume included.
    pub steps: u64,
    /// The run's folder.
    pub out: PathBuf,
    /// Go on from the newest checkpoint of the folder.
    pub resume: bool,
    /// Steps between checkpoints; one more is written at the end.
    pub checkpoint_every: u64,
    /// Newest checkpoints that stay.
    pub keep_checkpoints: usize,
    /// Steps between evaluations on held-out text; one more is made at the end.
    pub eval_every: u64,
    /// Batches of an evaluation.
    pub eval_batches: usize,
}

/// A run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("`{}` holds a run already; give --resume to go on with it, or another folder", path.display())]
    Exists { path: PathBuf },
    #[error("`{}` holds no checkpoint to resume from; start without --resume", path.display())]
    NothingToResume { path: PathBuf },
    #[error("the checkpoint `{}` belongs to another configuration (digest {found}, this one is {expected}); \
             give the configuration of that run, or its artifact", path.display())]
    OtherConfig { path: PathBuf, expected: String, found: String },
    #[error("the checkpoint `{}` is at step {found}, beyond the {steps} steps asked for; ask for at least {found}", path.display())]
    Beyond { path: PathBuf, found: u64, steps: u64 },
    #[error("the data position in `{}` cannot be read: {problem}", path.display())]
    BadPosition { path: PathBuf, problem: String },
    #[error("the {what} of step {step} is {value}; {kept}; resume from it with a lower learning rate")]
    NonFinite { step: u64, what: &'static str, value: f64, kept: String },
    #[error(
        "after step {step}, `{tensor}` of the state holds numbers that are not finite, so it is not saved; {kept}; resume \
             from it with a lower learning rate"
    )]
    NonFiniteState { step: u64, tensor: String, kept: String },
    #[error("no text is held out; set `data.held_out` above 0, give more text, or text of its own")]
    NoHeldOut,
    #[error("the data ended at step {step}")]
    DataEnded { step: u64 },
    #[error("the first step is {first}, beyond the {steps} steps asked for; ask for more than {first}")]
    NoSteps { first: u64, steps: u64 },
    #[error(transparent)]
    Initial(#[from] InitialError),
    #[error(transparent)]
    Teacher(Box<TeacherError>),
    #[error(transparent)]
    Generate(Box<GenerateError>),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Artifact(#[from] crate::artifact::ArtifactError),
}

impl From<TeacherError> for TrainError {
    fn from(error: TeacherError) -> Self {
        Self::Teacher(Box::new(error))
    }
}

impl From<GenerateError> for TrainError {
    fn from(error: GenerateError) -> Self {
        Self::Generate(Box::new(error))
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps done in all.
    pub step: u64,
    /// Stopped before the last step, by request.
    pub interrupted: bool,
    /// The last checkpoint and the digest of its state.
    pub checkpoint: PathBuf,
    pub state_digest: String,
    /// The table for people.
    pub summary: String,
}

/// Trains until `options.steps`, or until `stop` is set (then after the step at hand); the state is saved either way.
///
/// Says on standard error what the compiler is at work on, then how the steps go.
pub fn train(
    backend: Box<dyn Backend>,
    artifact: Artifact,
    options: &Options,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let config = artifact.manifest.config.clone();
    let (corpus, held_out) = open_data(&config, options)?;
    let checkpoints = options.out.join("checkpoints");
    let resumed = find_start(options, &checkpoints, &artifact)?;
    let mut session = Session::new(backend, artifact);
    let teacher = teacher::open(&config, options.teacher.as_ref())?;
    let teacher_digest = teacher.as_ref().map(Opened::digest).transpose()?;
    if let (Some(teacher), Some(digest), Some(checkpoint)) = (&teacher, &teacher_digest, &resumed) {
        teacher.expect_of(checkpoint, digest)?;
    }
    let step_program = if teacher.is_some() { DISTILL_STEP } else { "train_step" };
    session.require(&[step_program, EVAL_STEP])?;
    let initial = match (&options.initial, &resumed) {
        (Some(initial), None) => Some((initial.step, initial::open(&session, &initial.checkpoint)?)),
        _ => None,
    };
    keep_artifact(session.artifact(), &options.out.join("artifact"))?;
    let (start, position) = match &resumed {
        Some(checkpoint) => (checkpoint.meta().step, restore(&mut session, checkpoint)?),
        None => {
            let first = first_state(&mut session, &initial, options.steps)?;
            if let (Some(teacher), None) = (&teacher, &initial) {
                teacher.copy(&mut session, &config.model)?;
            }
            (first, corpus.start())
        }
    };
    if let Some(teacher) = &teacher {
        teacher.upload(&mut session)?;
    }
    for program in [step_program, EVAL_STEP] {
        // Compiling cannot be stopped, but what is not needed any more need not be started.
        if start < options.steps && !stop.load(Ordering::SeqCst) {
            note(&format!("compiling {program} ..."));
            session.prepare(program)?;
        }
    }
    let entropy = corpus.unigram_entropy(ENTROPY_TOKENS)?;
    let reporter = Reporter::start(options, &session, (start, resumed.is_some()), entropy)?;
    let saved = resumed.as_ref().map(|checkpoint| (start, as_saved(checkpoint)));
    let origin = match (&resumed, &initial) {
        (Some(checkpoint), _) => checkpoint.meta().origin.clone(),
        (None, Some((_, file))) => checkpoint::origin(file),
        (None, None) => None,
    };
    let step = start;
    let run = Run {
        session,
        step_program,
        corpus,
        held_out,
        options,
        checkpoints,
        reporter,
        position,
        teacher_digest,
        origin,
        step,
        saved,
    };
    run.finish(stop)
}

/// The text to train on and the text to evaluate on.
fn open_data(config: &RunConfig, options: &Options) -> Result<(Corpus, HeldOutText), TrainError> {
    let spec = data_spec(config, &options.data, config.batch.sequences);
    if options.held_out.is_empty() {
        let corpus = Corpus::open(&spec)?;
        return Ok((corpus.clone(), HeldOutText::Share(corpus)));
    }
    let corpus = Corpus::open(&DataSpec { held_out: 0.0, ..spec.clone() })?;
    let whole = Corpus::open(&DataSpec { paths: options.held_out.clone(), held_out: 0.0, ..spec })?;
    Ok((corpus, HeldOutText::Whole(whole)))
}

/// Makes the first state, with the parameters and at the step of `initial`; returns the step.
fn first_state(
    session: &mut Session,
    initial: &Option<(u64, TensorFile)>,
    steps: u64,
) -> Result<u64, TrainError> {
    session.require(&["init"])?;
    let first = initial.as_ref().map_or(0, |(step, _)| *step);
    let step = i32::try_from(first).ok().filter(|_| first < steps);
    let step = step.ok_or(TrainError::NoSteps { first, steps })?;
    note("compiling init ...");
    session.init(session.artifact().manifest.config.seed)?;
    if let Some((_, file)) = initial {
        initial::copy(session, file)?;
        session.set_state("step", &Literal::scalar(step))?;
    }
    Ok(first)
}

/// Writes the artifact beside the checkpoints, unless it stands there already: a run that is killed while it starts must not
/// lose the artifact it may have been started from.
fn keep_artifact(artifact: &Artifact, folder: &Path) -> Result<(), TrainError> {
    match Artifact::read(folder) {
        Ok(found) if found.manifest == artifact.manifest => Ok(()),
        _ => Ok(artifact.write(folder)?),
    }
}

/// What [`checkpoint::save`] told when it wrote this one.
fn as_saved(checkpoint: &Checkpoint) -> Saved {
    let (path, digest) = (checkpoint.path().to_path_buf(), checkpoint.recorded_digest().to_string());
    Saved { path, size_bytes: checkpoint.size_bytes(), digest }
}

/// A line on standard error. That it is closed must not end the run.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The checkpoint to go on from. A folder with one is not overwritten without being asked to go on.
fn find_start(
    options: &Options,
    folder: &Path,
    artifact: &Artifact,
) -> Result<Option<Checkpoint>, TrainError> {
    let latest = checkpoint::latest(folder)?;
    for problem in &latest.skipped {
        note(&format!("passed over: {problem}"));
    }
    let found = latest.checkpoint;
    match (found, options.resume) {
        (None, false) => Ok(None),
        (None, true) => Err(TrainError::NothingToResume { path: options.out.clone() }),
        (Some(_), false) => Err(TrainError::Exists { path: options.out.clone() }),
        (Some(checkpoint), true) => {
            let (found, expected) = (&checkpoint.meta().config_digest, &artifact.manifest.config_digest);
            if found != expected {
                let (path, expected, found) = (checkpoint.path().into(), expected.clone(), found.clone());
                return Err(TrainError::OtherConfig { path, expected, found });
            }
            let found = checkpoint.meta().step;
            if found > options.steps {
                let (path, steps) = (checkpoint.path().into(), options.steps);
                return Err(TrainError::Beyond { path, found, steps });
            }
            Ok(Some(checkpoint))
        }
    }
}

fn restore(session: &mut Session, checkpoint: &Checkpoint) -> Result<Position, TrainError> {
    let layout = session.state_layout();
    checkpoint.expect(&layout)?;
    for (name, _) in &layout {
        session.set_state(name, &checkpoint.tensor(name)?)?;
    }
    let position = &checkpoint.meta().data_position;
    serde_json::from_str(position)
        .map_err(|e| TrainError::BadPosition { path: checkpoint.path().into(), problem: e.to_string() })
}

/// A run under way.
struct Run<'a> {
    session: Session,
    step_program: &'static str,
    corpus: Corpus,
    held_out: HeldOutText,
    options: &'a Options,
    checkpoints: PathBuf,
    reporter: Reporter,
    position: Position,
    teacher_digest: Option<String>,
    /// Where imported parameters came from.
    origin: Option<String>,
    step: u64,
    /// The newest checkpoint and its step.
    saved: Option<(u64, Saved)>,
}

impl Run<'_> {
    fn finish(mut self, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        let mut batches = self.corpus.train(&self.position)?;
        while self.step < self.options.steps && !stop.load(Ordering::SeqCst) {
            let batch = batches.next().ok_or(TrainError::DataEnded { step: self.step })??;
            let mut record = self.step(batch)?;
            let last = self.step == self.options.steps || stop.load(Ordering::SeqCst);
            if last || self.step.is_multiple_of(self.options.eval_every.max(1)) {
                let batches = self.options.eval_batches;
                let loss = evaluate::held_out(&mut self.session, &self.held_out, batches)?;
                record.push(names::HELD_OUT_LOSS, loss.cross_entropy);
                record.push("held_out_accuracy", loss.accuracy);
                if self.has_pairs() {
                    record.push("held_out_exact_match", loss.exact_match);
                }
            }
            self.reporter.record(&record)?;
            if !last && self.step.is_multiple_of(self.options.checkpoint_every.max(1)) {
                self.save()?;
            }
        }
        drop(batches);
        let saved = match self.saved.take() {
            Some((step, saved)) if step == self.step => saved,
            _ => self.save()?,
        };
        let summary = self.reporter.finish(&self.session, self.step)?;
        Ok(Outcome {
            step: self.step,
            interrupted: self.step < self.options.steps,
            checkpoint: saved.path,
            state_digest: saved.digest,
            summary,
        })
    }

    /// One step on one batch.
    fn step(&mut self, batch: Batch) -> Result<Record, TrainError> {
        let start = Instant::now();
        let position = batch.position.clone();
        let (examples, truncated) = (batch.num_examples, batch.truncated);
        let outputs = self.session.run(self.step_program, batch_inputs(batch)?)?;
        self.step += 1;
        if let Some(position) = position {
            self.position = position;
        }
        let mut record = self.reporter.step_record(self.step, &outputs, start.elapsed());
        if self.has_pairs() {
            record.push(names::EXAMPLES, examples as f64);
            record.push(names::TRUNCATED_INPUTS, truncated.inputs as f64);
            record.push(names::TRUNCATED_TARGETS, truncated.targets as f64);
        }
        for (what, name) in [("loss", names::LOSS), ("gradient norm", "grad_norm")] {
            let value = record.value(name).unwrap_or(f64::NAN);
            if !value.is_finite() {
                self.reporter.record(&record)?;
                let kept = self.last_good()?;
                return Err(TrainError::NonFinite { step: self.step, what, value, kept });
            }
        }
        Ok(record)
    }

    /// Whether examples are sequences of any length, each a target of its own.
    fn has_pairs(&self) -> bool {
        let objective = &self.session.artifact().manifest.config.data.objective;
        matches!(objective, Objective::TextToText { .. })
    }

    /// What is left of a run that diverged.
    fn last_good(&self) -> Result<String, TrainError> {
        Ok(match checkpoint::latest(&self.checkpoints)?.checkpoint {
            Some(found) => format!("the last good checkpoint is `{}`", found.path().display()),
            None => "no checkpoint was written before".into(),
        })
    }

    /// Saves the state. One that is not finite is refused: an update can overflow a step before the loss shows it.
    fn save(&mut self) -> Result<Saved, TrainError> {
        let manifest = &self.session.artifact().manifest;
        let position = serde_json::to_string(&self.position).map_err(|e| TrainError::BadPosition {
            path: self.checkpoints.clone(),
            problem: e.to_string(),
        })?;
        let meta = Meta {
            step: self.step,
            seed: manifest.config.seed,
            config_digest: manifest.config_digest.clone(),
            data_position: position,
            teacher_digest: self.teacher_digest.clone(),
            origin: self.origin.clone(),
        };
        let layout = self.session.state_layout();
        let session = &self.session;
        let fetch = |i: usize| session.finite_state(&layout[i].0);
        let saved = checkpoint::save(&self.checkpoints, &meta, &layout, fetch);
        let saved = saved.map_err(|error| self.not_saved(error))?;
        checkpoint::prune(&self.checkpoints, self.step, self.options.keep_checkpoints)?;
        // As a run does that goes on from here: sums of another program may differ in their last bits.
        self.session.forget_derived();
        self.saved = Some((self.step, saved.clone()));
        Ok(saved)
    }

    /// The error of a save; of a state that is not finite it names what is left.
    fn not_saved(&self, error: CheckpointError) -> TrainError {
        let CheckpointError::Fetch { source, .. } = &error else { return error.into() };
        let Some(SessionError::NotFinite { name }) = source.downcast_ref() else { return error.into() };
        match self.last_good() {
            Ok(kept) => TrainError::NonFiniteState { step: self.step, tensor: name.clone(), kept },
            Err(error) => error,
        }
    }
}

/// The named inputs of a program for this batch.
pub fn batch_inputs(batch: Batch) -> Result<Named, SessionError> {
    let mut named =
        vec![("inputs", batch.inputs), ("targets", Some(batch.targets)), ("target_roles", batch.roles)];
    if let Some(Segments { inputs, targets }) = batch.segments {
        named.extend([("input_segments", inputs), ("target_segments", Some(targets))]);
    }
    let mut out = vec![];
    for (name, tokens) in named {
        let Some(tokens) = tokens else { continue };
        let shape = tokens.shape().to_vec();
        let data: Vec<i32> = tokens.into_iter().collect();
        let literal = Literal::new(shape, &data).map_err(|e| SessionError::Input(e.to_string()))?;
        out.push((name.to_string(), literal));
    }
    Ok(out)
}
