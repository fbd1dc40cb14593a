//! The program that people type stays free of the XLA library, and says what to do when that is missing.

use std::path::Path;
use std::process::{Command, Output};

fn switchyard() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.env_remove("LD_LIBRARY_PATH");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[test]
fn help_and_version_need_no_runtime() {
    for argument in ["--help", "--version"] {
        let output = run(switchyard().arg(argument).env("SWITCHYARD_RUNTIME", "/nonexistent"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).to_lowercase().contains("switchyard"));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_thin_program_names_no_xla_library() {
    let needed = elf::needed(Path::new(env!("CARGO_BIN_EXE_switchyard")));
    assert!(needed.iter().any(|name| name.starts_with("libc.so")), "{needed:?}");
    let heavy = |name: &String| ["tensorflow", "pjrt", "xla"].iter().any(|part| name.contains(part));
    assert!(!needed.iter().any(heavy), "{needed:?}");
}

#[cfg(feature = "cpu")]
#[test]
fn a_missing_runtime_is_one_message_that_names_the_command_to_run() {
    let output = run(switchyard().arg("doctor").env("SWITCHYARD_RUNTIME", "/nonexistent"));
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stdout);
    let line = message.lines().find(|line| line.starts_with("cpu ")).unwrap_or_default();
    assert!(line.contains("/nonexistent/lib/") && line.contains("is missing: run `make setup`"), "{message}");
}

#[cfg(feature = "cpu")]
#[test]
fn a_truncated_library_is_found_before_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lib")).unwrap();
    for library in switchyard::runtime::native::libraries().unwrap() {
        let start = std::fs::read(&library).unwrap()[..4096].to_vec();
        std::fs::write(folder.path().join("lib").join(library.file_name().unwrap()), start).unwrap();
    }
    let output = run(switchyard().arg("doctor").env("SWITCHYARD_RUNTIME", folder.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("is cut off (4096 of "), "{}", text(&output.stdout));
}

#[cfg(feature = "cpu")]
#[test]
fn device_commands_are_handed_to_the_program_with_the_runtime() {
    let output = run(switchyard().args(["doctor", "--json", "--devices", "3"]).env_remove("XLA_FLAGS"));
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "the runtime's own log lines must not reach the user");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["runtime"]["devices"].as_array().map(Vec::len), Some(3));
    let program = Path::new(report["program"].as_str().unwrap_or_default());
    assert_eq!(program.file_name(), Some("switchyard-cpu".as_ref()));
}

#[cfg(not(feature = "cpu"))]
#[test]
fn without_the_cpu_feature_doctor_says_so() {
    let output = run(switchyard().arg("doctor"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("this build has no CPU runtime"), "{}", text(&output.stdout));
}

/// As much of the ELF-64 format as it takes to list `DT_NEEDED`.
#[cfg(target_os = "linux")]
mod elf {
    use std::path::Path;

    const PT_LOAD: u64 = 1;
    const PT_DYNAMIC: u64 = 2;
    const DT_NEEDED: u64 = 1;
    const DT_STRTAB: u64 = 5;

    struct Segment {
        kind: u64,
        offset: usize,
        address: u64,
        size_bytes: usize,
    }

    pub fn needed(path: &Path) -> Vec<String> {
        let file = std::fs::read(path).unwrap();
        let segments = segments(&file);
        let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC).unwrap();
        let entries: Vec<(u64, u64)> = file[dynamic.offset..dynamic.offset + dynamic.size_bytes]
            .chunks_exact(16)
            .map(|entry| (number(entry, 0, 8), number(entry, 8, 8)))
            .collect();
        let table = entries.iter().find(|entry| entry.0 == DT_STRTAB).unwrap().1;
        let strings = file_offset(&segments, table);
        let needed = entries.iter().filter(|entry| entry.0 == DT_NEEDED);
        needed.map(|entry| string(&file[strings + entry.1 as usize..])).collect()
    }

    fn segments(file: &[u8]) -> Vec<Segment> {
        let (start, bytes, count) = (number(file, 32, 8), number(file, 54, 2), number(file, 56, 2));
        let headers = (0..count).map(|i| &file[(start + i * bytes) as usize..]);
        let segment = |h: &[u8]| Segment {
            kind: number(h, 0, 4),
            offset: number(h, 8, 8) as usize,
            address: number(h, 16, 8),
            size_bytes: number(h, 32, 8) as usize,
        };
        headers.map(segment).collect()
    }

    fn file_offset(segments: &[Segment], address: u64) -> usize {
        let inside = |s: &&Segment| {
            s.kind == PT_LOAD && (s.address..s.address + s.size_bytes as u64).contains(&address)
        };
        let segment = segments.iter().find(inside).unwrap();
        (address - segment.address) as usize + segment.offset
    }

    fn number(bytes: &[u8], at: usize, size_bytes: usize) -> u64 {
        bytes[at..at + size_bytes].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    fn string(bytes: &[u8]) -> String {
        let end = bytes.iter().position(|&b| b == 0).unwrap();
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}
