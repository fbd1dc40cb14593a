//! Run configurations: JSON read into types, resolved, then validated.
//!
//! | file | subject |
//! | --- | --- |
//! | `run` | [`RunConfig`], its reading, printing and digest |
//! | `model`, `attention` | the network / its attention and positions |
//! | `side`, `moe`, `segments` | its two stacks / their sparse layers / which blocks a stack has |
//! | `router`, `capacity` | how tokens choose experts / how many an expert takes, and from which group |
//! | `mesh`, `target` | [`Mesh`]: devices in a grid with named axes / the compiler that graphs are shaped for |
//! | `training`, `data`, `distillation` | batch, loss, optimizer, schedule / objective and tokenizer / the teacher |
//! | `parameters` | parameter counts by formula |
//! | `json`, `schema`, `overrides` | trees without duplicate keys / known keys / `key=value` |
//! | `validate`, `sizes` | impossible values / element counts that would overflow |
//! | `error` | [`ConfigError`] |
//!
//! Every field has a default, so a file states only what differs. `docs/config.md` lists all of them.

mod attention;
mod capacity;
mod data;
mod distillation;
mod error;
mod json;
mod mesh;
mod model;
mod moe;
mod overrides;
mod parameters;
mod router;
mod run;
mod schema;
mod segments;
mod side;
mod sizes;
mod target;
mod training;
mod validate;

pub use attention::{
    Attention, GroupedQuery, Latent, Pairing, Positions, RelativeBuckets, Rotary, ScoreScale, Yarn,
};
pub use capacity::{Capacity, Group, Groups, Rounding, Slots};
pub use data::{
    BYTES_VOCABULARY, DataConfig, NUM_SENTINELS, Objective, SpanLengths, TokenizerSpec,
    span_corruption_lengths,
};
pub use distillation::Distillation;
pub use error::ConfigError;
pub use mesh::Mesh;
pub use model::{
    Architecture, AttentionWidths, ComputeDtype, DecoderInputs, FeedForward, ModelConfig, Padding, Remat,
};
pub use moe::{Aggregation, Dispatch, MoeConfig, Spacing, Sublayers};
pub use router::{Exploration, Placement, Priority, Router, Second};
pub use run::RunConfig;
pub use segments::{Place, Segment};
pub use side::Side;
pub use target::Target;
pub use training::{BatchConfig, LossConfig, OptimizerConfig, Schedule};
