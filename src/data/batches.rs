//! Training batches, made ahead on background threads.

use super::corpus::Inner;
use super::error::DataError;
use super::example::Truncated;
use super::position::Position;
use super::random::{Purpose, rng, shuffled};
use super::rows::Rows;
use super::stream::{TokenStream, Window};
use ndarray::Array2;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Batches that wait to be taken.
const BATCHES_AHEAD: usize = 4;
/// Windows that wait to be shuffled; one more is being read, another being given out.
const WINDOWS_AHEAD: usize = 1;

/// Token ids of one step; unused places hold pad (0).
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `s32[sequences, input_length]`; `None` if the objective has targets only.
    pub inputs: Option<Array2<i32>>,
    /// `s32[sequences, target_length]`.
    pub targets: Array2<i32>,
    /// What each place of the targets is, where pairs are joined: 1 the input's, 2 the target's, 0 pad.
    pub roles: Option<Array2<i32>>,
    /// Which example of its row each place belongs to, where rows hold several.
    pub segments: Option<Segments>,
    /// One per row, or more where rows hold several. Rows without any, in the last held-out batch only, are pad.
    pub num_examples: usize,
    /// Of those examples; only pairs have any length.
    pub truncated: Truncated,
    /// The position after this batch, to be stored once the step on it is done; `None` for held-out batches.
    pub position: Option<Position>,
}

/// Numbers of examples, from 1 in each row; 0 is pad. Both sides of an example have the same number.
#[derive(Clone, Debug, PartialEq)]
pub struct Segments {
    /// `s32[sequences, input_length]`; `None` if the objective has targets only.
    pub inputs: Option<Array2<i32>>,
    /// `s32[sequences, target_length]`.
    pub targets: Array2<i32>,
}

/// The endless training batches from a [`Position`] on.
///
/// The same corpus, settings and position always give the same batches. One thread reads and tokenizes windows,
/// another shuffles them and makes batches. An error of either comes as an item, after which the iterator ends.
/// Dropping it stops both threads.
pub struct Batches {
    receiver: Option<Receiver<Result<Batch, DataError>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    position: Position,
}

impl Batches {
    pub(super) fn start(corpus: Arc<Inner>, position: Position) -> Result<Self, DataError> {
        let stream = corpus.stream(position.start)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (window_sender, windows) = sync_channel(WINDOWS_AHEAD);
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let (first, stop_reader) = (position.window, Arc::clone(&stop));
        let rows = Rows::new(&corpus.shape, corpus.spec.sequences);
        let assembler = Assembler { corpus, rows, position: position.clone(), sender };
        // Owns the threads from the first on, so that a failure to start the second stops it.
        let mut batches = Self { receiver: Some(receiver), stop, threads: vec![], position };
        batches.spawn("data reader", move || read_windows(stream, first, &window_sender, &stop_reader))?;
        batches.spawn("data batches", move || assembler.run(&windows))?;
        Ok(batches)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), DataError> {
        let thread = Builder::new().name(name.into()).spawn(work);
        self.threads.push(thread.map_err(|source| DataError::Thread { source })?);
        Ok(())
    }

    /// The position after the last batch that was taken.
    pub fn position(&self) -> &Position {
        &self.position
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        // A thread that panicked leaves a closed channel without an error in it.
        let item = self.receiver.as_ref()?.recv().unwrap_or(Err(DataError::Stopped));
        match &item {
            Ok(batch) => {
                if let Some(position) = &batch.position {
                    self.position.clone_from(position);
                }
            }
            Err(_) => self.receiver = None,
        }
        Some(item)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A closed channel wakes a thread that waits to send: first the batches, then the reader.
        self.receiver = None;
        for thread in self.threads.drain(..).rev() {
            let _ = thread.join(); // its panic was printed, and reported as an item
        }
    }
}

type WindowItem = Result<Window, DataError>;

fn read_windows(mut stream: TokenStream, first: u64, sender: &SyncSender<WindowItem>, stop: &AtomicBool) {
    for number in first.. {
        let Some(window) = stream.window(number, stop).transpose() else { return };
        let failed = window.is_err();
        if sender.send(window).is_err() || failed {
            return;
        }
    }
}

struct Assembler {
    corpus: Arc<Inner>,
    rows: Rows,
    position: Position,
    sender: SyncSender<Result<Batch, DataError>>,
}

impl Assembler {
    fn run(mut self, windows: &Receiver<WindowItem>) {
        for window in windows {
            let sent = window.and_then(|window| self.give_out(&window));
            match sent {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _ = self.sender.send(Err(error)); // nobody listens if this fails
                    return;
                }
            }
        }
    }

    /// Sends the batches that `window` completes and keeps the rest in `rows`; `false` once nobody listens.
    fn give_out(&mut self, window: &Window) -> Result<bool, DataError> {
        let seed = self.corpus.spec.seed;
        let length = window.examples.len();
        let taken = if window.number == self.position.window { self.position.taken } else { 0 };
        let skip = usize::try_from(taken).ok().filter(|&skip| skip <= length).ok_or_else(|| {
            DataError::BadPosition { field: "taken", expected: format!("at most {length}"), found: taken }
        })?;
        let order = shuffled(&mut rng(seed, Purpose::Window, window.number, 0), length);
        for (place, index) in order.into_iter().enumerate().skip(skip) {
            let noise = rng(seed, Purpose::Noise, window.number, index as u64);
            let example = self.corpus.shape.example(&window.examples[index], noise, &self.corpus.tokenizer);
            if !self.rows.accepts(&example) && !self.send(window, place) {
                return Ok(false);
            }
            self.rows.push(example);
            if self.rows.is_full() && !self.send(window, place + 1) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends the batch that ends after `taken` examples of `window`; `false` if nobody listens.
    fn send(&mut self, window: &Window, taken: usize) -> bool {
        let mut batch = self.rows.take();
        let position = &mut self.position;
        position.examples += batch.num_examples as u64;
        (position.start, position.window, position.taken) = if taken < window.examples.len() {
            (window.start, window.number, taken as u64)
        } else {
            (window.end, window.number + 1, 0)
        };
        batch.position = Some(position.clone());
        self.sender.send(Ok(batch)).is_ok()
    }
}
