//! Checkpoints of Hugging Face: what comes in, goes out as it was, and gives the numbers that `transformers` gives.
//!
//! The files in `tests/fixtures` are made by `tests/oracles/parity/fixtures.py`; `docs/parity.md` has more cases, by
//! `make parity`. Everything here runs on the evaluator in plain Rust.

mod fixtures;
mod folder;
mod known;
mod network;
mod refusals;
mod round_trip;
