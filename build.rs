//! Tells the binaries where the XLA library lies: run path, and the names that messages and checks use.
//!
//! The run path that crate `xla` asks for does not reach this package's targets, so it is given here.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=XLA_EXTENSION_DIR");
    println!("cargo:rustc-env=SWITCHYARD_RUNTIME_FOLDER={}", runtime_folder().display());
    if env::var_os("CARGO_FEATURE_CPU").is_none() {
        return;
    }
    let lib = runtime_folder().join("lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // `switchyard` reaches no XLA code, so the linker can drop all of it and then does not name the library. But
    // inline C++ functions that the library defines too count as reached from there, unless they are hidden.
    println!("cargo:rustc-link-arg-bin=switchyard=-Wl,--exclude-libs,ALL");
    println!("cargo:rustc-env=SWITCHYARD_XLA_LIB={}", lib.display());
    println!("cargo:rustc-env=SWITCHYARD_XLA_FILES={}", library_files(&lib).join(":"));
}

/// `XLA_EXTENSION_DIR`, which `.cargo/config.toml` sets where the user has not.
fn runtime_folder() -> PathBuf {
    match env::var_os("XLA_EXTENSION_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join(".runtime"),
    }
}

/// The libraries that a linked program loads: `libxla_extension.so` itself, or what it names as a linker script.
fn library_files(lib: &Path) -> Vec<String> {
    let name = "libxla_extension.so";
    println!("cargo:rerun-if-changed={}", lib.join(name).display());
    let script = fs::metadata(lib.join(name))
        .ok()
        .filter(|file| file.len() < 4096)
        .and_then(|_| fs::read_to_string(lib.join(name)).ok());
    match script.as_deref().and_then(|s| s.trim().strip_prefix("INPUT(")?.strip_suffix(')')) {
        Some(names) => names.split_whitespace().map(str::to_owned).collect(),
        None => vec![name.to_owned()],
    }
}
