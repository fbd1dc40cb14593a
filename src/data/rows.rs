//! Lays examples into the rows of a batch.

use super::batches::{Batch, Segments};
use super::example::{Example, ExampleShape, Truncated};
use super::tokenizer::PAD;
use ndarray::{Array2, ArrayViewMut1, s};

/// A batch in the making: one example per row, or as many as fit.
pub(super) struct Rows {
    sequences: usize,
    input_length: Option<usize>,
    target_length: usize,
    joined: bool,
    packing: bool,
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    examples: Vec<Example>,
    /// Tokens of all examples.
    inputs: usize,
    targets: usize,
}

impl Rows {
    pub(super) fn new(shape: &ExampleShape, sequences: usize) -> Self {
        let &ExampleShape { input_length, target_length, joined, packing, .. } = shape;
        Self { sequences, input_length, target_length, joined, packing, rows: vec![] }
    }

    /// Whether the batch is complete whatever comes next.
    pub(super) fn is_full(&self) -> bool {
        !self.packing && self.rows.len() == self.sequences
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the batch has room for the example; an empty one always has.
    pub(super) fn accepts(&self, example: &Example) -> bool {
        self.rows.len() < self.sequences || self.packed_place(example).is_some()
    }

    /// Adds an example that is accepted: to the first row that has room, else to a new one.
    pub(super) fn push(&mut self, example: Example) {
        let place = self.packed_place(&example).unwrap_or_else(|| {
            self.rows.push(Row::default());
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        row.inputs += example.inputs.len();
        row.targets += example.targets.len();
        row.examples.push(example);
    }

    /// The first begun row that has room.
    fn packed_place(&self, example: &Example) -> Option<usize> {
        let room = |row: &Row| {
            row.inputs + example.inputs.len() <= self.input_length.unwrap_or(0)
                && row.targets + example.targets.len() <= self.target_length
        };
        if self.packing { self.rows.iter().position(room) } else { None }
    }

    /// The batch, without position; the next one begins. Places beyond a row's tokens are [`PAD`].
    pub(super) fn take(&mut self) -> Batch {
        let blank = |length| Array2::from_elem((self.sequences, length), PAD as i32);
        let mut inputs = self.input_length.map(blank);
        let mut targets = blank(self.target_length);
        let mut roles = self.joined.then(|| targets.clone());
        let mut segments =
            self.packing.then(|| Segments { inputs: inputs.clone(), targets: targets.clone() });
        let (mut num_examples, mut truncated) = (0, Truncated::default());
        for (number, row) in self.rows.drain(..).enumerate() {
            let numbers = segments.as_mut();
            let (input_numbers, target_numbers) =
                numbers.map_or((None, None), |s| (s.inputs.as_mut(), Some(&mut s.targets)));
            let sides = row.examples.iter().map(|example| example.inputs.as_slice());
            if let Some(inputs) = &mut inputs {
                fill(inputs.row_mut(number), input_numbers.map(|all| all.row_mut(number)), sides);
            }
            let sides = row.examples.iter().map(|example| example.targets.as_slice());
            fill(targets.row_mut(number), target_numbers.map(|all| all.row_mut(number)), sides);
            if let Some(roles) = &mut roles {
                mark(roles.row_mut(number), &row.examples);
            }
            num_examples += row.examples.len();
            row.examples.iter().for_each(|example| truncated += example.truncated);
        }
        Batch { inputs, targets, roles, segments, num_examples, truncated, position: None }
    }
}

/// Writes one side of the examples one after the other, and their numbers from 1.
fn fill<'a>(
    mut row: ArrayViewMut1<i32>,
    mut numbers: Option<ArrayViewMut1<i32>>,
    sides: impl Iterator<Item = &'a [u32]>,
) {
    let mut start = 0;
    for (number, ids) in (1..).zip(sides) {
        let end = (start + ids.len()).min(row.len());
        for (place, &id) in row.slice_mut(s![start..end]).iter_mut().zip(ids) {
            *place = id as i32; // ids are below a vocabulary size that fits i32
        }
        if let Some(numbers) = &mut numbers {
            numbers.slice_mut(s![start..end]).fill(number);
        }
        start = end;
    }
}

/// Marks tokens of inputs with 1 and those of targets with 2.
fn mark(mut row: ArrayViewMut1<i32>, examples: &[Example]) {
    let mut start = 0;
    for example in examples {
        let end = (start + example.targets.len()).min(row.len());
        let middle = (start + example.prompt).min(end);
        row.slice_mut(s![start..middle]).fill(1);
        row.slice_mut(s![middle..end]).fill(2);
        start = end;
    }
}
