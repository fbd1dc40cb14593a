//! The part of `pjrt_c_api.h` that this package calls, declared by hand.
//!
//! A plugin exports one function that returns a table of functions. Each takes one struct of arguments, of which the
//! caller says how large it is, and returns an error or null. A test compares every offset with the header.

use crate::ir::DType;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// The function that a plugin exports.
pub const ENTRY: &[u8] = b"GetPjrtApi\0";
pub type Entry = unsafe extern "C" fn() -> *const ApiHeader;

/// Bytes of zeros that follow every argument struct. A plugin made with a newer header takes them for fields that are
/// not given, where it would refuse a struct that ends before them; an older one ignores them.
const TAIL: usize = 64;

/// The start of the function table; after it comes one pointer per function.
#[repr(C)]
pub struct ApiHeader {
    /// Of the header and all functions.
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub version: Version,
}

/// `PJRT_Api_Version`.
#[repr(C)]
pub struct Version {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub major: c_int,
    pub minor: c_int,
}

macro_rules! handles {
    ($($(#[$meta:meta])* $name:ident)*) => { $(
        $(#[$meta])*
        #[repr(C)]
        pub struct $name { opaque: [u8; 0] }
    )* };
}

handles! {
    /// What a function reports instead of null.
    Error
    /// The end of a copy.
    Event
    /// A runtime with its devices.
    Client
    Device
    DeviceDescription
    /// Devices that need not exist.
    Topology
    /// A compiled program.
    Executable
    /// A compiled program on the devices of a client.
    LoadedExecutable
    /// A value on a device.
    Buffer
    /// Keeps the bytes of a serialized executable.
    SerializedExecutable
}

/// The arguments of one function.
///
/// # Safety
/// `INDEX` is the place of a function in the table that takes a pointer to this struct and returns an error.
pub unsafe trait Call {
    /// The name in the header.
    const FUNCTION: &'static str;
    /// The place in the table, after [`ApiHeader`].
    const INDEX: usize;
}

macro_rules! calls {
    ($( $(#[$meta:meta])* $name:ident = $function:literal at $index:literal {
        $( $(#[$field_meta:meta])* $field:ident : $ty:ty ),* $(,)?
    } )*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            pub struct $name {
                pub struct_size: usize,
                pub extension_start: *mut c_void,
                $( $(#[$field_meta])* pub $field: $ty, )*
                pub tail: [u8; TAIL],
            }

            impl Default for $name {
                fn default() -> Self {
                    // SAFETY: integers, pointers and options of function pointers may be all zeros.
                    let zeros: Self = unsafe { std::mem::zeroed() };
                    Self { struct_size: size_of::<Self>(), ..zeros }
                }
            }

            // SAFETY: index and fields are those of the header.
            unsafe impl Call for $name {
                const FUNCTION: &'static str = $function;
                const INDEX: usize = $index;
            }
        )*

        #[cfg(test)]
        pub(super) fn layouts() -> Vec<Layout> {
            vec![$( Layout {
                name: $function,
                index: $index,
                fields: vec![$( (stringify!($field), std::mem::offset_of!($name, $field)) ),*],
                end: std::mem::offset_of!($name, tail),
            } ),*]
        }
    };
}

calls! {
    ErrorDestroy = "PJRT_Error_Destroy" at 0 { error: *mut Error }
    ErrorMessage = "PJRT_Error_Message" at 1 { error: *const Error, message: *const c_char, message_size: usize }
    ErrorGetCode = "PJRT_Error_GetCode" at 2 { error: *const Error, code: c_int }

    PluginInitialize = "PJRT_Plugin_Initialize" at 3 {}

    EventDestroy = "PJRT_Event_Destroy" at 5 { event: *mut Event }
    EventAwait = "PJRT_Event_Await" at 8 { event: *mut Event }

    ClientCreate = "PJRT_Client_Create" at 10 {
        create_options: *const NamedValue,
        num_options: usize,
        kv_get_callback: *mut c_void,
        kv_get_user_arg: *mut c_void,
        kv_put_callback: *mut c_void,
        kv_put_user_arg: *mut c_void,
        client: *mut Client,
        kv_try_get_callback: *mut c_void,
        kv_try_get_user_arg: *mut c_void,
    }
    ClientDestroy = "PJRT_Client_Destroy" at 11 { client: *mut Client }
    ClientPlatformName = "PJRT_Client_PlatformName" at 12 {
        client: *mut Client,
        platform_name: *const c_char,
        platform_name_size: usize,
    }
    ClientPlatformVersion = "PJRT_Client_PlatformVersion" at 14 {
        client: *mut Client,
        platform_version: *const c_char,
        platform_version_size: usize,
    }
    ClientAddressableDevices = "PJRT_Client_AddressableDevices" at 16 {
        client: *mut Client,
        addressable_devices: *const *mut Device,
        num_addressable_devices: usize,
    }
    ClientCompile = "PJRT_Client_Compile" at 20 {
        client: *mut Client,
        program: *const Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        executable: *mut LoadedExecutable,
    }
    ClientBufferFromHostBuffer = "PJRT_Client_BufferFromHostBuffer" at 22 {
        client: *mut Client,
        data: *const c_void,
        /// A [`buffer_type`].
        r#type: c_int,
        dims: *const i64,
        num_dims: usize,
        byte_strides: *const i64,
        num_byte_strides: usize,
        host_buffer_semantics: c_int,
        device: *mut Device,
        memory: *mut c_void,
        device_layout: *const MemoryLayout,
        done_with_host_buffer: *mut Event,
        buffer: *mut Buffer,
    }

    DeviceDescriptionId = "PJRT_DeviceDescription_Id" at 23 {
        device_description: *mut DeviceDescription,
        id: c_int,
    }
    DeviceDescriptionKind = "PJRT_DeviceDescription_Kind" at 26 {
        device_description: *mut DeviceDescription,
        device_kind: *const c_char,
        device_kind_size: usize,
    }
    DeviceDescriptionToString = "PJRT_DeviceDescription_ToString" at 28 {
        device_description: *mut DeviceDescription,
        to_string: *const c_char,
        to_string_size: usize,
    }
    DeviceGetDescription = "PJRT_Device_GetDescription" at 29 {
        device: *mut Device,
        device_description: *mut DeviceDescription,
    }
    DeviceMemoryStats = "PJRT_Device_MemoryStats" at 34 {
        device: *mut Device,
        bytes_in_use: i64,
        peak_bytes_in_use: i64,
        peak_bytes_in_use_is_set: bool,
        num_allocs: i64,
        num_allocs_is_set: bool,
        largest_alloc_size: i64,
        largest_alloc_size_is_set: bool,
        bytes_limit: i64,
        bytes_limit_is_set: bool,
        bytes_reserved: i64,
        bytes_reserved_is_set: bool,
        peak_bytes_reserved: i64,
        peak_bytes_reserved_is_set: bool,
        bytes_reservable_limit: i64,
        bytes_reservable_limit_is_set: bool,
        largest_free_block_bytes: i64,
        largest_free_block_bytes_is_set: bool,
        pool_bytes: i64,
        pool_bytes_is_set: bool,
        peak_pool_bytes: i64,
        peak_pool_bytes_is_set: bool,
    }

    ExecutableDestroy = "PJRT_Executable_Destroy" at 40 { executable: *mut Executable }
    ExecutableNumOutputs = "PJRT_Executable_NumOutputs" at 44 {
        executable: *mut Executable,
        num_outputs: usize,
    }
    ExecutableGetCostAnalysis = "PJRT_Executable_GetCostAnalysis" at 46 {
        executable: *mut Executable,
        num_properties: usize,
        properties: *const NamedValue,
    }
    ExecutableOptimizedProgram = "PJRT_Executable_OptimizedProgram" at 48 {
        executable: *mut Executable,
        program: *mut Program,
    }
    ExecutableSerialize = "PJRT_Executable_Serialize" at 49 {
        executable: *const Executable,
        serialized_bytes: *const c_char,
        serialized_bytes_size: usize,
        serialized_executable: *mut SerializedExecutable,
        serialized_executable_deleter: Option<unsafe extern "C" fn(*mut SerializedExecutable)>,
    }
    LoadedExecutableDestroy = "PJRT_LoadedExecutable_Destroy" at 50 { executable: *mut LoadedExecutable }
    LoadedExecutableGetExecutable = "PJRT_LoadedExecutable_GetExecutable" at 51 {
        loaded_executable: *mut LoadedExecutable,
        executable: *mut Executable,
    }
    LoadedExecutableAddressableDevices = "PJRT_LoadedExecutable_AddressableDevices" at 52 {
        executable: *mut LoadedExecutable,
        addressable_devices: *const *mut Device,
        num_addressable_devices: usize,
    }
    LoadedExecutableExecute = "PJRT_LoadedExecutable_Execute" at 55 {
        executable: *mut LoadedExecutable,
        options: *const ExecuteOptions,
        argument_lists: *const *const *mut Buffer,
        num_devices: usize,
        num_args: usize,
        output_lists: *const *mut *mut Buffer,
        device_complete_events: *mut *mut Event,
        execute_device: *mut Device,
    }
    ExecutableDeserializeAndLoad = "PJRT_Executable_DeserializeAndLoad" at 56 {
        client: *mut Client,
        serialized_executable: *const c_char,
        serialized_executable_size: usize,
        loaded_executable: *mut LoadedExecutable,
        overridden_serialized_compile_options: *const c_char,
        overridden_serialized_compile_options_size: usize,
    }

    BufferDestroy = "PJRT_Buffer_Destroy" at 58 { buffer: *mut Buffer }
    BufferToHostBuffer = "PJRT_Buffer_ToHostBuffer" at 70 {
        src: *mut Buffer,
        host_layout: *const MemoryLayout,
        dst: *mut c_void,
        dst_size: usize,
        event: *mut Event,
    }

    TopologyCreate = "PJRT_TopologyDescription_Create" at 82 {
        topology_name: *const c_char,
        topology_name_size: usize,
        create_options: *const NamedValue,
        num_options: usize,
        topology: *mut Topology,
    }
    TopologyDestroy = "PJRT_TopologyDescription_Destroy" at 83 { topology: *mut Topology }
    TopologyPlatformVersion = "PJRT_TopologyDescription_PlatformVersion" at 85 {
        topology: *mut Topology,
        platform_version: *const c_char,
        platform_version_size: usize,
    }
    TopologyGetDeviceDescriptions = "PJRT_TopologyDescription_GetDeviceDescriptions" at 86 {
        topology: *const Topology,
        descriptions: *const *mut DeviceDescription,
        num_descriptions: usize,
    }
    TopologyAttributes = "PJRT_TopologyDescription_Attributes" at 88 {
        topology: *mut Topology,
        attributes: *const NamedValue,
        num_attributes: usize,
    }
    Compile = "PJRT_Compile" at 89 {
        topology: *const Topology,
        program: *const Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        client: *mut Client,
        executable: *mut Executable,
    }
    ExecutableGetCompiledMemoryStats = "PJRT_Executable_GetCompiledMemoryStats" at 96 {
        executable: *mut Executable,
        generated_code_size_in_bytes: i64,
        argument_size_in_bytes: i64,
        output_size_in_bytes: i64,
        alias_size_in_bytes: i64,
        temp_size_in_bytes: i64,
        host_generated_code_size_in_bytes: i64,
        host_argument_size_in_bytes: i64,
        host_output_size_in_bytes: i64,
        host_alias_size_in_bytes: i64,
        host_temp_size_in_bytes: i64,
        peak_memory_in_bytes: i64,
        total_size_in_bytes: i64,
    }
}

/// `PJRT_Program`: a module and the name of its format.
#[repr(C)]
pub struct Program {
    struct_size: usize,
    extension_start: *mut c_void,
    pub code: *mut c_char,
    pub code_size: usize,
    pub format: *const c_char,
    pub format_size: usize,
    tail: [u8; TAIL],
}

impl Program {
    /// A program in this format.
    pub fn new(code: *mut c_char, code_size: usize, format: &str) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            extension_start: ptr::null_mut(),
            code,
            code_size,
            format: format.as_ptr().cast(),
            format_size: format.len(),
            tail: [0; TAIL],
        }
    }
}

/// `PJRT_NamedValue`. Stands in arrays, so it has no tail.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NamedValue {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub name: *const c_char,
    pub name_size: usize,
    /// String, int64, list of int64, float or bool, from 0.
    pub r#type: c_int,
    /// A union: a pointer, an integer, a float or a bool in its first bytes.
    pub value: u64,
    pub value_size: usize,
}

/// `PJRT_Buffer_MemoryLayout` in its tiled form.
#[repr(C)]
pub struct MemoryLayout {
    struct_size: usize,
    extension_start: *mut c_void,
    tiled: TiledLayout,
    /// 0: tiled.
    r#type: c_int,
    tail: [u8; TAIL],
}

/// `PJRT_Buffer_MemoryLayout_Tiled`. Part of a union, so it has no tail.
#[repr(C)]
struct TiledLayout {
    struct_size: usize,
    extension_start: *mut c_void,
    minor_to_major: *const i64,
    minor_to_major_size: usize,
    tile_dims: *const i64,
    tile_dim_sizes: *const usize,
    num_tiles: usize,
}

impl MemoryLayout {
    /// The dense layout with this order of dimensions, fastest first, which must outlive it.
    pub fn dense(minor_to_major: &[i64]) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            extension_start: ptr::null_mut(),
            tiled: TiledLayout {
                struct_size: size_of::<TiledLayout>(),
                extension_start: ptr::null_mut(),
                minor_to_major: minor_to_major.as_ptr(),
                minor_to_major_size: minor_to_major.len(),
                tile_dims: ptr::null(),
                tile_dim_sizes: ptr::null(),
                num_tiles: 0,
            },
            r#type: 0,
            tail: [0; TAIL],
        }
    }
}

/// `PJRT_ExecuteOptions`.
#[repr(C)]
pub struct ExecuteOptions {
    struct_size: usize,
    extension_start: *mut c_void,
    send_callbacks: *mut c_void,
    recv_callbacks: *mut c_void,
    num_send_ops: usize,
    num_recv_ops: usize,
    launch_id: c_int,
    non_donatable_input_indices: *const i64,
    num_non_donatable_input_indices: usize,
    context: *mut c_void,
    call_location: *const c_char,
    num_tasks: usize,
    task_ids: *mut c_int,
    incarnation_ids: *mut i64,
    tail: [u8; TAIL],
}

impl ExecuteOptions {
    /// Inputs that stay valid, by number; the list must outlive the options.
    pub fn keeping(inputs: &[i64]) -> Self {
        // SAFETY: integers and pointers may be all zeros.
        let zeros: Self = unsafe { std::mem::zeroed() };
        Self {
            struct_size: size_of::<Self>(),
            non_donatable_input_indices: inputs.as_ptr(),
            num_non_donatable_input_indices: inputs.len(),
            ..zeros
        }
    }
}

/// `PJRT_HostBufferSemantics_kImmutableOnlyDuringCall`: the data are copied before the call returns.
pub const IMMUTABLE_ONLY_DURING_CALL: c_int = 0;

/// The number in `PJRT_Buffer_Type`.
pub fn buffer_type(dtype: DType) -> c_int {
    match dtype {
        DType::Pred => 1,
        DType::S8 => 2,
        DType::S32 => 4,
        DType::S64 => 5,
        DType::U8 => 6,
        DType::U32 => 8,
        DType::U64 => 9,
        DType::F16 => 10,
        DType::F32 => 11,
        DType::F64 => 12,
        DType::Bf16 => 13,
    }
}

/// Where a struct's fields lie, for comparison with the header.
#[cfg(test)]
pub(super) struct Layout {
    /// The function, or the struct where no function belongs to it.
    pub name: &'static str,
    pub index: usize,
    pub fields: Vec<(&'static str, usize)>,
    /// The offset after the last field.
    pub end: usize,
}

/// The structs that are not the arguments of a function; their index says nothing.
#[cfg(test)]
pub(super) fn other_layouts() -> Vec<Layout> {
    macro_rules! layout {
        ($name:literal, $ty:ident, [$($field:ident),*], $end:expr) => {
            Layout {
                name: $name,
                index: 0,
                fields: vec![$( (stringify!($field), std::mem::offset_of!($ty, $field)) ),*],
                end: $end,
            }
        };
    }
    use std::mem::offset_of;
    vec![
        layout!("PJRT_Api_Version", Version, [struct_size], size_of::<Version>()),
        layout!("PJRT_Program", Program, [code, code_size, format, format_size], offset_of!(Program, tail)),
        layout!(
            "PJRT_NamedValue",
            NamedValue,
            [name, name_size, r#type, value_size],
            size_of::<NamedValue>()
        ),
        layout!(
            "PJRT_Buffer_MemoryLayout_Tiled",
            TiledLayout,
            [minor_to_major, minor_to_major_size, tile_dims, tile_dim_sizes, num_tiles],
            size_of::<TiledLayout>()
        ),
        layout!("PJRT_Buffer_MemoryLayout", MemoryLayout, [tiled, r#type], offset_of!(MemoryLayout, tail)),
        layout!(
            "PJRT_ExecuteOptions",
            ExecuteOptions,
            [
                send_callbacks,
                recv_callbacks,
                num_send_ops,
                num_recv_ops,
                launch_id,
                non_donatable_input_indices,
                num_non_donatable_input_indices,
                context,
                call_location,
                num_tasks,
                task_ids,
                incarnation_ids
            ],
            offset_of!(ExecuteOptions, tail)
        ),
    ]
}
