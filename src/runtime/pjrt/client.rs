//! A plugin's client as a [`Backend`].

use super::buffer::{PluginBuffer, upload};
use super::cache::{Cache, Key};
use super::executable::PluginExecutable;
use super::ffi;
use super::named::{Attribute, option};
use super::options;
use super::plugin::{self, CallError, Plugin, slice_of, text_of};
use crate::ir::Literal;
use crate::runtime::backend::check_devices;
use crate::runtime::{
    Backend, CompileOptions, Device, DeviceBuffer, DeviceMemory, Executable, RuntimeError, Signature,
};
use std::path::Path;
use std::sync::Arc;

/// A runtime behind the PJRT C API.
pub struct PluginBackend {
    client: Arc<Client>,
    platform: String,
    version: String,
    devices: Vec<Device>,
    cache: Option<Cache>,
}

/// A client; executables and buffers keep it alive.
pub(super) struct Client {
    pub plugin: &'static Plugin,
    pub handle: *mut ffi::Client,
    /// In the order of [`Backend::devices`].
    pub devices: Vec<*mut ffi::Device>,
    ids: Vec<i64>,
}

// SAFETY: the functions of a plugin may be called from any thread; the handles are never written.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Drop for Client {
    fn drop(&mut self) {
        let mut arguments = ffi::ClientDestroy { client: self.handle, ..Default::default() };
        // SAFETY: this client, which nothing else refers to any more.
        let _ = unsafe { self.plugin.call(&mut arguments) };
    }
}

/// Loads a plugin and opens its devices with these options, which every plugin names in its own way.
///
/// Errors: [`RuntimeError::Plugin`] if the file cannot be used, [`RuntimeError::Runtime`] with the plugin's message if it
/// finds no devices or refuses an option, [`RuntimeError::TooFewDevices`].
pub fn open(
    path: &Path,
    num_devices: usize,
    options: &[(&str, Attribute)],
) -> Result<PluginBackend, RuntimeError> {
    let plugin = plugin::load(path)?;
    let options: Vec<ffi::NamedValue> = options.iter().map(|(name, value)| option(name, value)).collect();
    let mut created = ffi::ClientCreate {
        create_options: options.as_ptr(),
        num_options: options.len(),
        ..Default::default()
    };
    // SAFETY: the options live until the call returns; there are no callbacks.
    unsafe { plugin.call(&mut created) }.map_err(failed("opening the devices"))?;
    let mut client = Client { plugin, handle: created.client, devices: vec![], ids: vec![] };
    let described = client.describe().map_err(failed("listing the devices"))?;
    let (platform, version, devices) = described;
    let backend =
        PluginBackend { client: Arc::new(client), platform, version, devices, cache: Cache::open() };
    check_devices(&backend, num_devices)?;
    Ok(backend)
}

/// Turns a plugin's error into that of an action.
pub(super) fn failed(action: &'static str) -> impl Fn(CallError) -> RuntimeError {
    move |error| RuntimeError::Runtime { action, message: error.to_string() }
}

impl Client {
    /// Reads platform, version and devices.
    fn describe(&mut self) -> Result<(String, String, Vec<Device>), CallError> {
        let client = self.handle;
        let mut name = ffi::ClientPlatformName { client, ..Default::default() };
        let mut version = ffi::ClientPlatformVersion { client, ..Default::default() };
        let mut list = ffi::ClientAddressableDevices { client, ..Default::default() };
        // SAFETY: this client; texts and list live as long as it does.
        unsafe {
            self.plugin.call(&mut name)?;
            self.plugin.call(&mut version)?;
            self.plugin.call(&mut list)?;
            self.devices = slice_of(list.addressable_devices, list.num_addressable_devices).to_vec();
            let name = text_of(name.platform_name, name.platform_name_size);
            let version = text_of(version.platform_version, version.platform_version_size);
            let devices = self.devices.clone().into_iter().map(|device| self.describe_device(device));
            Ok((name, version, devices.collect::<Result<_, _>>()?))
        }
    }

    /// # Safety
    /// A device of this client.
    unsafe fn describe_device(&mut self, device: *mut ffi::Device) -> Result<Device, CallError> {
        let mut described = ffi::DeviceGetDescription { device, ..Default::default() };
        // SAFETY: a device of this client; descriptions and their texts live as long as it does.
        unsafe {
            self.plugin.call(&mut described)?;
            let device_description = described.device_description;
            let mut id = ffi::DeviceDescriptionId { device_description, ..Default::default() };
            self.plugin.call(&mut id)?;
            self.ids.push(id.id.into());
            let mut kind = ffi::DeviceDescriptionKind { device_description, ..Default::default() };
            self.plugin.call(&mut kind)?;
            let mut text = ffi::DeviceDescriptionToString { device_description, ..Default::default() };
            self.plugin.call(&mut text)?;
            Ok(Device {
                kind: text_of(kind.device_kind, kind.device_kind_size),
                description: text_of(text.to_string, text.to_string_size),
            })
        }
    }

    fn compile(&self, hlo_module: &[u8], options: &[u8]) -> Result<*mut ffi::LoadedExecutable, CallError> {
        let program = ffi::Program::new(hlo_module.as_ptr() as *mut _, hlo_module.len(), "hlo");
        let mut arguments = ffi::ClientCompile {
            client: self.handle,
            program: &program,
            compile_options: options.as_ptr().cast(),
            compile_options_size: options.len(),
            ..Default::default()
        };
        // SAFETY: module and options live until the call returns, which only reads them.
        unsafe { self.plugin.call(&mut arguments) }?;
        Ok(arguments.executable)
    }

    fn load(&self, serialized: &[u8]) -> Result<*mut ffi::LoadedExecutable, CallError> {
        let mut arguments = ffi::ExecutableDeserializeAndLoad {
            client: self.handle,
            serialized_executable: serialized.as_ptr().cast(),
            serialized_executable_size: serialized.len(),
            ..Default::default()
        };
        // SAFETY: bytes that this plugin wrote, by the digest of the cache.
        unsafe { self.plugin.call(&mut arguments) }?;
        Ok(arguments.loaded_executable)
    }
}

impl PluginBackend {
    /// The file of the plugin.
    pub fn path(&self) -> &Path {
        self.client.plugin.path()
    }

    /// The version of the plugin's API.
    pub fn api_version(&self) -> String {
        self.client.plugin.version()
    }

    /// Keeps compiled programs in this folder, or nowhere.
    pub fn with_cache(mut self, folder: Option<&Path>) -> Self {
        self.cache = folder.map(Cache::in_folder);
        self
    }

    /// A program from the cache, or compiled and put there.
    fn executable(&self, hlo_module: &[u8], signature: Signature, num_replicas: usize) -> Compiled {
        let options = options::replicas_on(&self.client.ids[..num_replicas]);
        let adopt =
            |handle| PluginExecutable::new(self.client.clone(), handle, signature.clone(), num_replicas);
        let key = self.cache.as_ref().map(|cache| (cache, self.key(hlo_module, &options)));
        if let Some((cache, key)) = &key
            && let Some(bytes) = cache.get(key)
            && let Ok(handle) = self.client.load(&bytes)
        {
            return adopt(handle);
        }
        let handle = self.client.compile(hlo_module, &options);
        let executable = adopt(handle.map_err(|e| RuntimeError::Compile(e.to_string()))?)?;
        if let Some((cache, key)) = &key
            && let Ok(bytes) = executable.serialize()
        {
            cache.put(key, &bytes);
        }
        Ok(executable)
    }

    fn key(&self, hlo_module: &[u8], options: &[u8]) -> Key {
        let kinds = self.devices.iter().map(|d| d.kind.as_str()).collect::<Vec<_>>().join(",");
        let api = self.api_version();
        Key::new(&[&self.platform, &self.version, &api, &kinds], &[hlo_module, options])
    }
}

type Compiled = Result<PluginExecutable, RuntimeError>;

impl Backend for PluginBackend {
    fn platform(&self) -> &str {
        &self.platform
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
        check_devices(self, options.num_replicas)?;
        Ok(Box::new(self.executable(hlo_module, signature, options.num_replicas)?))
    }

    fn upload(&self, value: &Literal, device: usize) -> Result<DeviceBuffer, RuntimeError> {
        let count = self.devices.len();
        let target = *self.client.devices.get(device).ok_or(RuntimeError::NoDevice { device, count })?;
        let handle = upload(&self.client, value, target).map_err(failed("copying a value to the device"))?;
        Ok(Box::new(PluginBuffer::new(self.client.clone(), handle, value.ty().clone(), device)))
    }

    fn memory(&self, device: usize) -> Option<DeviceMemory> {
        let device = *self.client.devices.get(device)?;
        let mut stats = ffi::DeviceMemoryStats { device, ..Default::default() };
        // SAFETY: a device of this client.
        unsafe { self.client.plugin.call(&mut stats) }.ok()?;
        let bytes = |n: i64, known: bool| known.then(|| u64::try_from(n).ok()).flatten();
        Some(DeviceMemory {
            used_bytes: u64::try_from(stats.bytes_in_use).ok()?,
            peak_bytes: bytes(stats.peak_bytes_in_use, stats.peak_bytes_in_use_is_set),
            limit_bytes: bytes(stats.bytes_limit, stats.bytes_limit_is_set),
        })
    }
}
