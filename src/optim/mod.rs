//! Update rules of parameters, as operations of the training program.
//!
//! | file | subject |
//! | --- | --- |
//! | `spec` | [`ParamSpec`], [`slots`]: what an optimizer keeps per parameter |
//! | `update` | [`update`]: rate, global norm, then one rule per parameter |
//! | `rows` | a stack row by row, inside the loop that makes its gradients |
//! | `mean_squares` | those of parameters, where an update leaves them for the next |
//! | `adafactor`, `adamw` | the rules |
//! | `schedule` | [`learning_rate`] by step |
//!
//! A device updates what it holds of each tensor; means over axes that are split are summed over the devices, so that the
//! numbers are those of the whole tensor. All arithmetic is in float32. Per tensor there are a few reductions, then one elementwise expression that a compiler
//! makes one pass over memory.

mod adafactor;
mod adamw;
mod mean_squares;
mod rows;
mod schedule;
mod spec;
mod update;

pub use mean_squares::{mean_squares, take_mean_squares};
pub use schedule::learning_rate;
pub use spec::{ParamSpec, Slot, slots};
pub use update::{Context, State, Update, update};

#[cfg(test)]
mod tests;
