//! A loaded plugin: the file, its function table, and calls that return its errors.

use super::ffi::{self, ApiHeader, Call};
use crate::runtime::{RuntimeError, native};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Mutex;

/// The generation of the API; another one has other structs.
const MAJOR: i32 = 0;
/// The oldest revision whose structs have been looked at.
const OLDEST_MINOR: i32 = 54;

/// A plugin of this process. It is never unloaded: plugins start threads.
pub struct Plugin {
    path: PathBuf,
    api: *const ApiHeader,
    version: (i32, i32),
}

// SAFETY: the table is constant, and the functions of a plugin may be called from any thread.
unsafe impl Send for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Plugin {}

/// An error that a plugin returned, or a function that it lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("{message} ({code})")]
    Failed { code: Code, message: String },
    #[error("the plugin has no function {function}: it needs a newer one")]
    Absent { function: &'static str },
}

/// A status code, numbered as in `absl::StatusCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

impl Code {
    const UNKNOWN: Self = Self(2);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const UNIMPLEMENTED: Self = Self(12);
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 17] = [
            "ok",
            "cancelled",
            "unknown",
            "invalid argument",
            "deadline exceeded",
            "not found",
            "already exists",
            "permission denied",
            "resource exhausted",
            "failed precondition",
            "aborted",
            "out of range",
            "unimplemented",
            "internal",
            "unavailable",
            "data loss",
            "unauthenticated",
        ];
        match usize::try_from(self.0).ok().and_then(|code| NAMES.get(code)) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// Loads a plugin and starts it; a plugin that is loaded already is returned again.
///
/// Errors: [`RuntimeError::Plugin`] if the file is missing, damaged, no plugin, of another version, or fails to start.
pub fn load(path: &Path) -> Result<&'static Plugin, RuntimeError> {
    static LOADED: Mutex<BTreeMap<PathBuf, &'static Plugin>> = Mutex::new(BTreeMap::new());
    let refuse = |problem: String| RuntimeError::Plugin { path: path.to_owned(), problem };
    native::check_elf(path).map_err(refuse)?;
    let file = path.canonicalize().map_err(|e| refuse(format!("cannot be opened ({e})")))?;
    let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(plugin) = loaded.get(&file) {
        return Ok(plugin);
    }
    let plugin: &'static Plugin = Box::leak(Box::new(Plugin::open(&file).map_err(refuse)?));
    // SAFETY: the struct of this function.
    unsafe { plugin.call(&mut ffi::PluginInitialize::default()) }
        .map_err(|e| refuse(format!("does not start: {e}")))?;
    loaded.insert(file, plugin);
    Ok(plugin)
}

impl Plugin {
    fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: runs the initialisers of a library that the user names as a plugin.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|e| format!("cannot be loaded ({e})"))?;
        // SAFETY: the type that the header gives this function.
        let entry: Result<Symbol<ffi::Entry>, _> = unsafe { library.get(ffi::ENTRY) };
        let entry = entry.map_err(|_| "is no PJRT plugin: it has no function GetPjrtApi".to_owned())?;
        // SAFETY: as above.
        let api = unsafe { entry() };
        let _never_closed = library.into_raw();
        if api.is_null() {
            return Err("is no PJRT plugin: GetPjrtApi returns null".into());
        }
        // SAFETY: a table starts with this header in every version of the API.
        let header = unsafe { &*api };
        if header.struct_size < size_of::<ApiHeader>() {
            return Err(format!("is no PJRT plugin: its table has {} bytes", header.struct_size));
        }
        let version = (header.version.major, header.version.minor);
        let (major, minor) = version;
        if major != MAJOR || minor < OLDEST_MINOR {
            return Err(format!(
                "has PJRT API {major}.{minor}, but {MAJOR}.{OLDEST_MINOR} or a later {MAJOR}.x is needed"
            ));
        }
        Ok(Self { path: path.to_owned(), api, version })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the API, as in `0.90`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Calls the function of these arguments.
    ///
    /// Errors: [`CallError`] with the plugin's message, or if it lacks the function.
    ///
    /// # Safety
    /// The pointers in `arguments` must be what the header asks of this function.
    pub unsafe fn call<C: Call>(&self, arguments: &mut C) -> Result<(), CallError> {
        type Function<C> = unsafe extern "C" fn(*mut C) -> *mut ffi::Error;
        let function = self.function::<C>().ok_or(CallError::Absent { function: C::FUNCTION })?;
        // SAFETY: `C` belongs to a function of this type.
        let function: Function<C> = unsafe { std::mem::transmute(function) };
        // SAFETY: the caller's promise.
        let error = unsafe { function(arguments) };
        if error.is_null() { Ok(()) } else { Err(self.take(error)) }
    }

    /// Calls one of the two functions that return nothing, where it is there.
    ///
    /// # Safety
    /// As [`Plugin::call`], and `C` belongs to a function without a result.
    unsafe fn call_void<C: Call>(&self, arguments: &mut C) {
        if let Some(function) = self.function::<C>() {
            // SAFETY: the caller's promise.
            let function: unsafe extern "C" fn(*mut C) = unsafe { std::mem::transmute(function) };
            // SAFETY: the caller's promise.
            unsafe { function(arguments) };
        }
    }

    /// The function for these arguments, unless the table ends before it or holds null there.
    fn function<C: Call>(&self) -> Option<NonNull<c_void>> {
        let offset = size_of::<ApiHeader>() + C::INDEX * size_of::<usize>();
        // SAFETY: every table starts with the header.
        let size = unsafe { (*self.api).struct_size };
        if offset + size_of::<usize>() > size {
            return None;
        }
        // SAFETY: inside the table, where a pointer or null lies.
        NonNull::new(unsafe { self.api.byte_add(offset).cast::<*mut c_void>().read() })
    }

    /// Reads an error and gives it back to the plugin.
    fn take(&self, error: *mut ffi::Error) -> CallError {
        let mut code = ffi::ErrorGetCode { error, code: Code::UNKNOWN.0, ..Default::default() };
        let mut text = ffi::ErrorMessage { error, ..Default::default() };
        // SAFETY: an error of this plugin. An error about it is not asked for its own code.
        let again = unsafe { self.call_code(&mut code) };
        // SAFETY: an error of this plugin.
        unsafe { self.call_void(&mut text) };
        // SAFETY: the message lives as long as the error.
        let message = unsafe { text_of(text.message, text.message_size) };
        for error in [again, error] {
            if !error.is_null() {
                // SAFETY: an error of this plugin, not used any more.
                unsafe { self.call_void(&mut ffi::ErrorDestroy { error, ..Default::default() }) };
            }
        }
        CallError::Failed { code: Code(code.code), message }
    }

    /// # Safety
    /// `arguments` holds an error of this plugin.
    unsafe fn call_code(&self, arguments: &mut ffi::ErrorGetCode) -> *mut ffi::Error {
        type Function = unsafe extern "C" fn(*mut ffi::ErrorGetCode) -> *mut ffi::Error;
        let Some(function) = self.function::<ffi::ErrorGetCode>() else { return std::ptr::null_mut() };
        // SAFETY: the type of this function.
        let function: Function = unsafe { std::mem::transmute(function) };
        // SAFETY: the caller's promise.
        unsafe { function(arguments) }
    }
}

/// A copy of a plugin's text.
///
/// # Safety
/// `size` readable bytes from `start`, unless that is null.
pub unsafe fn text_of(start: *const c_char, size: usize) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) };
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The elements of a plugin's array; none if it is null.
///
/// # Safety
/// `count` elements from `start` that stay for `'a`, unless it is null.
pub unsafe fn slice_of<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if start.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count) }
}
