//! Sparsely activated Transformers as static-shape XLA programs.
//!
//! One direction, one door per room:
//!
//! ```text
//! config -> model (IR) -> grad + optim -> step -> hlo -> artifact -> runtime
//! ```
//!
//! `compile` and `inspect` need no native library: emission is plain Rust.

pub mod aot;
pub mod artifact;
pub mod build;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod convert;
pub mod data;
pub mod eval;
pub mod grad;
pub mod hlo;
pub mod infer;
pub mod inspect;
pub mod ir;
pub mod layers;
pub mod lower;
pub mod measure;
pub mod model;
pub mod moe;
pub mod optim;
pub mod report;
pub mod runtime;
pub mod shard;
pub mod step;
pub mod train;
