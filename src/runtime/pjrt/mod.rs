//! Any runtime behind the PJRT C API: a shared library with one entry point, loaded when it is needed.
//!
//! | file | subject |
//! | --- | --- |
//! | `ffi` | the structs of the header |
//! | `plugin` | loading, versions, calls and their errors |
//! | `client`, `buffer`, `executable` | a plugin's devices as a [`Backend`](super::Backend) |
//! | `topology` | compiling for devices that are not there |
//! | `options`, `named`, `serialized` | what goes in and comes out: options, attributes, programs as bytes |
//! | `cache` | compiled programs on disk |

mod buffer;
mod cache;
mod client;
mod executable;
mod ffi;
#[cfg(test)]
mod ffi_tests;
mod named;
mod options;
mod plugin;
mod serialized;
mod topology;

pub use cache::VARIABLE as CACHE_VARIABLE;
pub use client::{PluginBackend, open};
pub use named::{Attribute, Attributes};
pub use plugin::{CallError, Code, Plugin, load};
pub use topology::{CompiledMemory, CompiledProgram, Topology};
