//! Compares the declarations with the header, through the C compiler.

use super::ffi::{self, ApiHeader, Layout};
use crate::ir::DType;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn include_folder() -> PathBuf {
    std::env::var_os("XLA_EXTENSION_DIR").map_or(".runtime".into(), PathBuf::from).join("include")
}

/// What a C program with these statements in `main` prints.
fn run_c(include: &Path, statements: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("offsets.c"), folder.path().join("offsets"));
    let text = format!(
        "#include <stdio.h>\n#include \"xla/pjrt/c/pjrt_c_api.h\"\nint main(void) {{\n{statements}return 0;\n}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or("cc".into());
    let built = Command::new(compiler).arg("-I").arg(include).arg(&source).arg("-o").arg(&program).output();
    let built = built.ok()?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap())
}

/// One line of output and what it must be.
struct Expected(String, usize);

fn expectations() -> (String, Vec<Expected>) {
    let (mut statements, mut expected) = (String::new(), vec![]);
    let mut expect = |what: String, value: usize| {
        let _ = writeln!(statements, "  printf(\"%zu\\n\", (size_t)({what}));");
        expected.push(Expected(what, value));
    };
    let fields = |layout: &Layout, c_struct: &str, expect: &mut dyn FnMut(String, usize)| {
        for (field, offset) in &layout.fields {
            expect(format!("offsetof({c_struct}, {})", field.trim_start_matches("r#")), *offset);
        }
        expect(format!("{c_struct}_STRUCT_SIZE"), layout.end);
    };
    for layout in ffi::layouts() {
        let place = size_of::<ApiHeader>() + layout.index * size_of::<usize>();
        expect(format!("offsetof(PJRT_Api, {})", layout.name), place);
        fields(&layout, &format!("{}_Args", layout.name), &mut expect);
    }
    for layout in ffi::other_layouts() {
        fields(&layout, layout.name, &mut expect);
    }
    expect("offsetof(PJRT_Api, pjrt_api_version)".into(), std::mem::offset_of!(ApiHeader, version));
    expect("offsetof(PJRT_NamedValue, string_value)".into(), std::mem::offset_of!(ffi::NamedValue, value));
    for dtype in DType::ALL {
        let name = format!("PJRT_Buffer_Type_{}", dtype.name().to_uppercase());
        expect(name, ffi::buffer_type(dtype) as usize);
    }
    expect(
        "PJRT_HostBufferSemantics_kImmutableOnlyDuringCall".into(),
        ffi::IMMUTABLE_ONLY_DURING_CALL as usize,
    );
    (statements, expected)
}

#[test]
fn every_struct_lies_as_in_the_header() {
    let include = include_folder();
    if !include.join("xla/pjrt/c/pjrt_c_api.h").is_file() {
        eprintln!("skipped: no XLA headers (XLA_EXTENSION_DIR or .runtime)");
        return;
    }
    let (statements, expected) = expectations();
    let Some(output) = run_c(&include, &statements) else {
        eprintln!("skipped: no C compiler (CC or cc)");
        return;
    };
    let found: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(found.len(), expected.len());
    let wrong: Vec<String> = expected
        .iter()
        .zip(&found)
        .filter(|(Expected(_, ours), theirs)| ours != *theirs)
        .map(|(Expected(what, ours), theirs)| format!("{what} is {theirs}, declared as {ours}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
