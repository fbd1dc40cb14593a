//! A folder with tiny configurations and some text, and the program run in it.
#![allow(dead_code)] // each test program uses a part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Encoder and decoder with a sparse block each; two microbatches per step.
pub const SPANS: &str = r#"{
    "name": "spans",
    "model": {"d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1,
              "moe": {"num_experts": 2, "every": 1}},
    "batch": {"sequences": 4, "input_length": 16, "accumulation": 2},
    "optimizer": {"kind": "adafactor", "min_dim_size_to_factor": 8},
    "schedule": {"kind": "constant", "rate": 0.01, "warmup_steps": 2},
    "data": {"shuffle_examples": 64, "held_out": 0.1}
}"#;

/// One sparse block that predicts the next byte: the fastest to compile.
pub const CAUSAL: &str = r#"{
    "name": "causal",
    "model": {"architecture": "decoder_only", "d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2,
              "num_encoder_layers": 0, "num_decoder_layers": 1, "moe": {"num_experts": 2, "every": 1}},
    "batch": {"sequences": 4, "input_length": 16},
    "optimizer": {"kind": "adamw"},
    "schedule": {"kind": "constant", "rate": 0.001, "warmup_steps": 0},
    "data": {"objective": {"kind": "causal"}, "shuffle_examples": 64, "held_out": 0.1}
}"#;

/// A temporary folder with `spans.json`, `causal.json` and the folder `text`; programs run in it.
pub struct Workspace {
    root: tempfile::TempDir,
}

impl Workspace {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("spans.json"), SPANS).unwrap();
        std::fs::write(root.path().join("causal.json"), CAUSAL).unwrap();
        let text = root.path().join("text");
        std::fs::create_dir(&text).unwrap();
        for name in ["a", "b", "c"] {
            let lines = (0..1500).map(|i| format!("line {i} of file {name}, {}\n", i * i % 97));
            std::fs::write(text.join(name), lines.collect::<String>()).unwrap();
        }
        Self { root }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(name)
    }

    /// `switchyard` with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        // Programs this small gain nothing from XLA's optimizer, which takes most of the time.
        command.args(arguments).env("XLA_FLAGS", "--xla_backend_optimization_level=0");
        command.current_dir(self.root.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Finished {
        Finished::new(self.command(arguments).output().unwrap())
    }

    /// Runs what must succeed; returns what it printed.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.stderr);
        finished.stdout
    }

    /// Runs what must fail with exit status 1 and one line; returns the line without `error: `.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments);
        assert_eq!(finished.code, Some(1), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
        finished.error()
    }

    /// `train` on the text, with few and small evaluations.
    pub fn train<'a>(config: &'a str, run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let common = ["train", config, "--data", "text", "--out", run, "--eval-batches", "2"];
        [&common, more].concat()
    }

    /// Copies a folder of files and folders.
    pub fn copy(&self, from: &str, to: &str) {
        fn copy(from: &Path, to: &Path) {
            std::fs::create_dir(to).unwrap();
            for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
                let target = to.join(entry.file_name());
                match entry.file_type().unwrap().is_dir() {
                    true => copy(&entry.path(), &target),
                    false => drop(std::fs::copy(entry.path(), target).unwrap()),
                }
            }
        }
        copy(&self.path(from), &self.path(to));
    }
}

/// How a program ended.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The last line of standard error without `error: `.
    pub fn error(&self) -> String {
        let line = self.stderr.lines().last().unwrap_or_default();
        let message = line.strip_prefix("error: ");
        message.unwrap_or_else(|| panic!("no error line in: {}", self.stderr)).to_owned()
    }
}

/// A workspace in which `run` holds 3 steps of `spans.json`, and what the training printed. Shared: change copies only.
pub fn trained() -> &'static (Workspace, Finished) {
    static TRAINED: OnceLock<(Workspace, Finished)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let workspace = Workspace::new();
        let finished = workspace.run(&Workspace::train("spans.json", "run", &["--steps", "3"]));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        (workspace, finished)
    })
}
