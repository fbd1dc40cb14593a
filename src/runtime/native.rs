//! Where the XLA library of the CPU runtime lies, and whether its files are whole; loads nothing.

use super::RuntimeError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The environment variable that names another runtime folder (with `lib/`) than the one built with.
pub const RUNTIME_VARIABLE: &str = "SWITCHYARD_RUNTIME";

/// The folder that set-up fills: `$SWITCHYARD_RUNTIME`, else the one of when this program was built.
pub fn runtime_folder() -> PathBuf {
    match std::env::var_os(RUNTIME_VARIABLE) {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(env!("SWITCHYARD_RUNTIME_FOLDER")),
    }
}

/// The folder of the XLA libraries: `$SWITCHYARD_RUNTIME/lib`, else the one given when this program was built.
///
/// Errors: [`RuntimeError::NoCpu`] if the program was built without the feature `cpu`.
pub fn library_folder() -> Result<PathBuf, RuntimeError> {
    let built = option_env!("SWITCHYARD_XLA_LIB").ok_or(RuntimeError::NoCpu)?;
    Ok(match std::env::var_os(RUNTIME_VARIABLE) {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder).join("lib"),
        _ => PathBuf::from(built),
    })
}

/// The library files that the CPU runtime loads, each whole.
///
/// Errors: [`RuntimeError::Library`] for the first that is missing or cut off.
pub fn libraries() -> Result<Vec<PathBuf>, RuntimeError> {
    let folder = library_folder()?;
    let names = option_env!("SWITCHYARD_XLA_FILES").unwrap_or_default();
    let paths = names.split(':').map(|name| folder.join(name));
    paths.map(|path| check_library(&path).map(|()| path)).collect()
}

/// As [`check_elf`], for a file of the XLA library. Errors: [`RuntimeError::Library`].
pub fn check_library(path: &Path) -> Result<(), RuntimeError> {
    check_elf(path).map_err(|problem| RuntimeError::Library { path: path.to_owned(), problem })
}

/// Whether this is a whole 64-bit little-endian ELF file: its section table lies inside the file.
///
/// Errors: what is wrong, in words that follow a path.
pub fn check_elf(path: &Path) -> Result<(), String> {
    let mut header = [0; 64];
    let mut file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_owned(),
        _ => format!("cannot be opened ({e})"),
    })?;
    let size = file.metadata().map_err(|e| format!("cannot be read ({e})"))?.len();
    file.read_exact(&mut header).map_err(|_| "is cut off")?;
    match sections_end(&header) {
        None => Err("is damaged (not an ELF library)".into()),
        Some(end) if end > size => Err(format!("is cut off ({size} of {end} bytes)")),
        Some(_) => Ok(()),
    }
}

/// The offset after the section table: `e_shoff + e_shentsize * e_shnum` (ELF-64 object file format).
fn sections_end(header: &[u8; 64]) -> Option<u64> {
    header.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let offset = u64::from_le_bytes(header[40..48].try_into().ok()?);
    let entry_bytes = u16::from_le_bytes([header[58], header[59]]);
    let entries = u16::from_le_bytes([header[60], header[61]]);
    offset.checked_add(u64::from(entry_bytes) * u64::from(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header whose section table has 2 entries of 64 bytes from byte 100, so the file ends at 228.
    fn header() -> [u8; 64] {
        let mut header = [0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[40] = 100;
        header[58] = 64;
        header[60] = 2;
        header
    }

    fn problem(bytes: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.so");
        std::fs::write(&path, bytes).unwrap();
        check_library(&path).err().map(|e| e.to_string())
    }

    #[test]
    fn a_library_whose_sections_end_with_the_file_is_whole() {
        let mut file = header().to_vec();
        file.resize(228, 0);
        assert_eq!(problem(&file), None);
        assert!(problem(&file[..227]).unwrap().contains("is cut off (227 of 228 bytes): run `make setup`"));
        assert!(problem(&file[..10]).unwrap().contains("is cut off"));
    }

    #[test]
    fn other_files_are_no_library() {
        assert!(problem(&[b'x'; 100]).unwrap().contains("not an ELF library"));
        let missing = check_library(Path::new("/nonexistent/lib.so")).unwrap_err().to_string();
        assert!(missing.contains("is missing: run `make setup`"), "{missing}");
    }
}
