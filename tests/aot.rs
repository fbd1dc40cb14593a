//! Programs compiled for TPUs and GPUs by their real compilers, without a TPU or GPU.
//!
//! The compilers come from `scripts/setup.sh --with-libtpu --with-cuda-compiler` (`make tpu cuda` does it). Without them these
//! tests say so and pass, unless `SWITCHYARD_REQUIRE_TPU` or `SWITCHYARD_REQUIRE_CUDA` is set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use switchyard::aot::{self, AotError, Options};
use switchyard::artifact::{self, Artifact};
use switchyard::config::RunConfig;
use switchyard::{hlo, inspect};

/// A plugin that set-up fetches, or `None` with a word about it.
fn fetched(file: &str, required_by: &str, target: &str) -> Option<PathBuf> {
    let runtime = std::env::var_os("SWITCHYARD_RUNTIME").map_or(".runtime".into(), PathBuf::from);
    let path = runtime.join(file);
    if path.is_file() {
        return path.canonicalize().ok();
    }
    assert!(std::env::var_os(required_by).is_none(), "no {}: run `make {target}`", path.display());
    eprintln!("skipped: no {}: run `make {target}`", path.display());
    None
}

fn libtpu() -> Option<PathBuf> {
    fetched("tpu/libtpu.so", "SWITCHYARD_REQUIRE_TPU", "tpu")
}

fn cuda() -> Option<PathBuf> {
    fetched("cuda/plugin/xla_cuda_plugin.so", "SWITCHYARD_REQUIRE_CUDA", "cuda")
}

/// Small enough for the compiler to take seconds, with everything a preset has.
const SMALL: [&str; 12] = [
    "model.d_model=128",
    "model.d_ff=256",
    "model.num_heads=2",
    "model.d_kv=64",
    "model.num_encoder_layers=2",
    "model.num_decoder_layers=2",
    "model.vocab_size=512",
    "model.moe.num_experts=4",
    "batch.sequences=4",
    "batch.input_length=64",
    "batch.target_length=32",
    "model.moe.group.tokens=128",
];

fn config(overrides: &[&str]) -> RunConfig {
    let overrides: Vec<String> = SMALL.iter().chain(overrides).map(|s| s.to_string()).collect();
    RunConfig::load_with(Path::new("graphs/switch-base-8.json"), &overrides).unwrap()
}

fn artifact(overrides: &[&str], program: &str) -> Artifact {
    artifact::compile_programs(&config(overrides), &[program]).unwrap()
}

fn options(plugin: &Path, topology: &str, limit: Duration) -> Options {
    let program = env!("CARGO_BIN_EXE_switchyard").into();
    Options { program, plugin: plugin.into(), topology: topology.parse().unwrap(), limit }
}

/// The program does not fit, by more than 15 GiB, and the table says so in these words and names the experts.
fn lacks_15_gib(report: &aot::AotReport, words: &str) {
    assert!(!report.fits);
    let missing = report.shortage.as_ref().unwrap().missing_bytes().unwrap();
    assert!(missing > 15 << 30, "{missing}");
    let text = aot::render(report);
    assert!(text.contains(words) && text.contains("experts/wi"), "{text}");
}

fn command(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_switchyard")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_train_step_compiles_for_a_tpu_and_every_figure_is_there() {
    let Some(plugin) = libtpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let artifact_folder = folder.path().join("artifact");
    artifact(&[], "train_step").write(&artifact_folder).unwrap();
    let (path, out) = (artifact_folder.to_str().unwrap(), artifact_folder.join("aot"));
    let arguments = ["aot", path, "--topology", "v5e:1x1", "--json"];
    let plugin = plugin.to_str().unwrap();
    let (code, stdout, stderr) = command(&[&arguments[..], &["--plugin", plugin]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let number =
        |path: &str| report.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path}"));
    assert!(number("/compiler/memory/argument_bytes") >= number("/graph/state_bytes"), "padding only adds");
    assert!(
        number("/compiler/memory/alias_bytes") >= 0.9 * number("/graph/state_bytes"),
        "the state is donated"
    );
    assert!(number("/compiler/memory_limit_bytes") > 16e9);
    assert!(number("/graph/flops/dot") > 1e8);
    assert!(number("/model/step_seconds") >= number("/model/roofline_seconds"));
    let share = number("/model/share_of_peak");
    assert!(share > 0.0 && share < 1.0, "{share}");
    assert!(number("/model/covered_by_cycles") > 0.2);
    let files: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for suffix in ["executable", "optimized.hlo.pb", "optimized.hlo.txt", "json"] {
        assert!(files.contains(&format!("train_step.v5e-1x1.{suffix}")), "{files:?}");
    }
    assert!(Artifact::read(&artifact_folder).is_ok(), "the artifact is what it was, beside them");
    // The module alone gives the same estimate: one chip has no collectives.
    let optimized = out.join("train_step.v5e-1x1.optimized.hlo.pb");
    let (code, stdout, _) =
        command(&["inspect", optimized.to_str().unwrap(), "--topology", "v5e:1x1", "--json"]);
    assert_eq!(code, Some(0));
    let again: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(again[0]["compiled"]["step_seconds"].as_f64(), Some(number("/model/step_seconds")));
}

#[test]
fn a_program_that_does_not_fit_says_by_how_much() {
    let Some(plugin) = libtpu() else { return };
    // 64 experts of 2 x 1024 x 65536 floats are 34 GB, on 16 GB.
    let large =
        artifact(&["model.d_model=1024", "model.d_ff=65536", "model.moe.num_experts=64"], "eval_step");
    let options = options(&plugin, "v5e:1x1", Duration::from_secs(300));
    let report = aot::compile(&large, "eval_step", &options, None).unwrap();
    assert!(report.compiler.is_none());
    lacks_15_gib(&report, "DOES NOT FIT");
}

#[test]
fn every_other_program_compiles_for_a_tpu_too() {
    let Some(plugin) = libtpu() else { return };
    for program in ["init", "eval_step", "forward", "gradients", "prefill", "decode_step"] {
        let blocks = ["model.num_encoder_layers=1", "model.num_decoder_layers=1", "model.moe.every=1"];
        let options = options(&plugin, "v5e:1x1", Duration::from_secs(300));
        let report = aot::compile(&artifact(&blocks, program), program, &options, None).unwrap();
        assert!(report.fits && report.compiler.is_some(), "{program}");
    }
}

#[test]
fn a_step_on_a_mesh_compiles_for_its_slice_with_the_collectives_of_the_plan() {
    let Some(plugin) = libtpu() else { return };
    let mesh = ["mesh.data=2", "mesh.expert=2", "mesh.shard_state=true"];
    let options = options(&plugin, "v5e:2x2", Duration::from_secs(300));
    // Blocks are scanned in the first, and unrolled in what is shaped for TPUs.
    for target in ["target=cpu", "target=tpu"] {
        let artifact = artifact(&[&mesh[..], &[target]].concat(), "train_step");
        let report = aot::compile(&artifact, "train_step", &options, None).unwrap();
        assert!(report.fits, "{target}");
        assert_eq!((report.chips, report.replicas), (4, 4));
        let kinds: BTreeSet<&str> = report.graph.collectives.iter().map(|row| row.opcode.as_str()).collect();
        for kind in ["all-gather", "all-reduce", "all-to-all", "reduce-scatter"] {
            assert!(kinds.contains(kind), "{target}: {kinds:?}");
        }
    }
}

#[test]
fn a_step_with_words_split_over_chips_compiles_for_its_slice() {
    let Some(plugin) = libtpu() else { return };
    let blocks = ["model.num_encoder_layers=1", "model.num_decoder_layers=1", "model.moe.every=1"];
    let settings = [&blocks[..], &["mesh.data=2", "mesh.model=2"]].concat();
    let options = options(&plugin, "v5e:2x2", Duration::from_secs(300));
    let [whole, split] = ["mesh.shard_vocabulary=false", "mesh.shard_vocabulary=true"].map(|words| {
        let program = artifact(&[&settings[..], &[words]].concat(), "train_step");
        aot::compile(&program, "train_step", &options, None).unwrap()
    });
    assert!(whole.fits && split.fits);
    // Half of the words of the embedding are somewhere else: 512 x 128 floats.
    let saved = whole.graph.state_bytes - split.graph.state_bytes;
    assert!(saved >= 512 * 128 * 4 / 2, "{saved}");
}

#[test]
fn a_step_with_a_teacher_compiles_for_a_tpu() {
    let Some(plugin) = libtpu() else { return };
    let blocks = ["model.num_encoder_layers=1", "model.num_decoder_layers=1", "model.moe.every=1"];
    let teacher = config(&blocks).model;
    let mut student = config(&[&blocks[..], &["model.moe.num_experts=0"]].concat());
    student.distillation.teacher = Some(Box::new(teacher));
    let program = artifact::compile_programs(&student, &["distill_step"]).unwrap();
    let options = options(&plugin, "v5e:1x1", Duration::from_secs(300));
    let report = aot::compile(&program, "distill_step", &options, None).unwrap();
    assert!(report.fits && report.graph.flops.dot > 0);
}

#[test]
fn a_compiler_does_not_outlive_the_command_that_asked() {
    let Some(plugin) = libtpu() else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["aot", "graphs/switch-base-8.json", "--topology", "v5e:1x1", "--plugin"]).arg(plugin);
    let mut asking = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut compiler = None;
    for _ in 0..600 {
        compiler = child_of(asking.id());
        if compiler.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    asking.kill().unwrap();
    asking.wait().unwrap();
    let compiler = PathBuf::from(format!("/proc/{}", compiler.expect("a compiler was started")));
    let is_gone = || {
        std::thread::sleep(Duration::from_millis(100));
        // What init has not yet waited for has no command line.
        std::fs::read(compiler.join("cmdline")).map_or(true, |line| line.is_empty())
    };
    assert!((0..100).any(|_| is_gone()), "it is still there");
}

/// The first process that this one started.
fn child_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn generation_on_a_mesh_compiles_for_its_slice() {
    let Some(plugin) = libtpu() else { return };
    let blocks = ["model.num_encoder_layers=1", "model.num_decoder_layers=1", "model.moe.every=1"];
    let settings = [&blocks[..], &["mesh.expert=2", "mesh.model=2"]].concat();
    let options = options(&plugin, "v5e:2x2", Duration::from_secs(300));
    for (program, tokens) in [("prefill", 4 * 64), ("decode_step", 4)] {
        let report = aot::compile(&artifact(&settings, program), program, &options, None).unwrap();
        assert!(report.fits && report.replicas == 4);
        assert_eq!(report.graph.tokens_per_step, tokens, "{program}");
        let kinds: BTreeSet<&str> = report.graph.collectives.iter().map(|row| row.opcode.as_str()).collect();
        assert_eq!(kinds, BTreeSet::from(["all-reduce", "all-to-all"]), "{program}");
        // Of 4 rows half are here: marks and positions of 32 slots, marks of 64 inputs, keys and values of one of two heads in bfloat16.
        let cache = 2 * 4 * (32 + 32 + 64) + 2 * 2 * 2 * 64 * (32 + 64);
        assert_eq!(report.graph.cache_bytes, if program == "prefill" { 0 } else { cache }, "{program}");
    }
}

#[test]
fn the_largest_slice_of_every_kind_of_chip_is_compiled_for() {
    let Some(plugin) = libtpu() else { return };
    let sizes =
        ["d_model=8", "d_ff=8", "d_kv=8", "num_heads=1", "num_encoder_layers=1", "num_decoder_layers=1"];
    let tiny = sizes.map(|size| format!("model.{size}"));
    let tiny: Vec<&str> = tiny.iter().map(String::as_str).chain(["model.moe.num_experts=0"]).collect();
    let program = artifact(&tiny, "forward");
    for (topology, chips, memory) in [
        ("v4:16x16x16", 4096, 33e9),
        ("v5e:16x16", 256, 16e9),
        ("v5p:16x20x28", 8960, 102e9),
        ("v6e:32x32", 1024, 33e9),
        ("tpu7x:16x16x16", 4096, 101e9),
    ] {
        let options = options(&plugin, topology, Duration::from_secs(300));
        let report = aot::compile(&program, "forward", &options, None).unwrap();
        assert_eq!(report.chips, chips);
        let limit = report.compiler.unwrap().said.memory_limit_bytes.unwrap() as f64;
        assert!(limit > memory && limit < 1.05 * memory + 1e9, "{topology}: {limit}");
    }
}

#[test]
fn a_compiler_that_ends_its_process_is_a_message() {
    let Some(plugin) = libtpu() else { return };
    let program = artifact(&[], "eval_step");
    let late = options(&plugin, "v5e:1x1", Duration::from_millis(10));
    let error = aot::compile(&program, "eval_step", &late, None).unwrap_err();
    assert!(error.to_string().contains("give it more with --timeout"), "{error}");
    let impossible = options(&plugin, "v5p:3x3x3", Duration::from_secs(60));
    let error = aot::compile(&program, "eval_step", &impossible, None).unwrap_err();
    assert!(matches!(error, AotError::Refused { .. } | AotError::Child(_)), "{error}");
}

#[test]
fn a_train_step_compiles_for_a_gpu_and_every_figure_is_there() {
    let Some(plugin) = cuda() else { return };
    let folder = tempfile::tempdir().unwrap();
    let artifact_folder = folder.path().join("artifact");
    artifact(&[], "train_step").write(&artifact_folder).unwrap();
    let (path, out) = (artifact_folder.to_str().unwrap(), folder.path().join("out"));
    let arguments = ["aot", path, "--target", "h100:1", "--json", "--out", out.to_str().unwrap()];
    let plugin = plugin.to_str().unwrap();
    let (code, stdout, stderr) = command(&[&arguments[..], &["--plugin", plugin]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let number =
        |path: &str| report.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path}"));
    // Nothing is padded but to the 256 bytes that each buffer starts at.
    let (arguments, state) = (number("/compiler/memory/argument_bytes"), number("/graph/state_bytes"));
    assert!(arguments >= state && arguments < 1.1 * (state + number("/graph/input_bytes")));
    assert!(number("/compiler/memory/alias_bytes") >= 0.9 * state, "the state is donated");
    assert_eq!(number("/compiler/memory_limit_bytes"), 84_940_000_000.0);
    assert!(report["compiler"]["padding"].is_null() && report["compiler"]["flops"].is_null());
    assert!(number("/graph/flops/dot") > 1e8);
    assert!(number("/model/step_seconds") >= number("/model/roofline_seconds"));
    let share = number("/model/share_of_peak");
    assert!(share > 0.0 && share < 1.0, "{share}");
    let layers: Vec<&str> = report["compiler"]["longest"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|k| k["op_name"].as_str())
        .collect();
    assert!(layers.iter().any(|layer| layer.contains("coder/")), "{layers:?}");
    let files: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for suffix in ["executable", "optimized.hlo.pb", "optimized.hlo.txt"] {
        assert!(files.contains(&format!("train_step.h100-1.{suffix}")), "{files:?}");
    }
    // No matrix product is hidden in a call to a library, and every loop has its trips.
    let optimized = std::fs::read(out.join("train_step.h100-1.optimized.hlo.pb")).unwrap();
    let found = inspect::inspect(&hlo::decode(&optimized).unwrap()).unwrap();
    let (made, asked) = (found.flops.dot as f64, number("/graph/flops/dot"));
    assert!((made / asked - 1.0).abs() < 0.05, "{made} of {asked}");
}

#[test]
fn what_does_not_fit_a_gpu_is_compared_though_its_compiler_does_not_look() {
    let Some(plugin) = cuda() else { return };
    // 64 experts of 2 x 1024 x 65536 floats are 34 GB a sparse layer; three of them are 103 GB, on 85 GB.
    let large = [
        "model.d_model=1024",
        "model.d_ff=65536",
        "model.moe.num_experts=64",
        "model.num_encoder_layers=6",
        "model.num_decoder_layers=1",
    ];
    let options = options(&plugin, "h100:1", Duration::from_secs(300));
    let report = aot::compile(&artifact(&large, "eval_step"), "eval_step", &options, None).unwrap();
    assert!(report.compiler.is_some() && report.model.is_none());
    lacks_15_gib(&report, "compared by us");
}

#[test]
fn a_step_on_a_mesh_compiles_for_gpus_of_two_hosts() {
    let Some(plugin) = cuda() else { return };
    let mesh = ["mesh.data=2", "mesh.expert=2", "mesh.shard_state=true"];
    let options = options(&plugin, "a100:2x2", Duration::from_secs(300));
    let report = aot::compile(&artifact(&mesh, "train_step"), "train_step", &options, None).unwrap();
    assert!(report.fits);
    assert_eq!((report.chips, report.replicas), (4, 4));
    assert!(report.model.unwrap().time.interconnect_seconds > 0.0);
}

#[test]
fn what_cannot_be_compiled_is_refused_before_the_compiler_starts() {
    let (code, _, stderr) = command(&["aot", "graphs/switch-base-8.json", "--topology", "v9:2x2"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("there is no chip `v9`"), "{stderr}");
    for (target, why) in [("h300:1", "GPUs are a100-40, a100"), ("h100:9", "a host has 8 cards at most")] {
        let (code, _, stderr) = command(&["aot", "graphs/demo.json", "--target", target]);
        assert_eq!(code, Some(2));
        assert!(stderr.contains(why), "{stderr}");
    }
    let arguments = ["aot", "graphs/demo.json", "--topology", "v5e:1x1", "--plugin", "Cargo.toml"];
    let (code, _, stderr) = command(&arguments);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is damaged (not an ELF library)"), "{stderr}");
    let (code, _, stderr) = command(&[&arguments[..], &["--program", "no_such_program"]].concat());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("has no program `no_such_program`"), "{stderr}");
}
