//! Compiled programs as bytes.

use super::ffi;
use super::plugin::{CallError, Plugin, slice_of};

/// A copy of a program in the plugin's own form.
///
/// # Safety
/// An executable of this plugin.
pub unsafe fn serialize(plugin: &Plugin, executable: *mut ffi::Executable) -> Result<Vec<u8>, CallError> {
    let mut arguments = ffi::ExecutableSerialize { executable, ..Default::default() };
    // SAFETY: the caller's promise; the bytes live until the deleter is called.
    unsafe {
        plugin.call(&mut arguments)?;
        let bytes =
            slice_of(arguments.serialized_bytes.cast::<u8>(), arguments.serialized_bytes_size).to_vec();
        if let Some(delete) = arguments.serialized_executable_deleter {
            delete(arguments.serialized_executable);
        }
        Ok(bytes)
    }
}
