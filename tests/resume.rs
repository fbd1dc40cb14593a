//! A run that is killed at any moment and resumed ends in the same state, bit for bit, as one left alone.
#![cfg(feature = "cpu")]

mod workspace;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use switchyard::checkpoint::{self, Checkpoint};
use switchyard::report::{Record, read_metrics};
use workspace::Workspace;

const STEPS: u64 = 40;
/// Kills of one run; at most this many, since a run may end before the next.
const KILLS: usize = 4;
/// Of the moments of the kills.
const SEED: u64 = 20240;
const OPTIONS: [&str; 6] = ["--steps", "40", "--checkpoint-every", "4", "--eval-every", "10"];

/// The newest checkpoint, if there is one.
fn newest(run: &Path) -> Option<Checkpoint> {
    checkpoint::latest(&run.join("checkpoints")).unwrap().checkpoint
}

fn newest_step(run: &Path) -> u64 {
    newest(run).map_or(0, |checkpoint| checkpoint.meta().step)
}

/// All that is recorded of the steps, but for their speed.
fn records(run: &Path) -> Vec<Record> {
    let mut records = read_metrics(&run.join("metrics.jsonl")).unwrap();
    for record in &mut records {
        record.values.retain(|(name, _)| name != "tokens_per_second");
    }
    records
}

/// Whether the metrics tell of this step.
fn reached(run: &Path, step: u64) -> bool {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let last = text.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    last.is_some_and(|record| record["step"].as_u64() >= Some(step))
}

/// Whether a checkpoint is being written.
fn saving(run: &Path) -> bool {
    let entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|e| e == "partial"))
}

/// Waits until `moment`, or until the process has ended; returns whether it has.
fn ended_before(child: &mut Child, moment: impl Fn() -> bool) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        if moment() {
            return false;
        }
        std::thread::yield_now();
    }
}

/// Starts the run or goes on with it and kills it; returns whether it came to its end before that.
fn start_and_kill(workspace: &Workspace, run: &Path, number: usize, rng: &mut ChaCha8Rng) -> bool {
    let resume = newest(run).map(|_| "--resume");
    let options: Vec<&str> = OPTIONS.into_iter().chain(resume).collect();
    let mut command = workspace.command(&Workspace::train("spans.json", "killed", &options));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let next = newest_step(run) + 1;
    let ended = match number % 2 {
        // Any moment once the metrics have reached a new step ..
        0 => {
            let ended = ended_before(&mut child, || reached(run, next));
            std::thread::sleep(Duration::from_micros(rng.random_range(0..60_000)));
            ended || child.try_wait().unwrap().is_some()
        }
        // .. and while a checkpoint is being written.
        _ => ended_before(&mut child, || reached(run, next) && saving(run)),
    };
    if !ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(!ended || status.success(), "the run failed by itself: {status}");
    ended
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_in_the_same_state() {
    let workspace = Workspace::new();
    let printed = workspace.succeed(&Workspace::train("spans.json", "whole", &OPTIONS));
    let expected = newest(&workspace.path("whole")).unwrap();
    assert_eq!(expected.meta().step, STEPS);
    assert!(printed.contains(&format!("(state {})", expected.recorded_digest())), "{printed}");

    println!("seed of the moments: {SEED}"); // shown when the test fails
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let run = workspace.path("killed");
    let kills = (0..KILLS).take_while(|&n| !start_and_kill(&workspace, &run, n, &mut rng)).count();
    println!("{kills} kills, the last after step {}", newest_step(&run));
    assert!(kills > 0);
    let resume = newest(&run).map(|_| "--resume");
    let options: Vec<&str> = OPTIONS.into_iter().chain(resume).collect();
    workspace.succeed(&Workspace::train("spans.json", "killed", &options));

    let found = newest(&run).unwrap();
    assert_eq!(found.meta(), expected.meta());
    assert_eq!(found.recorded_digest(), expected.recorded_digest());
    // The losses on held-out text are among them.
    let (whole, killed) = (records(&workspace.path("whole")), records(&run));
    assert!(whole.iter().map(|record| record.step).eq(1..=STEPS));
    assert_eq!(whole.iter().filter(|record| record.value("held_out_loss").is_some()).count(), 4);
    assert_eq!(killed, whole);
    assert!(!saving(&run), "leftovers of killed runs are gone");
}

/// Files in the folder of checkpoints.
fn files(run: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let workspace = Workspace::new();
    let rate = ["--steps", "30", "--checkpoint-every", "1", "--set", "schedule.rate=1e30"];
    let message = workspace.fail(&Workspace::train("causal.json", "run", &rate));
    let kept = newest(&workspace.path("run")).unwrap();
    let step = kept.meta().step + 1;
    let file = format!("run/checkpoints/step_{:08}.safetensors", kept.meta().step);
    assert!(message.contains(&format!(" of step {step} is ")), "{message}");
    assert!(message.contains(&format!("the last good checkpoint is `{file}`")), "{message}");
    for (name, _) in kept.tensors() {
        assert!(kept.tensor(name).unwrap().is_finite(), "`{name}` was saved");
    }
    // The step that failed is on record.
    let records = read_metrics(&workspace.path("run/metrics.jsonl")).unwrap();
    assert_eq!(records.last().map(|record| record.step), Some(step));
}

#[test]
fn a_state_that_is_not_finite_is_not_saved_though_the_loss_still_is() {
    let workspace = Workspace::new();
    // The largest rate there is: the update of the first step, with its decay, leaves the range of float32.
    let rate = ["--steps", "1", "--set", "schedule.rate=3.4028e38", "--set", "optimizer.weight_decay=1"];
    let message = workspace.fail(&Workspace::train("causal.json", "run", &rate));
    assert!(message.starts_with("after step 1, `"), "{message}");
    assert!(
        message.contains("` of the state holds numbers that are not finite, so it is not saved"),
        "{message}"
    );
    assert!(message.contains("no checkpoint was written before"), "{message}");
    assert_eq!(files(&workspace.path("run")), Vec::<PathBuf>::new());
}

/// The norm of the difference over the norm of the first.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied()).max(1e-12)
}

#[test]
fn a_run_saved_on_one_mesh_goes_on_on_another_as_if_on_one_device() {
    let workspace = Workspace::new();
    // Groups that no mesh divides, so that capacities are the same on all.
    let train = |run: &str, more: &[&str]| {
        let group = ["--set", "model.moe.group=sequence"];
        workspace.succeed(&Workspace::train("spans.json", run, &[&group, more].concat()));
    };
    train("whole", &["--steps", "4"]);
    train("moved", &["--steps", "2", "--mesh", "data=2"]);
    train("moved", &["--steps", "4", "--resume", "--mesh", "expert=2"]);
    let (whole, moved) =
        (newest(&workspace.path("whole")).unwrap(), newest(&workspace.path("moved")).unwrap());
    assert_eq!((moved.meta().step, moved.tensors().count()), (4, whole.tensors().count()));
    for (name, ty) in whole.tensors() {
        let (a, b) = (whole.tensor(name).unwrap(), moved.tensor(name).unwrap());
        assert_eq!(b.ty(), ty, "{name}: whole tensors, whatever the mesh");
        let found = distance(&a.to_f64(), &b.to_f64());
        assert!(found < 1e-5, "{name} differs by {found}");
    }
}
