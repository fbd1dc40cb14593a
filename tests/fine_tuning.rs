//! Fine-tuning on pairs of texts: what a run starts from, what it tells, how it goes on.
#![cfg(feature = "cpu")]

mod workspace;

use serde_json::Value;
use switchyard::checkpoint::{Checkpoint, latest};
use switchyard::report::read_metrics;
use workspace::{Workspace, trained};

/// The model of `spans.json` on pairs; targets have room for seven bytes and the end.
const PAIRS: [&str; 6] = [
    "--set",
    "data.objective.kind=text_to_text",
    "--set",
    "data.objective.input_field=question",
    "--set",
    "batch={\"sequences\":4,\"input_length\":24,\"target_length\":8,\"accumulation\":2}",
];

/// So many pairs; every tenth target is too long by one byte.
fn write_pairs(workspace: &Workspace, name: &str, count: usize) {
    let line = |i: usize| {
        let target = if i.is_multiple_of(10) { "12345678".to_string() } else { (i * i % 97).to_string() };
        format!("{{\"question\": \"the square of {i}\", \"target\": \"{target}\"}}\n")
    };
    std::fs::write(workspace.path(name), (0..count).map(line).collect::<String>()).unwrap();
}

fn fine_tune<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["train", "spans.json", "--data", "pairs.jsonl", "--held-out", "held.jsonl", "--out", run];
    [&common[..], &PAIRS, more].concat()
}

fn newest(workspace: &Workspace, run: &str) -> Checkpoint {
    latest(&workspace.path(run).join("checkpoints")).unwrap().checkpoint.unwrap()
}

#[test]
fn a_run_starts_from_the_parameters_of_another_and_goes_on_bit_for_bit() {
    let (workspace, _) = trained();
    write_pairs(workspace, "pairs.jsonl", 50);
    write_pairs(workspace, "held.jsonl", 11);

    // A rate of 0 leaves the parameters as they were taken over.
    let still = ["--init-from", "run", "--init-step", "7", "--steps", "8", "--set", "schedule.rate=0"];
    workspace.succeed(&fine_tune("still", &still));
    let (before, after) = (newest(workspace, "run"), newest(workspace, "still"));
    assert_eq!(after.meta().step, 8);
    assert_eq!(after.tensor("step").unwrap().to_f64(), [8.0]);
    for (name, _) in before.tensors().filter(|(name, _)| !name.starts_with("optimizer/") && *name != "step") {
        assert_eq!(before.bytes(name).unwrap(), after.bytes(name).unwrap(), "{name}");
    }

    let start = ["--init-from", "run", "--checkpoint-every", "2", "--eval-every", "3"];
    let printed = workspace.succeed(&fine_tune("whole", &[&start[..], &["--steps", "5"]].concat()));
    let records = read_metrics(&workspace.path("whole/metrics.jsonl")).unwrap();
    let sum = |name: &str| records.iter().filter_map(|record| record.value(name)).sum::<f64>();
    assert_eq!((sum("examples"), sum("truncated_inputs")), (20.0, 0.0));
    assert!(sum("truncated_targets") > 0.0);
    let row = format!("0 inputs and {} targets of 20 examples", sum("truncated_targets"));
    assert!(printed.contains(&row) && printed.contains("held-out exact match"), "{printed}");

    // The same run, had it been stopped behind its first checkpoint.
    workspace.copy("whole", "parts");
    for step in [4, 5] {
        std::fs::remove_file(workspace.path(format!("parts/checkpoints/step_0000000{step}.safetensors")))
            .unwrap();
    }
    workspace.succeed(&fine_tune("parts", &["--resume", "--steps", "5", "--eval-every", "3"]));
    assert_eq!(newest(workspace, "parts").recorded_digest(), newest(workspace, "whole").recorded_digest());

    // A file of its own is measured to its end, as the last step of the run did.
    let eval =
        ["eval", "whole/artifact", "--checkpoint", "whole", "--held-out", "held.jsonl", "--json", "--greedy"];
    let found: Value = serde_json::from_str(&workspace.succeed(&eval)).unwrap();
    assert_eq!((&found["sequences"], &found["truncated_targets"]), (&11.0.into(), &2.into()));
    assert_eq!(found["cross_entropy"].as_f64(), records.last().unwrap().value("held_out_loss"));
    assert_eq!(found["exact_match"].as_f64(), Some(0.0));
    assert_eq!((&found["greedy_pairs"], found["greedy_exact_match"].as_f64()), (&11.into(), Some(0.0)));
    let message = workspace.fail(&fine_tune("parts", &["--init-from", "run", "--steps", "9"]));
    assert_eq!(message, "`parts` holds a run already; give --resume to go on with it, or another folder");
}

#[test]
fn parameters_that_do_not_fit_are_all_listed() {
    let (workspace, _) = trained();
    write_pairs(workspace, "other.jsonl", 60);
    let common = ["train", "spans.json", "--data", "other.jsonl", "--out", "refused", "--init-from", "run"];
    let more = ["--steps", "1", "--set", "model.feed_forward=gated_gelu", "--set", "model.moe.num_experts=0"];
    let message = workspace.fail(&[&common[..], &PAIRS, &more].concat());
    let file = "run/checkpoints/step_00000003.safetensors";
    assert_eq!(
        message,
        format!(
            "`{file}` does not fit the model: `encoder/block_0/mlp/norm` f32[1,8] is missing; `encoder/block_0/mlp/wi_0` \
             f32[1,8,16] is missing; `encoder/block_0/mlp/wi_1` f32[1,8,16] is missing; `encoder/block_0/mlp/wo` \
             f32[1,16,8] is missing; `decoder/block_0/mlp/norm` f32[1,8] is missing; `decoder/block_0/mlp/wi_0` \
             f32[1,8,16] is missing; `decoder/block_0/mlp/wi_1` f32[1,8,16] is missing; `decoder/block_0/mlp/wo` \
             f32[1,16,8] is missing; the model has no `encoder/block_0/moe/norm` f32[1,8]; the model has no \
             `encoder/block_0/moe/router` f32[1,8,2]; the model has no `encoder/block_0/moe/experts/wi` f32[1,2,8,16]; the \
             model has no `encoder/block_0/moe/experts/wo` f32[1,2,16,8]; the model has no `decoder/block_0/moe/norm` \
             f32[1,8]; the model has no `decoder/block_0/moe/router` f32[1,8,2]; the model has no \
             `decoder/block_0/moe/experts/wi` f32[1,2,8,16]; the model has no `decoder/block_0/moe/experts/wo` f32[1,2,16,8]"
        )
    );
    assert!(!workspace.path("refused").exists(), "nothing was started");
}

#[test]
fn a_decoder_alone_learns_to_answer_and_writes_what_it_learnt() {
    let workspace = Workspace::new();
    let write = |name: &str, count: usize| {
        // Prompts of different lengths, two of which have no room beside each other's answer.
        let line =
            |i: usize| format!("{{\"input\": \"{}{i}:\", \"target\": \"{}\"}}\n", "n".repeat(i % 7), "even");
        std::fs::write(workspace.path(name), (0..count).map(line).collect::<String>()).unwrap();
    };
    write("pairs.jsonl", 80);
    write("held.jsonl", 9);
    let train = ["train", "causal.json", "--data", "pairs.jsonl", "--held-out", "held.jsonl", "--out", "run"];
    let pairs = ["--set", "data.objective.kind=text_to_text", "--set", "batch.packing=true"];
    let more = ["--steps", "60", "--set", "schedule.rate=0.03", "--eval-every", "60"];
    let printed = workspace.succeed(&[&train[..], &pairs, &more].concat());
    assert!(printed.contains("held-out exact match"), "{printed}");
    let eval =
        ["eval", "causal.json", "--checkpoint", "run", "--held-out", "held.jsonl", "--json", "--greedy"];
    let mesh = ["--mesh", "data=2,expert=2"];
    let found: Value =
        serde_json::from_str(&workspace.succeed(&[&eval[..], &pairs, &mesh].concat())).unwrap();
    // "even" and the end, nine times; no token of an input.
    assert_eq!((&found["tokens"], &found["sequences"]), (&45.0.into(), &9.0.into()));
    assert_eq!((found["exact_match"].as_f64(), found["greedy_exact_match"].as_f64()), (Some(1.0), Some(1.0)));
    let message =
        workspace.fail(&["eval", "causal.json", "--checkpoint", "run", "--data", "text", "--greedy"]);
    assert_eq!(
        message,
        "--greedy compares with the targets of pairs, and data.objective.kind is not text_to_text"
    );
}
