//! Named arrays on disk: training checkpoints and plain tensor files, both in the safetensors format.
//!
//! A checkpoint is one file, `step_00001000.safetensors`, that appears whole or not at all: it is written under a
//! temporary name, synced and renamed. Its header holds the tensors in the order of the state, and beside them the step,
//! the seed, the position in the data, the digest of the config and the digest of the state.
//!
//! - [`save`] writes a checkpoint, fetching one tensor at a time; [`prune`] removes old ones.
//! - [`latest`] finds the newest sound checkpoint of a folder; [`Checkpoint::open`] opens a given one.
//! - [`save_streamed`] and [`write_streamed`] write tensors that come in pieces, so that none is held whole.
//! - [`write_tensors`] and [`read_tensors`] handle files of named tensors and nothing else.
//!
//! Deliberately absent: pickles, and any conversion between element types.

mod digest;
mod error;
mod file;
mod header;
mod store;
mod write;

pub use digest::{StateDigest, digest};
pub use error::CheckpointError;
pub use file::{TensorFile, read_tensors};
pub use store::{Checkpoint, Latest, Meta, Saved, latest, origin, prune, save, save_streamed};
pub use write::{Sink, write_streamed, write_tensors};
