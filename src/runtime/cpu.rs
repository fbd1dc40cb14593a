//! The CPU backend: crate `xla`, in process, with as many virtual devices as asked for.

use super::backend::{Argument, Backend, Buffer, CompileOptions, Device, DeviceBuffer, Executable};
use super::backend::{check_arguments, check_devices};
use super::{RuntimeError, Signature};
use crate::ir::{DType, Literal, TensorType};
use std::any::Any;
use std::sync::Mutex;
use xla::{ElementType, HloModuleProto, PjRtBuffer, PjRtClient, PjRtLoadedExecutable, XlaComputation};

const DEVICE_COUNT_FLAG: &str = "--xla_force_host_platform_device_count";

/// The XLA CPU runtime of this process. Clones share one client.
#[derive(Clone)]
pub struct CpuBackend {
    client: PjRtClient,
    version: String,
    devices: Vec<Device>,
}

/// Opens the CPU runtime with at least `num_devices` virtual devices.
///
/// XLA fixes the number when the first client is made, so there is one client in a process and later calls share
/// it. A count that the user gave in `XLA_FLAGS` stays.
///
/// Errors: [`RuntimeError::TooFewDevices`] if the client has fewer devices.
pub fn open(num_devices: usize) -> Result<CpuBackend, RuntimeError> {
    static CLIENT: Mutex<Option<CpuBackend>> = Mutex::new(None);
    let mut slot = CLIENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let backend = match &*slot {
        Some(backend) => backend.clone(),
        None => slot.insert(create(num_devices)?).clone(),
    };
    check_devices(&backend, num_devices)?;
    Ok(backend)
}

/// [`open`] as the shared form that commands take.
pub fn open_dyn(num_devices: usize) -> Result<Box<dyn Backend>, RuntimeError> {
    Ok(Box::new(open(num_devices)?))
}

fn create(num_devices: usize) -> Result<CpuBackend, RuntimeError> {
    prepare_environment(num_devices);
    xla::set_min_log_level(xla::TfLogLevel::Error);
    let client = PjRtClient::cpu().map_err(|e| failed("opening the CPU runtime", e))?;
    let version = client.platform_version();
    let device = |d: &xla::PjRtDevice<'_>| Device { kind: d.kind(), description: d.to_string() };
    let devices = client.addressable_devices().iter().map(device).collect();
    Ok(CpuBackend { client, version, devices })
}

/// XLA takes its flags and log level from the environment, once.
fn prepare_environment(num_devices: usize) {
    let flags = std::env::var("XLA_FLAGS").unwrap_or_default();
    // SAFETY: no other thread may read the environment outside of Rust's lock meanwhile. XLA has not started any
    // thread before its first client, and nothing else in this program reads the environment from C.
    unsafe {
        if !flags.contains(DEVICE_COUNT_FLAG) {
            let flags = format!("{flags} {DEVICE_COUNT_FLAG}={}", num_devices.max(1));
            std::env::set_var("XLA_FLAGS", flags.trim_start());
        }
        if std::env::var_os("TF_CPP_MIN_LOG_LEVEL").is_none() {
            std::env::set_var("TF_CPP_MIN_LOG_LEVEL", "2");
        }
    }
}

impl CpuBackend {
    /// The serialized `HloModuleProto` of a module in HLO text.
    pub fn parse_hlo_text(&self, text: &str) -> Result<Vec<u8>, RuntimeError> {
        let module = HloModuleProto::parse_and_return_unverified_module(text.as_bytes());
        module.and_then(|m| m.to_bytes()).map_err(module_error)
    }

    /// XLA's own HLO text of a serialized `HloModuleProto`.
    pub fn hlo_text(&self, hlo_module: &[u8]) -> Result<String, RuntimeError> {
        parse(hlo_module)?.to_string().map_err(module_error)
    }

    /// The module as StableHLO in MLIR text.
    pub fn stablehlo_text(&self, hlo_module: &[u8]) -> Result<String, RuntimeError> {
        parse(hlo_module)?.to_stablehlo_string().map_err(module_error)
    }

    /// Whether XLA accepts the module: compiles it for one device and drops the result.
    pub fn verify(&self, hlo_module: &[u8]) -> Result<(), RuntimeError> {
        self.compile(hlo_module, &CompileOptions::default()).map(drop)
    }
}

impl Backend for CpuBackend {
    fn platform(&self) -> &str {
        "cpu"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn compile(
        &self,
        hlo_module: &[u8],
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>, RuntimeError> {
        let signature = Signature::from_hlo_proto(hlo_module)?;
        let num_replicas = options.num_replicas;
        check_devices(self, num_replicas)?;
        let computation = XlaComputation::from_proto(&parse(hlo_module)?);
        let program = self.client.compile_replicated(&computation, num_replicas);
        let program = program.map_err(|e| RuntimeError::Compile(message(e)))?;
        Ok(Box::new(CpuExecutable { program, signature, num_replicas }))
    }

    fn upload(&self, value: &Literal, device: usize) -> Result<DeviceBuffer, RuntimeError> {
        let devices = self.client.addressable_devices();
        let target = devices.get(device).ok_or(RuntimeError::NoDevice { device, count: devices.len() })?;
        let ty = value.ty().clone();
        let element = element_type(ty.dtype);
        let buffer = self.client.buffer_from_host_raw_bytes(element, value.bytes(), &ty.shape, Some(target));
        let buffer = buffer.map_err(|e| failed("copying a value to the device", e))?;
        Ok(Box::new(CpuBuffer { buffer, ty, device }))
    }
}

struct CpuExecutable {
    program: PjRtLoadedExecutable,
    signature: Signature,
    num_replicas: usize,
}

impl Executable for CpuExecutable {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn num_replicas(&self) -> usize {
        self.num_replicas
    }

    fn execute(&self, arguments: Vec<Vec<Argument<'_>>>) -> Result<Vec<Vec<DeviceBuffer>>, RuntimeError> {
        check_arguments(&self.signature, self.num_replicas, &arguments)?;
        let buffers: Vec<Vec<&PjRtBuffer>> =
            arguments.iter().map(|list| own_buffers(list)).collect::<Result<_, _>>()?;
        let results = self.program.execute_replicated_b(&buffers);
        let results = results.map_err(|e| RuntimeError::Execute(message(e)))?;
        drop(arguments);
        results.into_iter().enumerate().map(|(replica, list)| self.results(replica, list)).collect()
    }
}

impl CpuExecutable {
    fn results(&self, device: usize, list: Vec<PjRtBuffer>) -> Result<Vec<DeviceBuffer>, RuntimeError> {
        let types = &self.signature.results;
        if list.len() != types.len() {
            let shown = list.iter().map(|b| format!("{:?}", b.on_device_shape().ok())).collect::<Vec<_>>();
            let (expected, found) = (types.len(), list.len());
            return Err(RuntimeError::ResultCount { expected, found, types: shown.join(", ") });
        }
        let typed = list.into_iter().zip(types);
        Ok(typed.map(|(buffer, ty)| CpuBuffer { buffer, ty: ty.clone(), device }.boxed()).collect())
    }
}

fn own_buffers<'a>(arguments: &'a [Argument<'_>]) -> Result<Vec<&'a PjRtBuffer>, RuntimeError> {
    let own = |(index, argument): (usize, &'a Argument<'_>)| {
        let any: &dyn Any = argument.buffer();
        let buffer = any.downcast_ref::<CpuBuffer>().ok_or(RuntimeError::ForeignBuffer { index })?;
        Ok(&buffer.buffer)
    };
    arguments.iter().enumerate().map(own).collect()
}

struct CpuBuffer {
    buffer: PjRtBuffer,
    ty: TensorType,
    device: usize,
}

impl CpuBuffer {
    fn boxed(self) -> DeviceBuffer {
        Box::new(self)
    }
}

const DOWNLOAD: &str = "copying a value from the device";

impl Buffer for CpuBuffer {
    fn ty(&self) -> &TensorType {
        &self.ty
    }

    fn device(&self) -> usize {
        self.device
    }

    fn download(&self) -> Result<Literal, RuntimeError> {
        // By way of an XLA literal: the crate has no host type for pred, f16 and bf16.
        let value = self.buffer.to_literal_sync().map_err(|e| failed(DOWNLOAD, e))?;
        let mut bytes = vec![0; self.ty.size_bytes()];
        value.copy_untyped_to(&mut bytes).map_err(|e| failed(DOWNLOAD, e))?;
        Literal::from_bytes(self.ty.clone(), bytes)
            .map_err(|e| RuntimeError::Runtime { action: DOWNLOAD, message: e.to_string() })
    }
}

/// Parses a serialized `HloModuleProto`.
///
/// The crate's reader tries `HloSnapshot`, `HloProto` and `HloModuleProto` in turn, and a module's name can look like a
/// message of the first two. So the bytes go in wrapped as the first: field 1 in field 1.
fn parse(hlo_module: &[u8]) -> Result<HloModuleProto, RuntimeError> {
    const FIELD_1_BYTES: u8 = 0x0a;
    let mut header = vec![FIELD_1_BYTES];
    // Writing a varint to a vector cannot fail.
    prost::encode_length_delimiter(hlo_module.len(), &mut header).ok();
    let mut snapshot = vec![FIELD_1_BYTES];
    prost::encode_length_delimiter(header.len() + hlo_module.len(), &mut snapshot).ok();
    snapshot.extend_from_slice(&header);
    snapshot.extend_from_slice(hlo_module);
    HloModuleProto::parse_proto(&snapshot, true).map_err(module_error)
}

fn element_type(dtype: DType) -> ElementType {
    match dtype {
        DType::Pred => ElementType::Pred,
        DType::S8 => ElementType::S8,
        DType::S32 => ElementType::S32,
        DType::S64 => ElementType::S64,
        DType::U8 => ElementType::U8,
        DType::U32 => ElementType::U32,
        DType::U64 => ElementType::U64,
        DType::F16 => ElementType::F16,
        DType::Bf16 => ElementType::Bf16,
        DType::F32 => ElementType::F32,
        DType::F64 => ElementType::F64,
    }
}

/// The library's own message; the crate appends a backtrace to it.
fn message(error: xla::Error) -> String {
    match error {
        xla::Error::XlaError { msg, .. } => msg,
        other => other.to_string(),
    }
}

fn failed(action: &'static str, error: xla::Error) -> RuntimeError {
    RuntimeError::Runtime { action, message: message(error) }
}

fn module_error(error: xla::Error) -> RuntimeError {
    RuntimeError::Module(message(error))
}
