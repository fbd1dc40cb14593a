//! The commands from outside: exit statuses, files, messages.

mod workspace;

use serde_json::Value;
use std::process::Stdio;
use workspace::Workspace;

/// A workspace with an artifact of `spans.json`.
fn compiled() -> Workspace {
    let workspace = Workspace::new();
    let printed = workspace.succeed(&["compile", "spans.json", "-o", "artifact"]);
    assert!(printed.starts_with("spans: ") && printed.ends_with("written to artifact\n"), "{printed}");
    workspace
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_help_page_fits_a_terminal_and_shows_how_the_command_is_used() {
    let workspace = Workspace::new();
    let commands = [
        "", "compile", "train", "distill", "upcycle", "eval", "run", "generate", "inspect", "bench", "aot",
        "plan", "import", "export", "doctor",
    ];
    for command in commands {
        let page =
            workspace.succeed(&[&[command][..], &["--help"]].concat()[usize::from(command.is_empty())..]);
        assert!(page.contains(format!("Usage: switchyard {command}").trim_end()), "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    }
}

#[test]
fn a_compiled_artifact_passes_inspection_in_all_its_forms() {
    let workspace = compiled();
    let report = json(&workspace.succeed(&["inspect", "artifact", "--json"]));
    let programs = report.as_array().unwrap();
    assert_eq!(programs.len(), 6);
    for program in programs {
        assert_eq!(program["static_shapes"]["all_static"], true, "{}", program["name"]);
        assert_eq!(program["failures"], json("[]"), "{}", program["name"]);
    }
    let one = json(&workspace.succeed(&["inspect", "artifact", "--program", "forward", "--json"]));
    assert_eq!(one.as_array().map(Vec::len), Some(1));
    assert!(!one[0]["shape_checks"].as_array().unwrap().is_empty(), "{one}");
    assert!(workspace.succeed(&["inspect", "artifact"]).contains("ok   "));
    for file in ["artifact/train_step.hlo.pb", "artifact/train_step.hlo.txt"] {
        let alone = json(&workspace.succeed(&["inspect", file, "--json"]));
        assert_eq!(alone[0]["parameters"], programs[1]["parameters"], "{file}");
    }
}

#[test]
fn a_module_for_a_chip_has_the_time_of_its_kernels() {
    let workspace = compiled();
    let module = ["inspect", "artifact/forward.hlo.pb", "--topology", "v5e:1x1"];
    let compiled = &json(&workspace.succeed(&[&module[..], &["--json"]].concat()))[0]["compiled"];
    let kernels = compiled["kernels"].as_array().unwrap();
    let seconds: Vec<f64> = kernels.iter().map(|kernel| kernel["seconds"].as_f64().unwrap()).collect();
    assert!(seconds.len() > 100 && seconds.is_sorted_by(|a, b| a >= b));
    let step = compiled["step_seconds"].as_f64().unwrap();
    assert!((step / seconds.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    let text = workspace.succeed(&module);
    assert!(text.contains("on v5e:1x1") && text.contains("longest of "), "{text}");
    let finished = workspace.run(&["inspect", "artifact", "--topology", "v5e:1x1"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.error().contains("found a folder"), "{}", finished.error());
}

#[test]
fn inspection_ends_in_1_when_a_check_fails() {
    let workspace = compiled();
    let path = workspace.path("artifact/manifest.json");
    let mut manifest = json(&std::fs::read_to_string(&path).unwrap());
    let capacity = manifest["moe_layers"][0]["capacity"].as_u64().unwrap();
    manifest["moe_layers"][0]["capacity"] = (capacity + 1).into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let finished = workspace.run(&["inspect", "artifact"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stdout.lines().any(|line| line.starts_with("FAIL ")), "{}", finished.stdout);

    let text =
        "HloModule m\n\nENTRY %main {\n  %p = f32[<=4] parameter(0)\n  ROOT %n = f32[<=4] negate(%p)\n}\n";
    std::fs::write(workspace.path("dynamic.hlo.txt"), text).unwrap();
    let finished = workspace.run(&["inspect", "dynamic.hlo.txt"]);
    assert_eq!(finished.code, Some(1), "{}{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("FAIL n f32[<=4] has a dynamic shape"), "{}", finished.stdout);
}

#[test]
fn inspection_ends_in_2_when_the_input_cannot_be_read() {
    let workspace = compiled();
    let module = workspace.path("artifact/train_step.hlo.pb");
    let mut bytes = std::fs::read(&module).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&module, bytes).unwrap();
    let cut = &std::fs::read_to_string(workspace.path("artifact/init.hlo.txt")).unwrap()[..2000];
    std::fs::write(workspace.path("cut.hlo.txt"), cut).unwrap();
    for (path, message) in [
        ("artifact", "`artifact/train_step.hlo.pb` is damaged: sha-256 is "),
        ("nowhere", "cannot read `nowhere`: No such file or directory"),
        ("text", "cannot read `text/manifest.json`: No such file or directory"),
        ("spans.json", "`spans.json` is not an HLO module: "),
        ("cut.hlo.txt", "`cut.hlo.txt` is not an HLO module: "),
    ] {
        let finished = workspace.run(&["inspect", path]);
        assert_eq!(finished.code, Some(2), "{path}: {}", finished.stdout);
        assert_eq!(finished.stdout, "");
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        assert!(finished.error().starts_with(message), "{}", finished.error());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let workspace = compiled();
    let mut command = workspace.command(&["inspect", "artifact", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let finished = workspace::Finished::new(child.wait_with_output().unwrap());
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
}

#[test]
fn configurations_are_refused_in_one_line_that_names_the_field() {
    let workspace = Workspace::new();
    let refusal = |setting| workspace.fail(&["compile", "spans.json", "-o", "artifact", "--set", setting]);
    assert_eq!(
        refusal("model.moe.num_expert=4"),
        "model.moe.num_expert: unknown field, did you mean num_experts?; allowed here: num_experts, every, offset, decoder_every, \
         decoder_offset, sublayers, router, decoder_router, capacity, group, dispatch, expert_dropout, load_balancing_coef, z_loss_coef, aggregation, d_ff, \
         shared_experts"
    );
    assert_eq!(
        refusal("model.moe.every=0"),
        "model.moe.every: found 0, expected a number above 0: a model with experts has a sparse block; for example 2"
    );
    assert_eq!(refusal("seed"), "override `seed`: expected key=value, for example seed=1");
    assert_eq!(
        workspace.fail(&["compile", "nowhere.json", "-o", "artifact"]),
        "config nowhere.json: cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        workspace.fail(&["compile", "spans.json", "-o", "artifact", "--program", "backward"]),
        "there is no program `backward`; programs are init, train_step, eval_step, forward, prefill, decode_step, gradients"
    );
    assert!(!workspace.path("artifact").exists());
}

#[test]
fn arguments_are_refused_with_exit_status_2() {
    let workspace = Workspace::new();
    for (steps, message) in [("0", "0 is not in 1.."), ("many", "invalid digit found in string")] {
        let finished = workspace.run(&Workspace::train("spans.json", "run", &["--steps", steps]));
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains(message), "{}", finished.stderr);
    }
}

#[cfg(feature = "cpu")]
mod on_a_device {
    use super::json;
    use super::workspace::{Finished, Workspace, trained};
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use switchyard::checkpoint::{latest, read_tensors, write_tensors};
    use switchyard::ir::Literal;
    use switchyard::report::read_metrics;

    fn steps(run: &Path) -> Vec<u64> {
        read_metrics(&run.join("metrics.jsonl")).unwrap().iter().map(|record| record.step).collect()
    }

    #[test]
    fn a_bench_in_turns_answers_every_line_with_a_step() {
        let workspace = Workspace::new();
        let mut command = workspace.command(&["bench", "causal.json", "--turns"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"\n\n").unwrap();
        let finished = Finished::new(child.wait_with_output().unwrap());
        let lines: Vec<_> = finished.stdout.lines().map(json).collect();
        assert_eq!(lines.len(), 3, "{}{}", finished.stdout, finished.stderr);
        assert!(lines[0]["compile"].as_f64() > Some(0.0), "{}", finished.stdout);
        for step in &lines[1..] {
            assert!(step["loss"].as_f64() > Some(1.0) && step["seconds"].as_f64() > Some(0.0), "{step}");
        }
    }

    #[test]
    fn a_bench_with_parts_times_every_kind_of_layer() {
        let workspace = Workspace::new();
        let cost = json(&workspace.succeed(&["bench", "causal.json", "--steps", "1", "--parts", "--json"]));
        let parts = cost["parts"].as_array().unwrap();
        let kinds: Vec<_> = parts.iter().filter_map(|part| part["kind"].as_str()).collect();
        let expected = ["router", "dispatch", "expert products", "combine", "attention", "embedding"];
        assert_eq!(kinds, [&expected[..], &["vocabulary loss", "optimizer"]].concat());
        assert!(parts.iter().all(|part| part["seconds"].as_f64() > Some(0.0)), "{cost}");
    }

    #[test]
    fn a_mesh_of_more_devices_than_there_are_is_refused() {
        let workspace = Workspace::new();
        let arguments = ["bench", "causal.json", "--steps", "1", "--mesh", "data=2"];
        let mut command = workspace.command(&arguments);
        let flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1";
        let finished = Finished::new(command.env("XLA_FLAGS", flags).output().unwrap());
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
        let expected = "2 devices were asked for, the cpu runtime has 1";
        assert!(finished.error().contains(expected), "{}", finished.stderr);
    }

    #[test]
    fn training_fills_the_folder_of_the_run() {
        let (workspace, finished) = trained();
        let run = workspace.path("run");
        assert_eq!(steps(&run), [1, 2, 3]);
        for program in ["init", "train_step", "eval_step"] {
            assert!(finished.stderr.contains(&format!("compiling {program} ...\n")), "{}", finished.stderr);
        }
        let events = |name: &str| name.starts_with("events.out.tfevents.");
        let mut names =
            std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(names.any(|name| events(&name)));
        assert!(std::fs::read_to_string(run.join("run.svg")).unwrap().starts_with("<svg"));
        let checkpoint = latest(&run.join("checkpoints")).unwrap().checkpoint.unwrap();
        assert_eq!(checkpoint.meta().step, 3);
        let line = format!(
            "checkpoint run/checkpoints/step_00000003.safetensors (state {})",
            checkpoint.recorded_digest()
        );
        assert_eq!(finished.stdout.lines().last(), Some(line.as_str()));
        for row in ["held-out loss", "unigram entropy of the text", "peak memory / state", "encoder/0"] {
            assert!(finished.stdout.contains(row), "{}", finished.stdout);
        }
        workspace.succeed(&["inspect", "run/artifact"]);
    }

    #[test]
    fn evaluation_gives_the_held_out_loss() {
        let (workspace, _) = trained();
        let printed = workspace.succeed(&[
            "eval",
            "run/artifact",
            "--checkpoint",
            "run",
            "--data",
            "text",
            "--batches",
            "2",
            "--json",
        ]);
        let found = json(&printed);
        assert_eq!((&found["step"], &found["batches"]), (&3.into(), &2.into()));
        // The last step of the run was evaluated on the same two batches.
        let records = read_metrics(&workspace.path("run/metrics.jsonl")).unwrap();
        let recorded = records.last().and_then(|record| record.value("held_out_loss"));
        assert_eq!(found["cross_entropy"].as_f64(), recorded);
        assert_eq!(
            workspace.fail(&["eval", "spans.json", "--checkpoint", "text", "--data", "text"]),
            "`text` holds no checkpoint"
        );
        assert_eq!(
            workspace.fail(&["eval", "spans.json", "--checkpoint", "nowhere", "--data", "text"]),
            "cannot read nowhere: No such file or directory (os error 2)"
        );
        assert_eq!(
            workspace.fail(&["eval", "spans.json", "--checkpoint", "run", "--data", "nowhere"]),
            "data: cannot read nowhere: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_checkpoint_of_another_model_or_a_damaged_one_is_refused() {
        let (workspace, _) = trained();
        let eval = |checkpoint: &str, setting: &str| {
            workspace.fail(&[
                "eval",
                "spans.json",
                "--checkpoint",
                checkpoint,
                "--data",
                "text",
                "--set",
                setting,
            ])
        };
        assert_eq!(
            eval("run", "model.d_model=16"),
            "`run/checkpoints/step_00000003.safetensors`: tensor `shared/embedding` must be f32[384,16], found \
             f32[384,8]; give the configuration of that run"
        );
        let bytes = std::fs::read(workspace.path("run/checkpoints/step_00000003.safetensors")).unwrap();
        std::fs::write(workspace.path("cut.safetensors"), &bytes[..bytes.len() - 9]).unwrap();
        let message = eval("cut.safetensors", "seed=0");
        assert!(message.starts_with("cut.safetensors: truncated: tensor "), "{message}");
        let message = eval("spans.json", "seed=0");
        assert!(message.starts_with("spans.json: not a safetensors file: "), "{message}");
    }

    #[test]
    fn a_program_runs_on_named_tensors() {
        let (workspace, _) = trained();
        let tokens = |shape: [usize; 2]| Literal::new(shape, &vec![100i32; shape[0] * shape[1]]).unwrap();
        let write = |file: &str, tensors: &[(&str, Literal)]| {
            let tensors: Vec<_> = tensors.iter().map(|(name, v)| (name.to_string(), v.clone())).collect();
            write_tensors(&workspace.path(file), &tensors).unwrap();
        };
        // 16 inputs are filled by 17 tokens: 3 replaced in 1 span, so 3 + 1 + 1 targets.
        write("in.safetensors", &[("inputs", tokens([2, 16])), ("targets", tokens([2, 5]))]);
        write("missing.safetensors", &[("inputs", tokens([2, 16]))]);
        write("unknown.safetensors", &[("tokens", tokens([2, 16]))]);
        write("shape.safetensors", &[("inputs", tokens([2, 17])), ("targets", tokens([2, 5]))]);
        let arguments = |inputs| {
            let run = ["run", "run/artifact", "--program", "forward", "--checkpoint", "run"];
            [&run[..], &["--inputs", inputs, "--outputs", "out.safetensors"]].concat()
        };
        let refusal = |inputs| workspace.run(&arguments(inputs)).error();
        assert_eq!(
            refusal("missing.safetensors"),
            "program `forward` needs an input `targets` of type s32[2,5], which was not given"
        );
        assert_eq!(
            refusal("unknown.safetensors"),
            "program `forward` takes no input `tokens`; it takes inputs, targets"
        );
        assert_eq!(
            refusal("shape.safetensors"),
            "program `forward`: input `inputs` must be s32[2,16], found s32[2,17]"
        );
        assert!(!workspace.path("out.safetensors").exists());
        workspace.succeed(&arguments("in.safetensors"));
        let outputs = read_tensors(&workspace.path("out.safetensors")).unwrap();
        let logits = outputs.iter().find(|(name, _)| name == "logits").map(|(_, value)| value);
        assert_eq!(logits.unwrap().ty().to_string(), "f32[2,5,384]");

        let no_state = ["run", "run/artifact", "--program", "forward", "--outputs", "x"];
        assert!(workspace.fail(&no_state).ends_with("tensors of state; give --checkpoint"));
        assert_eq!(
            workspace.fail(&["run", "run/artifact", "--program", "backward", "--outputs", "x"]),
            "the artifact has no program `backward`; it has init, train_step, eval_step, forward, prefill, decode_step"
        );
    }

    #[test]
    fn greedy_text_is_always_the_same_and_sampled_text_follows_its_seed() {
        let (workspace, _) = trained();
        let generate = |more: &[&str]| {
            let common = ["generate", "spans.json", "--checkpoint", "run", "--prompt", "line <extra_id_0>"];
            workspace.succeed(&[&common, more].concat())
        };
        assert_eq!(generate(&[]), generate(&[]));
        let sampled = |seed| generate(&["--temperature", "1", "--top-k", "100", "--seed", seed]);
        let texts = ["1", "2"].map(sampled);
        assert_ne!(texts[0], texts[1]);
        assert_eq!(texts[0], sampled("1"));
    }

    #[test]
    fn prompts_and_sampling_that_cannot_be_are_refused() {
        let (workspace, _) = trained();
        let refusal = |prompt: &str, temperature: &str| {
            let checkpoint = ["generate", "spans.json", "--checkpoint", "run", "--temperature", temperature];
            workspace.fail(&[&checkpoint[..], &["--prompt", prompt]].concat())
        };
        // 16 bytes and the end token.
        assert_eq!(
            refusal("0123456789abcdef", "0"),
            "the prompt has 17 tokens, the model takes 16; shorten it"
        );
        assert_eq!(refusal("a", "-1"), "temperature must be finite and at least 0, found -1");
    }

    #[test]
    fn a_run_goes_on_only_when_asked_and_only_as_itself() {
        let (workspace, _) = trained();
        let train = |run, more: &[&'static str]| workspace.fail(&Workspace::train("spans.json", run, more));
        assert_eq!(
            train("run", &["--steps", "5"]),
            "`run` holds a run already; give --resume to go on with it, or another folder"
        );
        assert_eq!(
            train("empty", &["--steps", "5", "--resume"]),
            "`empty` holds no checkpoint to resume from; start without --resume"
        );
        let newest = "run/checkpoints/step_00000003.safetensors";
        assert_eq!(
            train("run", &["--steps", "2", "--resume"]),
            format!(
                "the checkpoint `{newest}` is at step 3, beyond the 2 steps asked for; ask for at least 3"
            )
        );
        let message = train("run", &["--steps", "5", "--resume", "--set", "seed=1"]);
        assert!(message.starts_with(&format!("the checkpoint `{newest}` belongs to another configuration")));
        assert_eq!(train("run", &["--resume"]), "give --steps: this schedule does not say how many");
    }

    #[test]
    fn a_resumed_run_adds_the_steps_that_are_left_and_passes_over_a_damaged_checkpoint() {
        let (workspace, _) = trained();
        workspace.copy("run", "longer");
        let damaged = workspace.path("longer/checkpoints/step_00000004.safetensors");
        std::fs::write(&damaged, b"not a checkpoint").unwrap();
        // The artifact of the run will do instead of the configuration.
        let arguments = Workspace::train("longer/artifact", "longer", &["--steps", "5", "--resume"]);
        let finished = workspace.run(&arguments);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("passed over: longer/checkpoints/step_00000004"),
            "{}",
            finished.stderr
        );
        assert_eq!(steps(&workspace.path("longer")), [1, 2, 3, 4, 5]);
        // Nothing is left to do, so nothing is compiled.
        let again = workspace.run(&arguments);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        assert!(!again.stderr.contains("compiling"), "{}", again.stderr);
        assert_eq!(again.stdout.lines().last(), finished.stdout.lines().last());
    }

    #[test]
    fn ctrl_c_saves_a_run_that_then_goes_on_and_generates() {
        let workspace = Workspace::new();
        let train = |steps| Workspace::train("causal.json", "run", &["--steps", steps]);
        let mut command = workspace.command(&train("1000000"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let metrics = workspace.path("run/metrics.jsonl");
        while std::fs::metadata(&metrics).map_or(0, |file| file.len()) == 0 {
            std::thread::yield_now();
        }
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let finished = Finished::new(child.wait_with_output().unwrap());
        assert_eq!(finished.code, Some(130), "{}", finished.stderr);
        let saved = latest(&workspace.path("run/checkpoints")).unwrap().checkpoint.unwrap().meta().step;
        let end = format!("stopped at step {saved} of 1000000; go on with --resume");
        assert_eq!(finished.stdout.lines().last(), Some(end.as_str()));
        assert_eq!(steps(&workspace.path("run")), (1..=saved).collect::<Vec<_>>());

        let last = (saved + 2).to_string();
        workspace.succeed(&[&train(&last)[..], &["--resume"]].concat());
        assert_eq!(steps(&workspace.path("run")), (1..=saved + 2).collect::<Vec<_>>());
        let generate =
            ["generate", "causal.json", "--checkpoint", "run", "--prompt", "line", "--max-tokens", "3"];
        // The same text on four devices.
        let mesh = [&generate[..], &["--mesh", "expert=2,model=2"]].concat();
        assert_eq!(workspace.succeed(&generate), workspace.succeed(&mesh));
    }

    #[test]
    fn the_doctor_finds_the_runtime() {
        let report = json(&Workspace::new().succeed(&["doctor", "--json"]));
        assert!(report["runtime"]["problem"].is_null(), "{report}");
        assert_eq!(report["runtime"]["devices"].as_array().map(Vec::len), Some(1));
    }
}
