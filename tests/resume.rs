//! A run that is killed at any moment and resumed ends in the same state, bit for bit, as one left alone.
#![cfg(feature = "cpu")]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use switchyard::checkpoint;
use switchyard::report::read_metrics;

const STEPS: u64 = 40;
/// Kills of one run; at most this many, since a run may end before the next.
const KILLS: usize = 4;

const CONFIG: &str = r#"{
    "name": "tiny",
    "model": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 2,
              "moe": {"num_experts": 4, "every": 2}},
    "batch": {"sequences": 4, "input_length": 32},
    "optimizer": {"kind": "adafactor"},
    "schedule": {"kind": "constant", "rate": 0.01, "warmup_steps": 0},
    "data": {"shuffle_examples": 64}
}"#;

struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("tiny.json"), CONFIG).unwrap();
        let text: String = (0..4000).map(|i| format!("line {i} of the text, {}\n", i * i % 97)).collect();
        std::fs::write(root.path().join("text.txt"), text).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn train(&self, run: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.arg("train").arg(self.path("tiny.json")).arg("--data").arg(self.path("text.txt"));
        command.arg("--out").arg(self.path(run)).args(["--checkpoint-every", "3", "--eval-every", "20"]);
        command.args(["--eval-batches", "2"]).args(more);
        // Compile fast: the programs are tiny.
        command.env("XLA_FLAGS", "--xla_backend_optimization_level=0");
        command
    }
}

fn steps() -> [String; 2] {
    ["--steps".into(), STEPS.to_string()]
}

fn finished(output: &Output) -> &Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Step and digest of the newest checkpoint.
fn newest(run: &Path) -> (u64, String) {
    let found = checkpoint::latest(&run.join("checkpoints")).unwrap().checkpoint.unwrap();
    (found.meta().step, found.recorded_digest().to_string())
}

fn losses(run: &Path) -> Vec<(u64, f64, Option<f64>)> {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap();
    records.iter().map(|r| (r.step, r.value("loss").unwrap(), r.value("held_out_loss"))).collect()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_in_the_same_state() {
    let folder = Folder::new();
    let [flag, steps] = steps();
    finished(&folder.train("whole", &[&flag, &steps]).output().unwrap());
    let expected = newest(&folder.path("whole"));
    assert_eq!(expected.0, STEPS);

    let seed = 20240;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let run = folder.path("killed");
    let mut kills = 0;
    for attempt in 0.. {
        let resume = run.join("checkpoints").is_dir()
            && checkpoint::latest(&run.join("checkpoints")).unwrap().checkpoint.is_some();
        let mut arguments = vec![flag.as_str(), &steps];
        arguments.extend(resume.then_some("--resume"));
        let mut command = folder.train("killed", &arguments);
        if kills == KILLS {
            finished(&command.output().unwrap());
            break;
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Any moment from the first checkpoint on; before it there is nothing to lose.
        let goal = if resume { newest(&run).0 + 1 } else { 1 };
        while child.try_wait().unwrap().is_none() && !reached(&run, goal) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..200_000)));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(attempt < 20, "seed {seed}: no end after {attempt} attempts");
    }
    assert!(kills > 0, "seed {seed}: the run ended before any kill");
    assert_eq!(newest(&run), expected, "seed {seed}");
    assert_eq!(losses(&run), losses(&folder.path("whole")), "seed {seed}");
}

/// Whether the metrics tell of this step.
fn reached(run: &Path, step: u64) -> bool {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().last().is_some_and(|line| {
        let record = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
        record["step"].as_u64().is_some_and(|found| found >= step)
    })
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let folder = Folder::new();
    finished(&folder.train("run", &["--steps", "6"]).output().unwrap());
    let good = newest(&folder.path("run"));
    // The same run cannot go on with another rate, so a new one diverges at once.
    let rate = ["--set", "schedule.rate=1e30", "--set", "optimizer.kind=adamw"];
    let output = folder.train("bad", &[&["--steps", "30"][..], &rate].concat()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the loss of step") || message.contains("the gradient of step"), "{message}");
    assert!(message.contains("checkpoint"), "{message}");
    let kept = checkpoint::latest(&folder.path("bad").join("checkpoints")).unwrap().checkpoint;
    for (name, _) in kept.iter().flat_map(|c| c.tensors()) {
        let values = kept.as_ref().unwrap().tensor(name).unwrap().to_f64();
        assert!(values.iter().all(|x| x.is_finite()), "{name} was saved with numbers that are not finite");
    }
    assert_eq!(newest(&folder.path("run")), good);
}
