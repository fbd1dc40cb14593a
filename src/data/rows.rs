//! Lays examples into the rows of a batch.

use super::batches::Batch;
use super::example::{Example, ExampleShape, Truncated};
use super::tokenizer::PAD;
use ndarray::{Array2, ArrayViewMut1};

/// A batch in the making: one example per row.
pub(super) struct Rows {
    sequences: usize,
    input_length: Option<usize>,
    target_length: usize,
    examples: Vec<Example>,
}

impl Rows {
    pub(super) fn new(shape: &ExampleShape, sequences: usize) -> Self {
        let (input_length, target_length) = (shape.input_length, shape.target_length);
        Self { sequences, input_length, target_length, examples: vec![] }
    }

    /// Whether the batch is complete.
    pub(super) fn is_full(&self) -> bool {
        self.examples.len() == self.sequences
    }

    pub(super) fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Adds an example to a batch that is not full.
    pub(super) fn push(&mut self, example: Example) {
        self.examples.push(example);
    }

    /// The batch, without position; the next one begins. Rows without example and places beyond a row's tokens are [`PAD`].
    pub(super) fn take(&mut self) -> Batch {
        let blank = |length| Array2::from_elem((self.sequences, length), PAD as i32);
        let mut inputs = self.input_length.map(blank);
        let mut targets = blank(self.target_length);
        let mut truncated = Truncated::default();
        let num_examples = self.examples.len();
        for (row, example) in self.examples.drain(..).enumerate() {
            if let Some(inputs) = &mut inputs {
                fill(inputs.row_mut(row), &example.inputs);
            }
            fill(targets.row_mut(row), &example.targets);
            truncated += example.truncated;
        }
        Batch { inputs, targets, num_examples, truncated, position: None }
    }
}

fn fill(row: ArrayViewMut1<i32>, ids: &[u32]) {
    for (place, &id) in row.into_iter().zip(ids) {
        *place = id as i32; // ids are below a vocabulary size that fits i32
    }
}
