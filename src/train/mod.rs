//! Running programs: a session on a device, the training loop, generation.

mod generate;
mod session;

pub use generate::{GenerateError, Generator, Sampling};
pub use session::{Named, Session, SessionError};
