//! What every runtime offers: compile an HLO module, hold values on devices, execute.

use super::{RuntimeError, Signature};
use crate::ir::{Literal, TensorType};
use std::any::Any;

/// One runtime with its devices, numbered from 0.
pub trait Backend: Send + Sync {
    /// The short name of the platform, such as `cpu`.
    fn platform(&self) -> &str;

    /// The version of the runtime as it reports it; may be empty.
    fn version(&self) -> &str;

    /// The devices that programs can run on; replica `r` runs on device `r`.
    fn devices(&self) -> &[Device];

    /// Compiles a serialized `HloModuleProto` for devices `0..num_replicas`.
    ///
    /// Errors: [`RuntimeError::Module`] if its signature is not one of static arrays,
    /// [`RuntimeError::TooFewDevices`] if there are not so many devices,
    /// [`RuntimeError::Compile`] if XLA refuses it.
    fn compile(
        &self,
        hlo_module: &[u8],
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>, RuntimeError>;

    /// Copies a host value to a device. The value may be dropped afterwards.
    fn upload(&self, value: &Literal, device: usize) -> Result<DeviceBuffer, RuntimeError>;

    /// The memory of a device, where the runtime counts it.
    fn memory(&self, _device: usize) -> Option<DeviceMemory> {
        None
    }
}

/// Memory of a device in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    pub used_bytes: u64,
    /// The most that was in use at once.
    pub peak_bytes: Option<u64>,
    /// What programs may use.
    pub limit_bytes: Option<u64>,
}

/// A device of a [`Backend`].
#[derive(Clone, Debug)]
pub struct Device {
    /// The runtime's name for this kind of device.
    pub kind: String,
    /// The runtime's own description of this device.
    pub description: String,
}

/// How a module is compiled.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Copies of the program that run together, one per device; collectives join them.
    pub num_replicas: usize,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self { num_replicas: 1 }
    }
}

/// A program compiled for `num_replicas` devices.
pub trait Executable: Send + Sync {
    /// Parameters, results and donation, the same for every replica.
    fn signature(&self) -> &Signature;

    fn num_replicas(&self) -> usize;

    /// Runs the program once: one argument list per replica in, one result list per replica out.
    ///
    /// A root tuple comes apart into one buffer per element. Arguments that the module aliases to a result must be
    /// given as [`Argument::Donate`]; their memory becomes that result's, so they cannot be used again.
    /// Everything is checked against [`Executable::signature`] before the runtime sees it.
    ///
    /// Errors: those checks, and [`RuntimeError::Execute`]. Donated arguments are lost then too.
    fn execute(&self, arguments: Vec<Vec<Argument<'_>>>) -> Result<Vec<Vec<DeviceBuffer>>, RuntimeError>;

    /// [`Executable::execute`] for a program with one replica.
    fn run(&self, arguments: Vec<Argument<'_>>) -> Result<Vec<DeviceBuffer>, RuntimeError> {
        let mut results = self.execute(vec![arguments])?;
        Ok(results.pop().unwrap_or_default())
    }
}

/// A value on a device. Dropping it frees the memory.
pub trait Buffer: Any + Send + Sync {
    fn ty(&self) -> &TensorType;

    /// The number of the device that holds it.
    fn device(&self) -> usize;

    /// Copies the value to the host, after it has been computed.
    fn download(&self) -> Result<Literal, RuntimeError>;

    /// Starts [`Buffer::download`] and returns at once where the runtime can; the buffer may be dropped meanwhile.
    fn start_download(&self) -> Result<Box<dyn PendingLiteral>, RuntimeError> {
        Ok(Box::new(self.download()?))
    }
}

/// A value on its way to the host.
pub trait PendingLiteral: Send {
    /// The value, when it has arrived.
    fn wait(self: Box<Self>) -> Result<Literal, RuntimeError>;
}

impl PendingLiteral for Literal {
    fn wait(self: Box<Self>) -> Result<Literal, RuntimeError> {
        Ok(*self)
    }
}

/// A [`Buffer`] of any backend.
pub type DeviceBuffer = Box<dyn Buffer>;

/// An argument of [`Executable::execute`].
pub enum Argument<'a> {
    /// Read only; still valid afterwards.
    Keep(&'a dyn Buffer),
    /// Given up. Its memory holds the result that the module aliases to it, or is freed after the run.
    Donate(DeviceBuffer),
}

impl Argument<'_> {
    /// The buffer behind the argument.
    pub fn buffer(&self) -> &dyn Buffer {
        match self {
            Self::Keep(buffer) => *buffer,
            Self::Donate(buffer) => &**buffer,
        }
    }

    pub fn is_donated(&self) -> bool {
        matches!(self, Self::Donate(_))
    }
}

impl<'a> From<&'a DeviceBuffer> for Argument<'a> {
    fn from(buffer: &'a DeviceBuffer) -> Self {
        Self::Keep(&**buffer)
    }
}

impl From<DeviceBuffer> for Argument<'_> {
    fn from(buffer: DeviceBuffer) -> Self {
        Self::Donate(buffer)
    }
}

/// Refuses no devices, and more than `backend` has.
pub(super) fn check_devices(backend: &dyn Backend, asked: usize) -> Result<(), RuntimeError> {
    let have = backend.devices().len();
    if (1..=have).contains(&asked) {
        return Ok(());
    }
    Err(RuntimeError::TooFewDevices { platform: backend.platform().into(), asked, have })
}

/// Checks arguments against a signature: replicas, counts, types, devices, donation.
pub(super) fn check_arguments(
    signature: &Signature,
    num_replicas: usize,
    arguments: &[Vec<Argument<'_>>],
) -> Result<(), RuntimeError> {
    if arguments.len() != num_replicas {
        return Err(RuntimeError::ReplicaCount { expected: num_replicas, found: arguments.len() });
    }
    for (replica, arguments) in arguments.iter().enumerate() {
        let expected = signature.parameters.len();
        if arguments.len() != expected {
            return Err(RuntimeError::ArgumentCount { replica, expected, found: arguments.len() });
        }
        for (index, argument) in arguments.iter().enumerate() {
            check_argument(signature, replica, index, argument)?;
        }
    }
    Ok(())
}

fn check_argument(
    signature: &Signature,
    replica: usize,
    index: usize,
    argument: &Argument<'_>,
) -> Result<(), RuntimeError> {
    let parameter = &signature.parameters[index];
    let buffer = argument.buffer();
    let name = || parameter.name.clone();
    if *buffer.ty() != parameter.ty {
        let (expected, found) = (parameter.ty.clone(), buffer.ty().clone());
        return Err(RuntimeError::ArgumentType { index, name: name(), expected, found });
    }
    if buffer.device() != replica {
        return Err(RuntimeError::ArgumentDevice { index, name: name(), replica, device: buffer.device() });
    }
    match parameter.aliased_result {
        Some(result) if !argument.is_donated() => {
            Err(RuntimeError::NotDonated { index, name: name(), result })
        }
        _ => Ok(()),
    }
}
