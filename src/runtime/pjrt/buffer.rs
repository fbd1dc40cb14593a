//! Values on a plugin's devices.

use super::client::{Client, failed};
use super::ffi;
use super::plugin::{CallError, Plugin};
use crate::ir::{Literal, TensorType};
use crate::runtime::{Buffer, PendingLiteral, RuntimeError};
use std::sync::Arc;

const DOWNLOAD: &str = "copying a value from the device";

/// A value; dropping it frees the memory.
pub(super) struct PluginBuffer {
    client: Arc<Client>,
    pub(super) handle: *mut ffi::Buffer,
    ty: TensorType,
    device: usize,
}

// SAFETY: the functions of a plugin may be called from any thread; the handle is never written.
unsafe impl Send for PluginBuffer {}
// SAFETY: as above.
unsafe impl Sync for PluginBuffer {}

impl PluginBuffer {
    pub fn new(client: Arc<Client>, handle: *mut ffi::Buffer, ty: TensorType, device: usize) -> Self {
        Self { client, handle, ty, device }
    }

    pub fn belongs_to(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    fn start_copy(&self) -> Result<Copy, RuntimeError> {
        let order: Vec<i64> = (0..self.ty.rank() as i64).rev().collect();
        let layout = ffi::MemoryLayout::dense(&order);
        let mut arguments =
            ffi::BufferToHostBuffer { src: self.handle, host_layout: &layout, ..Default::default() };
        // SAFETY: without a destination the size is asked for. The layout lives until the call returns.
        unsafe { self.client.plugin.call(&mut arguments) }.map_err(failed(DOWNLOAD))?;
        let expected = self.ty.size_bytes();
        if arguments.dst_size != expected {
            let message = format!("{} has {expected} bytes, the device has {}", self.ty, arguments.dst_size);
            return Err(RuntimeError::Runtime { action: DOWNLOAD, message });
        }
        let mut bytes = vec![0u8; expected];
        // An empty vector's pointer is not null, so this is no question for the size.
        arguments.dst = bytes.as_mut_ptr().cast();
        // SAFETY: the destination has room, and stays in place until the event is done: see `Copy`.
        unsafe { self.client.plugin.call(&mut arguments) }.map_err(failed(DOWNLOAD))?;
        Ok(Copy { event: Event::new(self.client.plugin, arguments.event), bytes, ty: self.ty.clone() })
    }
}

impl Drop for PluginBuffer {
    fn drop(&mut self) {
        let mut arguments = ffi::BufferDestroy { buffer: self.handle, ..Default::default() };
        // SAFETY: this buffer, which nothing else refers to any more.
        let _ = unsafe { self.client.plugin.call(&mut arguments) };
    }
}

impl Buffer for PluginBuffer {
    fn ty(&self) -> &TensorType {
        &self.ty
    }

    fn device(&self) -> usize {
        self.device
    }

    fn download(&self) -> Result<Literal, RuntimeError> {
        Box::new(self.start_copy()?).wait()
    }

    fn start_download(&self) -> Result<Box<dyn PendingLiteral>, RuntimeError> {
        Ok(Box::new(self.start_copy()?))
    }
}

/// A copy under way. The event is waited for before the bytes are freed, whatever happens.
struct Copy {
    event: Event,
    bytes: Vec<u8>,
    ty: TensorType,
}

impl PendingLiteral for Copy {
    fn wait(self: Box<Self>) -> Result<Literal, RuntimeError> {
        let Copy { mut event, bytes, ty } = *self;
        event.wait().map_err(failed(DOWNLOAD))?;
        Literal::from_bytes(ty, bytes)
            .map_err(|e| RuntimeError::Runtime { action: DOWNLOAD, message: e.to_string() })
    }
}

/// The end of some asynchronous work. Dropping it waits.
pub(super) struct Event {
    plugin: &'static Plugin,
    handle: *mut ffi::Event,
    waited: bool,
}

// SAFETY: an event may be waited for on any thread.
unsafe impl Send for Event {}

impl Event {
    pub fn new(plugin: &'static Plugin, handle: *mut ffi::Event) -> Self {
        Self { plugin, handle, waited: handle.is_null() }
    }

    /// Blocks until the work is done. Errors: those of the work.
    pub fn wait(&mut self) -> Result<(), CallError> {
        if std::mem::replace(&mut self.waited, true) {
            return Ok(());
        }
        // SAFETY: this event.
        unsafe { self.plugin.call(&mut ffi::EventAwait { event: self.handle, ..Default::default() }) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: this event, or null, which is allowed.
        let _ =
            unsafe { self.plugin.call(&mut ffi::EventDestroy { event: self.handle, ..Default::default() }) };
    }
}

/// Copies a value to a device.
pub(super) fn upload(
    client: &Client,
    value: &Literal,
    device: *mut ffi::Device,
) -> Result<*mut ffi::Buffer, CallError> {
    let dims: Vec<i64> = value.ty().shape.iter().map(|&d| d as i64).collect();
    let mut arguments = ffi::ClientBufferFromHostBuffer {
        client: client.handle,
        data: value.bytes().as_ptr().cast(),
        r#type: ffi::buffer_type(value.ty().dtype),
        dims: dims.as_ptr(),
        num_dims: dims.len(),
        host_buffer_semantics: ffi::IMMUTABLE_ONLY_DURING_CALL,
        device,
        ..Default::default()
    };
    // SAFETY: the bytes have this type and shape, row-major; they are read during the call only.
    unsafe { client.plugin.call(&mut arguments) }?;
    // The copy is made already, so the event has nothing to say.
    drop(Event::new(client.plugin, arguments.done_with_host_buffer));
    Ok(arguments.buffer)
}
