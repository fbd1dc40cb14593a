//! Programs compiled by a plugin.

use super::buffer::PluginBuffer;
use super::client::{Client, failed};
use super::ffi;
use super::plugin::{CallError, slice_of};
use super::serialized::serialize;
use crate::runtime::backend::check_arguments;
use crate::runtime::{Argument, DeviceBuffer, Executable, RuntimeError, Signature};
use std::any::Any;
use std::ptr;
use std::sync::Arc;

/// A program on the first devices of a client.
pub(super) struct PluginExecutable {
    client: Arc<Client>,
    handle: *mut ffi::LoadedExecutable,
    signature: Signature,
    num_replicas: usize,
}

// SAFETY: the functions of a plugin may be called from any thread; the handle is never written.
unsafe impl Send for PluginExecutable {}
// SAFETY: as above.
unsafe impl Sync for PluginExecutable {}

impl PluginExecutable {
    /// Takes over a loaded program.
    ///
    /// Errors: if it returns another number of results than the signature says, or runs on other devices.
    pub fn new(
        client: Arc<Client>,
        handle: *mut ffi::LoadedExecutable,
        signature: Signature,
        num_replicas: usize,
    ) -> Result<Self, RuntimeError> {
        let executable = Self { client, handle, signature, num_replicas };
        let (expected, found) = (executable.signature.results.len(), executable.num_outputs()?);
        if expected != found {
            return Err(RuntimeError::ResultCount { expected, found, types: "unknown".into() });
        }
        let mut list = ffi::LoadedExecutableAddressableDevices { executable: handle, ..Default::default() };
        // SAFETY: this program; the list lives as long as it does.
        let devices = unsafe {
            executable.client.plugin.call(&mut list).map_err(failed(INSPECT))?;
            slice_of(list.addressable_devices, list.num_addressable_devices)
        };
        if devices != &executable.client.devices[..num_replicas] {
            let message = "it does not run on the devices that were asked for".into();
            return Err(RuntimeError::Runtime { action: INSPECT, message });
        }
        Ok(executable)
    }

    /// Results per replica, which the lists for `execute` must have room for.
    fn num_outputs(&self) -> Result<usize, RuntimeError> {
        self.inspect(|executable| {
            let mut outputs = ffi::ExecutableNumOutputs { executable, ..Default::default() };
            // SAFETY: an executable of this plugin.
            unsafe { self.client.plugin.call(&mut outputs) }.map(|()| outputs.num_outputs)
        })
        .map_err(failed(INSPECT))
    }

    /// The program in the plugin's own form.
    pub fn serialize(&self) -> Result<Vec<u8>, CallError> {
        // SAFETY: an executable of this plugin.
        self.inspect(|executable| unsafe { serialize(self.client.plugin, executable) })
    }

    /// Asks something of the compiled program behind the loaded one.
    fn inspect<T>(
        &self,
        ask: impl FnOnce(*mut ffi::Executable) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let plugin = self.client.plugin;
        let mut arguments =
            ffi::LoadedExecutableGetExecutable { loaded_executable: self.handle, ..Default::default() };
        // SAFETY: this program.
        unsafe { plugin.call(&mut arguments) }?;
        let answer = ask(arguments.executable);
        let mut destroyed = ffi::ExecutableDestroy { executable: arguments.executable, ..Default::default() };
        // SAFETY: made above, not used any more.
        let _ = unsafe { plugin.call(&mut destroyed) };
        answer
    }

    /// Checked arguments in, buffers of all replicas out; the arguments must live until it returns.
    fn launch(
        &self,
        arguments: &[Vec<*mut ffi::Buffer>],
        kept: &[i64],
    ) -> Result<Vec<Vec<*mut ffi::Buffer>>, CallError> {
        let inputs: Vec<*const *mut ffi::Buffer> = arguments.iter().map(|list| list.as_ptr()).collect();
        let mut results = vec![vec![ptr::null_mut(); self.signature.results.len()]; self.num_replicas];
        let outputs: Vec<*mut *mut ffi::Buffer> = results.iter_mut().map(|list| list.as_mut_ptr()).collect();
        let options = ffi::ExecuteOptions::keeping(kept);
        let mut call = ffi::LoadedExecutableExecute {
            executable: self.handle,
            options: &options,
            argument_lists: inputs.as_ptr(),
            num_devices: self.num_replicas,
            num_args: self.signature.parameters.len(),
            output_lists: outputs.as_ptr(),
            ..Default::default()
        };
        // SAFETY: lists of the lengths that the program has, by `new` and `check_arguments`.
        unsafe { self.client.plugin.call(&mut call) }?;
        Ok(results)
    }
}

const INSPECT: &str = "looking at the compiled program";

impl Drop for PluginExecutable {
    fn drop(&mut self) {
        let mut arguments = ffi::LoadedExecutableDestroy { executable: self.handle, ..Default::default() };
        // SAFETY: this program, which nothing else refers to any more.
        let _ = unsafe { self.client.plugin.call(&mut arguments) };
    }
}

impl Executable for PluginExecutable {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn num_replicas(&self) -> usize {
        self.num_replicas
    }

    fn execute(&self, arguments: Vec<Vec<Argument<'_>>>) -> Result<Vec<Vec<DeviceBuffer>>, RuntimeError> {
        check_arguments(&self.signature, self.num_replicas, &arguments)?;
        let handles = arguments.iter().map(|list| self.handles(list)).collect::<Result<Vec<_>, _>>()?;
        let results = self.launch(&handles, &kept(&arguments));
        let results = results.map_err(|e| RuntimeError::Execute(e.to_string()))?;
        // What was donated is the program's now; these are empty shells.
        drop(arguments);
        let typed = |(device, list): (usize, Vec<*mut ffi::Buffer>)| {
            let typed = list.into_iter().zip(&self.signature.results);
            let own = |(handle, ty): (_, &crate::ir::TensorType)| {
                Box::new(PluginBuffer::new(self.client.clone(), handle, ty.clone(), device)) as DeviceBuffer
            };
            typed.map(own).collect()
        };
        Ok(results.into_iter().enumerate().map(typed).collect())
    }
}

impl PluginExecutable {
    fn handles(&self, arguments: &[Argument<'_>]) -> Result<Vec<*mut ffi::Buffer>, RuntimeError> {
        let own = |(index, argument): (usize, &Argument<'_>)| {
            let any: &dyn Any = argument.buffer();
            let buffer = any.downcast_ref::<PluginBuffer>().filter(|b| b.belongs_to(&self.client));
            Ok(buffer.ok_or(RuntimeError::ForeignBuffer { index })?.handle)
        };
        arguments.iter().enumerate().map(own).collect()
    }
}

/// Numbers of the inputs that some replica wants back.
fn kept(arguments: &[Vec<Argument<'_>>]) -> Vec<i64> {
    let count = arguments.first().map_or(0, Vec::len);
    let lent = |index: &usize| arguments.iter().any(|list| list.get(*index).is_some_and(|a| !a.is_donated()));
    (0..count).filter(lent).map(|index| index as i64).collect()
}
