//! Small models from large ones and sparse models from dense ones: the step, the commands, what is taken over.
#![cfg(feature = "cpu")]

mod settings;
mod workspace;

use std::collections::BTreeMap;
use std::path::Path;
use switchyard::artifact;
use switchyard::checkpoint::{Checkpoint, TensorFile, latest, write_tensors};
use switchyard::config::RunConfig;
use switchyard::inspect;
use switchyard::ir::Literal;
use switchyard::report::read_metrics;
use switchyard::runtime::cpu;
use switchyard::train::{Named, Session};
use workspace::{SPANS, Workspace, trained};

fn config(changes: &[(&str, serde_json::Value)]) -> RunConfig {
    settings::config(SPANS, changes)
}

fn session(config: &RunConfig, programs: &[&str]) -> Session {
    // SAFETY: all tests set the same value, before anything reads it.
    unsafe { std::env::set_var("XLA_FLAGS", "--xla_backend_optimization_level=0") };
    Session::new(cpu::open_dyn(1).unwrap(), artifact::compile_programs(config, programs).unwrap())
}

fn batch(config: &RunConfig, rows: usize) -> Named {
    let tokens = |length: usize, seed: usize| {
        // The last place of each row is padding.
        let data =
            (0..rows * length).map(|i| if (i + 1) % length == 0 { 0 } else { 3 + (i * 31 + seed) % 250 });
        Literal::new([rows, length], &data.map(|id| id as i32).collect::<Vec<_>>()).unwrap()
    };
    let sizes = &config.batch;
    vec![("inputs".into(), tokens(sizes.input_length, 1)), ("targets".into(), tokens(sizes.target_length, 2))]
}

type State = BTreeMap<String, Literal>;

/// The state that a seed gives.
fn first_state(config: &RunConfig, seed: u64) -> State {
    let mut session = session(config, &["init"]);
    session.init(seed).unwrap();
    let names = session.state_layout().into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), session.state(&name).unwrap())).collect()
}

fn parameters(state: &State) -> impl Iterator<Item = (&String, &Literal)> {
    let known = |name: &str| name.contains('/') && !name.starts_with("optimizer/");
    state.iter().filter(move |(name, _)| known(name))
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-12)
}

/// A dense student and its sparse teacher, that of `SPANS`.
struct Pair {
    student: RunConfig,
    state: State,
    lessons: State,
}

impl Pair {
    fn new() -> Self {
        let scanned = ("model.scan_blocks", true.into());
        let mut student =
            config(&[("model.moe.num_experts", 0.into()), ("model.dropout", 0.1.into()), scanned.clone()]);
        let teacher = config(&[scanned]);
        student.distillation.teacher = Some(Box::new(teacher.model.clone()));
        student.distillation.temperature = 2.0;
        let (state, lessons) = (first_state(&student, 1), first_state(&teacher, 2));
        Self { student, state, lessons }
    }
}

/// State and metrics after one step.
fn step(pair: &Pair, share: f64, program: &str) -> [BTreeMap<String, Vec<f64>>; 2] {
    let Pair { student, state, lessons } = pair;
    let mut student = student.clone();
    student.distillation.share = share;
    let mut session = session(&student, &[program]);
    for (name, value) in state {
        session.set_state(name, value).unwrap();
    }
    for (name, value) in parameters(lessons) {
        session.set_state(&format!("teacher/{name}"), value).unwrap();
    }
    let metrics = session.run(program, batch(&student, student.batch.sequences)).unwrap();
    for (name, value) in parameters(lessons) {
        assert_eq!(session.state(&format!("teacher/{name}")).unwrap(), *value, "the teacher's {name}");
    }
    let read = |(name, value): (String, Literal)| (name, value.to_f64());
    let state =
        session.state_layout().into_iter().map(|(name, _)| (name.clone(), session.state(&name).unwrap()));
    [state.map(read).collect(), metrics.into_iter().map(read).collect()]
}

#[test]
fn a_teacher_without_share_changes_nothing_and_one_with_share_only_the_student() {
    let pair = Pair::new();
    let [plain, plain_metrics] = step(&pair, 0.0, "train_step");
    let [silent, silent_metrics] = step(&pair, 0.0, "distill_step");
    for (name, value) in &plain {
        assert!(distance(&silent[name], value) < 1e-6, "{name}");
    }
    for (name, value) in &plain_metrics {
        assert!(distance(&silent_metrics[name], value) < 1e-6, "{name}");
    }
    let [taught, metrics] = step(&pair, 1.0, "distill_step");
    let moved = |name: &str| distance(&taught[name], &plain[name]);
    assert!(moved("decoder/block_0/mlp/wo") > 1e-4 && moved("encoder/block_0/attention/q") > 1e-4);
    // Written out block by block, both networks take the rows of stacks instead.
    let unrolled = {
        let mut pair = Pair::new();
        pair.student.model.scan_blocks = Some(false);
        pair.student.distillation.teacher.as_mut().unwrap().scan_blocks = Some(false);
        pair
    };
    let [written_out, _] = step(&unrolled, 1.0, "distill_step");
    for (name, value) in &taught {
        assert!(distance(&written_out[name], value) < 1e-5, "{name}");
    }
    // With all of the loss: T^2 times the cross entropy of the predictions, and the z-loss.
    let (loss, soft, z) = (metrics["loss"][0], metrics["soft_cross_entropy"][0], metrics["z_loss"][0]);
    assert!((loss - (4.0 * soft + 1e-4 * z)).abs() < 1e-4 * loss, "{loss}, {soft}, {z}");
    // Predictions of both models are near uniform over 384 ids at first.
    assert!((soft - 384f64.ln()).abs() < 0.5, "{soft}");
}

#[test]
fn shapes_of_a_sparse_student_and_of_its_sparse_teacher_are_checked_apart() {
    let teacher = config(&[("model.moe.num_experts", 4.into()), ("model.moe.sublayers", "both".into())]);
    let mut student = config(&[]);
    student.distillation.teacher = Some(Box::new(teacher.model));
    let artifact = artifact::compile_programs(&student.resolved().unwrap(), &["distill_step"]).unwrap();
    let layers = &artifact.manifest.moe_layers;
    let scopes: Vec<&str> = layers.iter().map(|layer| layer.scope.as_str()).collect();
    let own = ["encoder/block_0/moe", "decoder/block_0/moe"].map(String::from);
    let lessons = ["encoder", "decoder"]
        .map(|side| ["attention", "moe"].map(|sublayer| format!("teacher/{side}/block_0/{sublayer}")));
    assert_eq!(scopes, [&own[..], &lessons.concat()].concat());
    // Two rows of 16: 1.25 * 32 / 2 in training, 2 * 32 / 4 in evaluation.
    assert_eq!((layers[0].capacity, layers[2].capacity), (20, 16));
    let (_, module) = artifact.program("distill_step").unwrap();
    for check in inspect::check_moe(module, &artifact.manifest.expected_shapes("distill_step")) {
        assert!(check.ok, "{} must be {}, found {:?}", check.path, check.expected, check.found);
    }
}

fn newest(workspace: &Workspace, run: &str) -> Checkpoint {
    let folder = workspace.path(run);
    let folder = if folder.join("checkpoints").exists() { folder.join("checkpoints") } else { folder };
    latest(&folder).unwrap().checkpoint.unwrap()
}

#[test]
fn a_dense_student_starts_from_its_sparse_teacher_and_goes_on_with_it() {
    let (workspace, _) = trained();
    let distill = |source: &'static str, run: &'static str, more: &[&'static str]| {
        let common =
            ["distill", source, "--teacher", "run", "--data", "text", "--out", run, "--eval-batches", "2"];
        [&common[..], more].concat()
    };
    let dense = ["--set", "model.moe.num_experts=0"];
    let still = ["--steps", "1", "--set", "schedule.rate=0"];
    workspace.succeed(&distill("spans.json", "still", &[&dense[..], &still].concat()));
    // Resumed, it learns from the same teacher; a rate of 0 keeps what was taken over.
    workspace.succeed(&distill("still/artifact", "still", &["--resume", "--steps", "2"]));
    let (teacher, student) = (newest(workspace, "run"), newest(workspace, "still"));
    assert_eq!(student.meta().step, 2);
    let records = read_metrics(&workspace.path("still/metrics.jsonl")).unwrap();
    assert!(records.iter().all(|record| record.value("soft_cross_entropy").is_some()));
    let mut fresh = vec![];
    for (name, _) in
        student.tensors().filter(|(name, _)| !name.starts_with("optimizer/") && name.contains('/'))
    {
        let there = name.replace("mlp/norm", "moe/norm");
        match teacher.bytes(&there) {
            Ok(bytes) => assert_eq!(student.bytes(name).unwrap(), bytes, "{name}"),
            Err(_) => fresh.push(name.to_string()),
        }
    }
    let expected = ["encoder", "decoder"].map(|side| ["wi", "wo"].map(|w| format!("{side}/block_0/mlp/{w}")));
    assert_eq!(fresh, expected.concat());

    // Another teacher of the same shape, with one number changed, is refused.
    let tensors: Named =
        teacher.tensors().map(|(name, _)| (name.into(), teacher.tensor(name).unwrap())).collect();
    let change = |(name, value): (String, Literal)| {
        let mut data: Vec<f32> = value.to_f64().into_iter().map(|x| x as f32).collect();
        if name != "shared/embedding" {
            return (name, value);
        }
        data[0] += 1.0;
        let changed = Literal::new(value.ty().shape.clone(), &data).unwrap();
        (name, changed)
    };
    let changed: Named = tensors.into_iter().map(change).collect();
    write_tensors(&workspace.path("other"), &changed).unwrap();
    let other =
        ["distill", "still/artifact", "--teacher", "other", "--data", "text", "--out", "still", "--resume"];
    let message = workspace.fail(&[&other[..], &["--steps", "3"]].concat());
    assert!(message.contains("learnt from a teacher with other parameters"), "{message}");
    assert!(message.ends_with("give the teacher that the run began with"), "{message}");

    let train = ["train", "still/artifact", "--data", "text", "--out", "still", "--resume", "--steps", "4"];
    assert_eq!(
        workspace.fail(&train),
        "the configuration has a teacher; give its checkpoint, as `distill` does"
    );
    let small = [&dense[..], &["--steps", "1", "--set", "model.d_model=4"]].concat();
    let message = workspace.fail(&distill("spans.json", "small", &small));
    assert!(
        message.starts_with("the student cannot start from the teacher; let it start anew: "),
        "{message}"
    );
    assert!(message.contains("`shared/embedding` must be f32[384,4], found f32[384,8]"), "{message}");
    assert!(message.contains("`decoder/final_norm` must be f32[4], found f32[8]"), "{message}");
}

/// Logits of the places that are not padding, which are all but the last of each row; parameters are multiplied by `factor`.
fn logits(config: &RunConfig, file: &TensorFile, factor: impl Fn(&str) -> f64) -> Vec<f64> {
    let mut session = session(config, &["forward"]);
    for (name, ty) in file.tensors() {
        let data = file.tensor(name).unwrap().to_f64();
        let data: Vec<f32> = data.into_iter().map(|x| (x * factor(name)) as f32).collect();
        session.set_state(name, &Literal::new(ty.shape.clone(), &data).unwrap()).unwrap();
    }
    let outputs = session.run("forward", batch(config, config.batch.sequences_per_microbatch())).unwrap();
    let logits = outputs.into_iter().find(|(name, _)| name == "logits").unwrap().1.to_f64();
    let (vocabulary, length) = (config.model.vocab_size, config.batch.target_length);
    let rows = logits.chunks(length * vocabulary);
    rows.flat_map(|row| row[..(length - 1) * vocabulary].to_vec()).collect()
}

#[test]
fn upcycled_experts_do_what_the_dense_network_did_times_the_gate() {
    let workspace = Workspace::new();
    let two = ("model.num_decoder_layers", 2.into());
    let dense_config = config(&[("model.moe.num_experts", 0.into()), two.clone()]);
    let state = first_state(&dense_config, 5);
    let state: Named = parameters(&state).map(|(name, value)| (name.clone(), value.clone())).collect();
    write_tensors(&workspace.path("dense"), &state).unwrap();
    let dense = TensorFile::open(&workspace.path("dense")).unwrap();
    let expected = logits(&dense_config, &dense, |_| 1.0);
    let room = ("model.moe.capacity", serde_json::json!({"train_factor": 4, "eval_factor": 4}));
    for experts in [1, 4] {
        let out = format!("sparse_{experts}");
        let setting = format!("model.moe.num_experts={experts}");
        let upcycle = ["upcycle", "dense", "spans.json", "-o", &out, "--set", "model.num_decoder_layers=2"];
        workspace.succeed(&[&upcycle[..], &["--set", &setting]].concat());
        let sparse = newest(&workspace, &out);
        let config = config(&[("model.moe.num_experts", experts.into()), two.clone(), room.clone()]);
        // A router of zeros gives each expert the gate 1 / experts, which the experts here make up for.
        let found = logits(&config, &sparse, |name| match name.rsplit('/').next() {
            Some("router") => 0.0,
            Some("wo") => f64::from(experts),
            _ => 1.0,
        });
        assert!(distance(&found, &expected) < 1e-6, "{experts} experts");
        // Routers are those of a new model of that seed.
        let fresh = first_state(&config, config.seed);
        for side in ["encoder", "decoder"] {
            let name = format!("{side}/block_0/moe/router");
            let found = sparse.tensor(&name).unwrap().to_f64();
            assert!(distance(&found, &fresh[&name].to_f64()) < 1e-5, "{name}");
        }
    }
    // Gates of the chosen experts that add up to 1 keep the function, whatever the router holds.
    let mixtral = [
        ("model.moe.num_experts", 4.into()),
        ("model.moe.router", serde_json::json!({"kind": "mixtral"})),
        ("model.moe.capacity", serde_json::json!({"kind": "dropless"})),
    ];
    let settings = mixtral.clone().map(|(key, value)| format!("{key}={value}"));
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let upcycle = ["upcycle", "dense", "spans.json", "-o", "mixtral", "--set", "model.num_decoder_layers=2"];
    workspace.succeed(&upcycle.into_iter().chain(settings).collect::<Vec<_>>());
    let config = config(&[&mixtral[..], &[two]].concat());
    let found = logits(&config, &newest(&workspace, "mixtral"), |_| 1.0);
    assert!(distance(&found, &expected) < 1e-6, "mixtral");

    let message =
        workspace.fail(&["upcycle", "dense", "spans.json", "-o", "refused", "--set", "model.d_ff=24"]);
    assert!(message.contains("`decoder/block_0/mlp/wi` must be f32[2,8,24], found f32[2,8,16]"), "{message}");
    assert!(message.contains("`encoder/block_0/mlp/wo` must be f32[1,24,8], found f32[1,16,8]"), "{message}");
    assert!(!Path::new(&workspace.path("refused")).exists());
}
