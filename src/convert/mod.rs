//! Checkpoints of Hugging Face `transformers`, in both directions.
//!
//! | file | subject |
//! | --- | --- |
//! | `import`, `export` | a folder there to a checkpoint here, and back |
//! | `families` | which models there are |
//! | `t5`, `causal` | settings and names of T5 and Switch Transformers / of Mixtral and DeepSeek-V3 |
//! | `rope` | settings of rotary positions |
//! | `plan` | which part of which tensor holds the same numbers on either side |
//! | `settings` | reading and writing `config.json` |
//! | `weights` | one or many safetensors files as one set of names |
//! | `copy` | element types and transposition, block by block |
//! | `origin` | what an imported checkpoint remembers of where it came from |
//! | `error` | [`ConvertError`], and every [`Problem`] of a folder at once |
//!
//! Weights are mapped and written in pieces; no tensor is ever held whole.

mod causal;
mod copy;
mod error;
mod export;
mod families;
mod import;
mod origin;
mod plan;
mod rope;
mod settings;
mod t5;
mod weights;

pub use copy::Float;
pub use error::{ConvertError, Problem};
pub use export::{Exported, Options, export};
pub use import::{Imported, import};
