//! Runs compiled programs: backends, executables and device buffers. The only room with devices.
//!
//! [`Backend`] is the door. `cpu` (feature `cpu`) is the in-process backend through crate `xla`; [`pjrt`] loads any other.
//! [`native`] and [`plugins`] look for libraries on disk without loading any.

mod backend;
mod choice;
#[cfg(feature = "cpu")]
pub mod cpu;
mod error;
pub mod measure;
pub mod native;
pub mod pjrt;
pub mod plugins;
mod signature;

pub use backend::{
    Argument, Backend, Buffer, CompileOptions, Device, DeviceBuffer, DeviceMemory, Executable, PendingLiteral,
};
pub use choice::{MemoryFraction, RuntimeChoice};
pub use error::RuntimeError;
pub use signature::{Parameter, Signature};
