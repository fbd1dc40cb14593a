//! Compiling for devices that are not there, and what a plugin says about the result.

use super::ffi;
use super::named::{Attributes, attributes_of, text_option};
use super::options;
use super::plugin::{CallError, Plugin, slice_of, text_of};
use super::serialized::serialize;

/// A set of devices by name, such as `v5e:4x4`.
pub struct Topology {
    plugin: &'static Plugin,
    handle: *mut ffi::Topology,
}

/// A program compiled for a topology.
pub struct CompiledProgram {
    plugin: &'static Plugin,
    handle: *mut ffi::Executable,
}

/// Memory of one device, in bytes, as the compiler reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CompiledMemory {
    pub code_bytes: u64,
    pub argument_bytes: u64,
    pub output_bytes: u64,
    /// Output bytes that lie in arguments.
    pub alias_bytes: u64,
    pub temporary_bytes: u64,
}

impl CompiledMemory {
    /// What the program takes when it runs.
    pub fn total(&self) -> u64 {
        let outputs = self.output_bytes.saturating_sub(self.alias_bytes);
        [self.argument_bytes, outputs, self.temporary_bytes, self.code_bytes]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Topology {
    /// Asks a plugin for a topology; options are texts by name.
    pub fn create(
        plugin: &'static Plugin,
        name: &str,
        create_options: &[(&str, &str)],
    ) -> Result<Self, CallError> {
        let values: Vec<ffi::NamedValue> = create_options.iter().map(|(k, v)| text_option(k, v)).collect();
        let mut arguments = ffi::TopologyCreate {
            topology_name: name.as_ptr().cast(),
            topology_name_size: name.len(),
            create_options: values.as_ptr(),
            num_options: values.len(),
            ..Default::default()
        };
        // SAFETY: name and options live until the call returns.
        unsafe { plugin.call(&mut arguments) }?;
        Ok(Self { plugin, handle: arguments.topology })
    }

    /// The version of the compiler.
    pub fn version(&self) -> Result<String, CallError> {
        let mut arguments = ffi::TopologyPlatformVersion { topology: self.handle, ..Default::default() };
        // SAFETY: this topology, which owns the text.
        unsafe {
            self.plugin.call(&mut arguments)?;
            Ok(text_of(arguments.platform_version, arguments.platform_version_size))
        }
    }

    /// What the plugin says about it; empty where it has no such function.
    pub fn attributes(&self) -> Attributes {
        let mut arguments = ffi::TopologyAttributes { topology: self.handle, ..Default::default() };
        // SAFETY: this topology, which owns the values.
        unsafe {
            match self.plugin.call(&mut arguments) {
                Ok(()) => attributes_of(arguments.attributes, arguments.num_attributes),
                Err(_) => Attributes::new(),
            }
        }
    }

    /// Id and kind of every device, in the plugin's order.
    pub fn devices(&self) -> Result<Vec<(i64, String)>, CallError> {
        let mut list = ffi::TopologyGetDeviceDescriptions { topology: self.handle, ..Default::default() };
        // SAFETY: this topology, which owns list and descriptions.
        unsafe {
            self.plugin.call(&mut list)?;
            let descriptions = slice_of(list.descriptions, list.num_descriptions);
            descriptions.iter().map(|&description| self.device(description)).collect()
        }
    }

    /// # Safety
    /// A description of this topology.
    unsafe fn device(
        &self,
        device_description: *mut ffi::DeviceDescription,
    ) -> Result<(i64, String), CallError> {
        let mut id = ffi::DeviceDescriptionId { device_description, ..Default::default() };
        let mut kind = ffi::DeviceDescriptionKind { device_description, ..Default::default() };
        // SAFETY: the caller's promise.
        unsafe {
            self.plugin.call(&mut id)?;
            self.plugin.call(&mut kind)?;
            Ok((id.id.into(), text_of(kind.device_kind, kind.device_kind_size)))
        }
    }

    /// Compiles a serialized `HloModuleProto`; replica `r` runs on the device with id `device_ids[r]`.
    pub fn compile(&self, hlo_module: &[u8], device_ids: &[i64]) -> Result<CompiledProgram, CallError> {
        let options = options::replicas_on(device_ids);
        let program = ffi::Program::new(hlo_module.as_ptr() as *mut _, hlo_module.len(), "hlo");
        let mut arguments = ffi::Compile {
            topology: self.handle,
            program: &program,
            compile_options: options.as_ptr().cast(),
            compile_options_size: options.len(),
            ..Default::default()
        };
        // SAFETY: module and options live until the call returns, which only reads them.
        unsafe { self.plugin.call(&mut arguments) }?;
        Ok(CompiledProgram { plugin: self.plugin, handle: arguments.executable })
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let mut arguments = ffi::TopologyDestroy { topology: self.handle, ..Default::default() };
        // SAFETY: this topology, which nothing else refers to any more.
        let _ = unsafe { self.plugin.call(&mut arguments) };
    }
}

impl CompiledProgram {
    /// Named costs, where the compiler counts them: `flops`, `bytes accessed`, `optimal_seconds` ..
    pub fn costs(&self) -> Result<Attributes, CallError> {
        let mut arguments = ffi::ExecutableGetCostAnalysis { executable: self.handle, ..Default::default() };
        // SAFETY: this program, which owns the values.
        unsafe {
            self.plugin.call(&mut arguments)?;
            Ok(attributes_of(arguments.properties, arguments.num_properties))
        }
    }

    pub fn memory(&self) -> Result<CompiledMemory, CallError> {
        let mut stats =
            ffi::ExecutableGetCompiledMemoryStats { executable: self.handle, ..Default::default() };
        // SAFETY: this program.
        unsafe { self.plugin.call(&mut stats) }?;
        let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(CompiledMemory {
            code_bytes: bytes(stats.generated_code_size_in_bytes),
            argument_bytes: bytes(stats.argument_size_in_bytes),
            output_bytes: bytes(stats.output_size_in_bytes),
            alias_bytes: bytes(stats.alias_size_in_bytes),
            temporary_bytes: bytes(stats.temp_size_in_bytes),
        })
    }

    /// What the compiler made of the module: an `HloModuleProtoWithConfig`, whose first field is the module.
    pub fn optimized(&self) -> Result<Vec<u8>, CallError> {
        // The first call says how many bytes, the second writes them.
        let mut program = ffi::Program::new(std::ptr::null_mut(), 0, "");
        self.fill(&mut program)?;
        let mut bytes = vec![0u8; program.code_size];
        program.code = bytes.as_mut_ptr().cast();
        self.fill(&mut program)?;
        bytes.truncate(program.code_size);
        Ok(bytes)
    }

    fn fill(&self, program: &mut ffi::Program) -> Result<(), CallError> {
        let mut arguments =
            ffi::ExecutableOptimizedProgram { executable: self.handle, program, ..Default::default() };
        // SAFETY: this program; `code` is null or has room for what the call before asked for.
        unsafe { self.plugin.call(&mut arguments) }
    }

    /// The program in the plugin's own form, to be loaded where such devices are.
    pub fn serialize(&self) -> Result<Vec<u8>, CallError> {
        // SAFETY: this program.
        unsafe { serialize(self.plugin, self.handle) }
    }
}

impl Drop for CompiledProgram {
    fn drop(&mut self) {
        let mut arguments = ffi::ExecutableDestroy { executable: self.handle, ..Default::default() };
        // SAFETY: this program, which nothing else refers to any more.
        let _ = unsafe { self.plugin.call(&mut arguments) };
    }
}
