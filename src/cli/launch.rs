//! Hands a command over to the program that has the XLA library linked in.

use crate::runtime::{RuntimeError, native};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "switchyard-cpu";
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// Settings of the C library's allocator, which it reads when a process starts; other systems ignore them.
const ALLOCATOR: &str = "GLIBC_TUNABLES";
/// XLA allocates a step's temporaries anew at each call. By default they come from the kernel each time, page by page and zeroed; kept
/// in the process, in huge pages, they cost nothing (docs/performance.md has the measurement).
const KEEP_MEMORY: [&str; 3] =
    ["glibc.malloc.mmap_max=0", "glibc.malloc.trim_threshold=1099511627776", "glibc.malloc.hugetlb=1"];
/// Operations of TensorFlow's that the XLA library brings along and no program of ours has. Where they are on, which some CPUs make
/// the default, the library says so while it is loaded, before any log level counts.
const UNUSED_OPERATIONS: &str = "TF_ENABLE_ONEDNN_OPTS";

/// Becomes `switchyard-cpu` with the same arguments. Returns only if that is not possible, with the reason.
///
/// The library files are looked at first: the system's own message for a missing one names no cure.
pub fn device_program() -> RuntimeError {
    let (program, folder) = match find() {
        Ok(found) => found,
        Err(error) => return error,
    };
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    if std::env::var_os(native::RUNTIME_VARIABLE).is_some() {
        command.env(LIBRARY_PATH, library_path(&folder));
    }
    if std::env::var_os(UNUSED_OPERATIONS).is_none() {
        command.env(UNUSED_OPERATIONS, "0");
    }
    command.env(ALLOCATOR, allocator_settings(std::env::var(ALLOCATOR).unwrap_or_default()));
    let error = command.exec();
    RuntimeError::Program { path: program, problem: format!("cannot be started ({error})") }
}

/// The program and the folder of its libraries.
fn find() -> Result<(PathBuf, PathBuf), RuntimeError> {
    native::libraries()?;
    let here = std::env::current_exe().unwrap_or_default();
    let program = here.with_file_name(PROGRAM);
    if !program.is_file() {
        let problem = "is missing; it belongs beside `switchyard`".to_owned();
        return Err(RuntimeError::Program { path: program, problem });
    }
    Ok((program, native::library_folder()?))
}

/// Ours before the user's: of two settings of one name the last counts.
fn allocator_settings(user: String) -> String {
    let user = Some(user.as_str()).filter(|settings| !settings.is_empty());
    KEEP_MEMORY.into_iter().chain(user).collect::<Vec<_>>().join(":")
}

/// `folder` before whatever the user has set.
fn library_path(folder: &Path) -> OsString {
    let before = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
    let rest = std::env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
    let all = std::iter::once(folder.to_owned()).chain(rest);
    std::env::join_paths(all).unwrap_or_else(|_| folder.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_allocator_settings_come_last() {
        let settings = allocator_settings("glibc.malloc.hugetlb=0".into());
        assert!(settings.ends_with(":glibc.malloc.hugetlb=1:glibc.malloc.hugetlb=0"), "{settings}");
        assert!(!allocator_settings(String::new()).ends_with(':'));
    }
}
