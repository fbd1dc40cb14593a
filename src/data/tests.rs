//! The room as a whole, through its public door.

use super::*;
use crate::config::{Objective, TokenizerSpec};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn spec(path: &Path) -> DataSpec {
    DataSpec {
        paths: vec![path.to_path_buf()],
        objective: Objective::SpanCorruption { noise_density: 0.15, mean_span_length: 3.0 },
        tokenizer: TokenizerSpec::Bytes,
        vocab_size: 384,
        sequences: 3,
        input_length: 64,
        target_length: 14,
        joined: false,
        packing: false,
        shuffle_examples: 10,
        held_out: 0.1,
        seed: 7,
    }
}

fn causal(path: &Path, length: usize) -> DataSpec {
    DataSpec { objective: Objective::Causal, target_length: length, ..spec(path) }
}

/// 300 numbered lines in each of two files, 12 segments or so.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let text: String = (0..300).map(|i| format!("{name} line number {i}\n")).collect();
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn take(corpus: &Corpus, position: &Position, n: usize) -> Vec<Batch> {
    corpus.train(position).unwrap().take(n).map(Result::unwrap).collect()
}

/// The whole lines of causal batches, row by row.
fn lines(corpus: &Corpus, batches: impl Iterator<Item = Batch>) -> HashSet<String> {
    let mut found = HashSet::new();
    for row in batches.flat_map(|b| b.targets.outer_iter().map(|row| row.to_vec()).collect::<Vec<_>>()) {
        let ids: Vec<u32> = row.into_iter().map(|id| id as u32).filter(|&id| id != 1).collect();
        let text = corpus.tokenizer().decode(&ids);
        let inner = text.split('\n').skip(1).map(str::to_string);
        let whole = inner.collect::<Vec<_>>();
        found.extend(whole.iter().take(whole.len().saturating_sub(1)).cloned());
    }
    found
}

#[test]
fn span_corruption_fills_its_shapes_exactly() {
    let folder = folder();
    let corpus = Corpus::open(&spec(folder.path())).unwrap();
    assert_eq!(corpus.summary().tokens_per_example, 70);
    for batch in take(&corpus, &corpus.start(), 20) {
        let inputs = batch.inputs.unwrap();
        assert_eq!((inputs.dim(), batch.targets.dim(), batch.num_examples), ((3, 64), (3, 14), 3));
        assert!(inputs.iter().chain(&batch.targets).all(|&id| id != 0), "no padding");
        // Inputs end in the last sentinel and eos, targets start with the first: 70 tokens have 3 spans.
        assert!(inputs.column(63).iter().chain(batch.targets.column(13)).all(|&id| id == 1));
        assert!(inputs.column(62).iter().all(|&id| id == 381));
        assert!(batch.targets.column(0).iter().all(|&id| id == 383));
    }
}

#[test]
fn the_same_seed_gives_the_same_batches_and_another_seed_others() {
    let folder = folder();
    let batches = |seed| {
        let corpus = Corpus::open(&DataSpec { seed, ..spec(folder.path()) }).unwrap();
        take(&corpus, &corpus.start(), 12).into_iter().map(|b| (b.inputs, b.targets)).collect::<Vec<_>>()
    };
    assert_eq!(batches(7), batches(7));
    assert_ne!(batches(7), batches(8));
}

#[test]
fn a_restored_position_gives_exactly_the_batches_that_follow() {
    // Window lengths of 1, less than, equal to and no multiple of a batch, and more than an epoch (about 160 examples).
    let folder = folder();
    for shuffle_examples in [1, 2, 3, 10, 1000] {
        let spec = DataSpec { shuffle_examples, ..spec(folder.path()) };
        let batches = {
            let corpus = Corpus::open(&spec).unwrap();
            take(&corpus, &corpus.start(), 130)
        };
        let last = batches.last().unwrap().position.as_ref().unwrap();
        assert!(last.epoch() >= 1, "the test must pass the end of an epoch");
        assert_eq!(last.examples(), 390);
        for n in [1, 2, 7, 50, 53, 54, 55, 110, 120] {
            let stored = serde_json::to_string(&batches[n - 1].position).unwrap();
            let position: Position = serde_json::from_str(&stored).unwrap();
            let corpus = Corpus::open(&spec).unwrap();
            assert_eq!(
                take(&corpus, &position, 8),
                batches[n..n + 8],
                "window {shuffle_examples}, batch {n}"
            );
        }
    }
}

#[test]
fn the_position_follows_what_was_taken_not_what_was_made_ahead() {
    let folder = folder();
    let corpus = Corpus::open(&spec(folder.path())).unwrap();
    let mut batches = corpus.train(&corpus.start()).unwrap();
    assert_eq!(batches.position(), &corpus.start());
    for examples in [3, 6] {
        let batch = batches.next().unwrap().unwrap();
        assert_eq!(batch.position.as_ref(), Some(batches.position()));
        assert_eq!(batches.position().examples(), examples);
    }
}

#[test]
fn the_number_of_sequences_may_change_at_a_position() {
    let folder = folder();
    let rows = |batches: Vec<Batch>| -> Vec<Vec<i32>> {
        batches.iter().flat_map(|b| b.targets.outer_iter().map(|r| r.to_vec()).collect::<Vec<_>>()).collect()
    };
    let threes = Corpus::open(&spec(folder.path())).unwrap();
    let fives = Corpus::open(&DataSpec { sequences: 5, ..spec(folder.path()) }).unwrap();
    let position = take(&threes, &threes.start(), 5).pop().unwrap().position.unwrap();
    assert_eq!(rows(take(&threes, &position, 10)), rows(take(&fives, &position, 6)));
}

#[test]
fn an_epoch_reads_all_the_training_text_and_none_that_is_held_out() {
    let folder = folder();
    // One-token chunks of bytes: the stream itself, whatever the order within windows of one.
    let spec = DataSpec { shuffle_examples: 1, sequences: 1, ..causal(folder.path(), 1) };
    let corpus = Corpus::open(&spec).unwrap();
    let text = |batches: &mut dyn Iterator<Item = Batch>| {
        let ids: Vec<u32> =
            batches.map(|b| b.targets[[0, 0]] as u32).map(|id| if id == 1 { 13 } else { id }).collect();
        corpus.tokenizer().decode(&ids)
    };
    let first_epoch = |b: &Batch| b.position.as_ref().is_some_and(|p| p.epoch() == 0);
    let train = text(&mut corpus.train(&corpus.start()).unwrap().map(Result::unwrap).take_while(first_epoch));
    let held_out = text(&mut corpus.held_out(1).map(Result::unwrap));
    let set = |text: &str| text.lines().filter(|l| !l.is_empty()).map(str::to_string).collect::<HashSet<_>>();
    let (train, held_out) = (set(&train), set(&held_out));
    assert!(train.is_disjoint(&held_out));
    assert!(held_out.len() > 20, "{}", held_out.len());
    assert_eq!(train.len() + held_out.len(), 600);
}

#[test]
fn held_out_text_is_the_same_for_all_seeds_and_ends() {
    let folder = folder();
    let all = |seed| {
        let corpus = Corpus::open(&DataSpec { seed, ..spec(folder.path()) }).unwrap();
        corpus.held_out(3).map(Result::unwrap).collect::<Vec<_>>()
    };
    let batches = all(7);
    assert_eq!(batches, all(8));
    assert!(batches.len() > 2);
    let (last, full) = batches.split_last().unwrap();
    assert!(full.iter().all(|b| b.num_examples == 3 && b.position.is_none()));
    for (row, target) in last.targets.outer_iter().enumerate() {
        assert_eq!(row < last.num_examples, target[0] != 0, "rows without example are pad");
    }
    // Batches of another size hold the same rows.
    let corpus = Corpus::open(&spec(folder.path())).unwrap();
    let rows = |sequences| {
        let batches = corpus.held_out(sequences).map(Result::unwrap);
        let rows = |b: Batch| b.targets.outer_iter().take(b.num_examples).map(|r| r.to_vec()).collect();
        batches.flat_map::<Vec<Vec<i32>>, _>(rows).collect::<Vec<_>>()
    };
    assert_eq!(rows(2), rows(3));
}

#[test]
fn long_chunks_still_never_mix_training_and_held_out_lines() {
    let folder = folder();
    let corpus = Corpus::open(&causal(folder.path(), 200)).unwrap();
    let train = lines(&corpus, take(&corpus, &corpus.start(), 100).into_iter());
    let held_out = lines(&corpus, corpus.held_out(3).map(Result::unwrap));
    assert!(train.len() > 300 && held_out.len() > 10);
    assert!(train.is_disjoint(&held_out));
}

#[test]
fn causal_batches_have_no_inputs() {
    let folder = folder();
    let corpus = Corpus::open(&causal(folder.path(), 33)).unwrap();
    let batch = take(&corpus, &corpus.start(), 1).pop().unwrap();
    assert_eq!((batch.inputs, batch.targets.dim()), (None, (3, 33)));
}

#[test]
fn a_text_shorter_than_an_example_is_read_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short");
    fs::write(&path, "abc").unwrap();
    let spec = DataSpec { held_out: 0.0, sequences: 1, ..causal(&path, 10) };
    let corpus = Corpus::open(&spec).unwrap();
    // "abc" and eos, two and a half times.
    let batch = take(&corpus, &corpus.start(), 1).pop().unwrap();
    assert_eq!(batch.targets.row(0).to_vec(), [100, 101, 102, 1, 100, 101, 102, 1, 100, 101]);
    assert_eq!(corpus.held_out(1).count(), 0);
    let error = Corpus::open(&DataSpec { held_out: 0.1, ..spec }).err().unwrap();
    assert!(matches!(error, DataError::TooSmallToSplit { bytes: 3, .. }));
}

#[test]
fn positions_of_another_corpus_or_other_settings_are_refused() {
    let folder = folder();
    let old = Corpus::open(&spec(folder.path())).unwrap();
    let position = take(&old, &old.start(), 4).pop().unwrap().position.unwrap();
    let other = Corpus::open(&DataSpec { seed: 8, ..spec(folder.path()) }).unwrap();
    assert!(matches!(other.train(&position), Err(DataError::SettingsChanged { .. })));
    fs::write(folder.path().join("c"), "more").unwrap();
    let grown = Corpus::open(&spec(folder.path())).unwrap();
    assert!(matches!(grown.train(&position), Err(DataError::CorpusChanged { .. })));
}

#[test]
fn positions_out_of_range_are_refused() {
    let folder = folder();
    let corpus = Corpus::open(&spec(folder.path())).unwrap();
    let change = |path: [&str; 2], value: u64| {
        let mut json = serde_json::to_value(corpus.start()).unwrap();
        match path {
            ["", key] => json[key] = value.into(),
            [key, inner] => json[key][inner] = value.into(),
        }
        serde_json::from_value::<Position>(json).unwrap()
    };
    for path in
        [["start", "epoch"], ["start", "segment"], ["start", "token"], ["", "window"], ["", "examples"]]
    {
        let position = change(path, u64::MAX);
        assert!(matches!(corpus.train(&position), Err(DataError::BadPosition { .. })), "{path:?}");
    }
    // How long the window is turns out on the thread.
    let mut batches = corpus.train(&change(["", "taken"], 11)).unwrap();
    assert!(matches!(batches.next(), Some(Err(DataError::BadPosition { field: "taken", found: 11, .. }))));
    assert!(batches.next().is_none());
}

#[test]
fn an_error_on_the_thread_is_the_last_item() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let good: String = (0..400).map(|i| format!("{{\"text\": \"document number {i}\"}}\n")).collect();
    fs::write(&path, format!("{good}oops\n")).unwrap();
    let corpus = Corpus::open(&DataSpec { held_out: 0.0, ..spec(&path) }).unwrap();
    let items: Vec<_> = corpus.train(&corpus.start()).unwrap().collect();
    let (last, before) = items.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    assert!(matches!(last, Err(DataError::JsonLine { line: 401, .. })), "{last:?}");
}

#[test]
fn json_lines_are_documents_that_end_in_eos() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \"c\", \"id\": 4}\n").unwrap();
    let corpus = Corpus::open(&DataSpec { held_out: 0.0, sequences: 1, ..causal(&path, 5) }).unwrap();
    let batch = take(&corpus, &corpus.start(), 1).pop().unwrap();
    assert_eq!(batch.targets.row(0).to_vec(), [100, 101, 1, 102, 1]);
    // 5 tokens: eos twice, three others once: ln 5 - (2 ln 2) / 5 nats.
    let entropy = corpus.unigram_entropy(u64::MAX).unwrap();
    assert!((entropy - (5f64.ln() - 2.0 * 2f64.ln() / 5.0)).abs() < 1e-12);
    // Two tokens, both once.
    assert!((corpus.unigram_entropy(2).unwrap() - 2f64.ln()).abs() < 1e-12);
}

#[test]
fn text_that_gives_no_tokens_is_an_error_and_no_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{\"text\": \"\"}\n\n").unwrap();
    let corpus = Corpus::open(&DataSpec { held_out: 0.0, ..spec(&path) }).unwrap();
    let mut batches = corpus.train(&corpus.start()).unwrap();
    assert!(matches!(batches.next(), Some(Err(DataError::NoTokens))));
    assert!(matches!(corpus.unigram_entropy(10), Err(DataError::NoTokens)));
}

#[test]
fn dropping_batches_stops_a_window_that_would_take_for_ever() {
    let folder = folder();
    // Examples longer than thousands of epochs: without the stop this fills memory.
    let spec = DataSpec { sequences: 1, held_out: 0.0, ..causal(folder.path(), 1 << 28) };
    let corpus = Corpus::open(&spec).unwrap();
    drop(corpus.train(&corpus.start()).unwrap());
}

#[test]
fn settings_that_do_not_go_together_are_refused_with_what_would_work() {
    let folder = folder();
    let message = |change: &dyn Fn(&mut DataSpec)| {
        let mut spec = spec(folder.path());
        change(&mut spec);
        Corpus::open(&spec).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(
        message(&|s| s.target_length = 13),
        "data: target_length must be at least 14 for an input_length of 64, found 13"
    );
    assert_eq!(message(&|s| s.target_length = 16), "");
    assert_eq!(
        message(&|s| s.held_out = 1.0),
        "data: held_out must be at least 0 and below 1, such as 0.02, found 1"
    );
    assert_eq!(
        message(&|s| (s.input_length, s.target_length) = (2048, 456)),
        "data: span corruption of 2274 tokens needs 114 sentinels, the tokenizer has 100; \
         use shorter inputs, longer spans or more sentinels"
    );
    assert_eq!(message(&|s| s.sequences = 0), "data: sequences must be at least 1, found 0");
    assert!(message(&|s| s.sequences = usize::MAX).contains("small enough"));
    assert!(message(&|s| s.held_out = f64::NAN).contains("NaN"));
    assert!(message(&|s| s.paths.clear()).starts_with("data: no path given"));
}

/// 40 pairs, `question i` -> `i` but for every eighth, whose target is longer.
fn pairs_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let target = |i: usize| if i.is_multiple_of(8) { "a long answer".to_string() } else { i.to_string() };
    let line = |i: usize| format!("{{\"input\": \"question {i}\", \"target\": \"{}\"}}\n", target(i));
    fs::write(folder.path().join("pairs.jsonl"), (0..40).map(line).collect::<String>()).unwrap();
    folder
}

fn pairs(path: &Path) -> DataSpec {
    let objective = Objective::text_to_text();
    DataSpec { objective, input_length: 12, target_length: 6, held_out: 0.0, ..spec(path) }
}

#[test]
fn pairs_fill_a_row_each_end_in_eos_and_are_cut_in_front_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{\"input\": \"ab\", \"target\": \"c\"}\n{\"input\": \"abcd\", \"target\": \"\"}\n")
        .unwrap();
    let spec = DataSpec { input_length: 4, target_length: 2, shuffle_examples: 1, ..pairs(&path) };
    let corpus = Corpus::open(&DataSpec { sequences: 2, ..spec }).unwrap();
    let batch = take(&corpus, &corpus.start(), 1).pop().unwrap();
    assert_eq!(batch.inputs.unwrap(), ndarray::array![[100, 101, 1, 0], [100, 101, 102, 1]]);
    assert_eq!(batch.targets, ndarray::array![[102, 1], [1, 0]]);
    assert_eq!(batch.truncated, Truncated { inputs: 1, targets: 0 });
    // Tokens to be predicted: c and eos, then eos.
    let entropy = corpus.unigram_entropy(u64::MAX).unwrap();
    assert!((entropy - (3f64.ln() - 2.0 * 2f64.ln() / 3.0)).abs() < 1e-12);
}

#[test]
fn pairs_follow_a_restored_position_exactly() {
    let folder = pairs_folder();
    for shuffle_examples in [1, 7, 1000] {
        let spec = DataSpec { shuffle_examples, ..pairs(folder.path()) };
        let corpus = Corpus::open(&spec).unwrap();
        let batches = take(&corpus, &corpus.start(), 40);
        for n in [1, 5, 13, 14, 27, 30] {
            let stored = serde_json::to_string(&batches[n - 1].position).unwrap();
            let position: Position = serde_json::from_str(&stored).unwrap();
            let corpus = Corpus::open(&spec).unwrap();
            assert_eq!(
                take(&corpus, &position, 8),
                batches[n..n + 8],
                "window {shuffle_examples}, batch {n}"
            );
        }
    }
}

#[test]
fn a_whole_file_of_pairs_is_read_once() {
    let folder = pairs_folder();
    let corpus = Corpus::open(&pairs(folder.path())).unwrap();
    let batches: Vec<Batch> = corpus.whole(3).map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|b| b.num_examples).sum::<usize>(), 40);
    // "question 10" and the end fill a row of 12; "a long answer" does not fit into 6.
    let mut truncated = Truncated::default();
    batches.iter().for_each(|b| truncated += b.truncated);
    assert_eq!(truncated, Truncated { inputs: 0, targets: 5 });
    assert_eq!(corpus.held_out(3).count(), 0);
}

#[test]
fn examples_are_packed_into_the_first_row_with_room_and_numbered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let line = |input: &str, target: &str| format!("{{\"input\": \"{input}\", \"target\": \"{target}\"}}\n");
    // With the end: 3 + 2, 4 + 2, 2 + 2 of 6 + 4. The third joins the first; a fourth has no room.
    let lines = [line("ab", "x"), line("abc", "y"), line("c", "z"), line("abcde", "")];
    fs::write(&path, lines.concat()).unwrap();
    let spec =
        DataSpec { input_length: 6, target_length: 4, packing: true, shuffle_examples: 1, ..pairs(&path) };
    let corpus = Corpus::open(&DataSpec { sequences: 2, ..spec }).unwrap();
    let batches = take(&corpus, &corpus.start(), 2);
    let first = &batches[0];
    assert_eq!(first.inputs, Some(ndarray::array![[100, 101, 1, 102, 1, 0], [100, 101, 102, 1, 0, 0]]));
    assert_eq!(first.targets, ndarray::array![[123, 1, 125, 1], [124, 1, 0, 0]]);
    let segments = first.segments.as_ref().unwrap();
    assert_eq!(segments.inputs, Some(ndarray::array![[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]));
    assert_eq!(segments.targets, ndarray::array![[1, 1, 2, 2], [1, 1, 0, 0]]);
    assert_eq!((first.num_examples, first.position.as_ref().unwrap().examples()), (3, 3));
    // The next begins with the one that had no room, alone in its row, and ends where the next epoch's second has none.
    let inputs = batches[1].inputs.as_ref().unwrap();
    assert_eq!(inputs.row(0).to_vec(), [100, 101, 102, 103, 104, 1]);
    assert_eq!(inputs.row(1).to_vec(), [100, 101, 1, 0, 0, 0]);
}

#[test]
fn packed_batches_follow_a_restored_position_exactly_and_lose_no_example() {
    let folder = pairs_folder();
    for shuffle_examples in [1, 7, 1000] {
        let spec = DataSpec {
            shuffle_examples,
            packing: true,
            input_length: 40,
            target_length: 15,
            ..pairs(folder.path())
        };
        let corpus = Corpus::open(&spec).unwrap();
        let batches = take(&corpus, &corpus.start(), 30);
        assert!(batches.iter().any(|batch| batch.num_examples > 3), "rows hold several");
        for n in [1, 2, 5, 9, 14, 20] {
            let position = batches[n - 1].position.clone().unwrap();
            assert_eq!(
                take(&corpus, &position, 8),
                batches[n..n + 8],
                "window {shuffle_examples}, batch {n}"
            );
        }
    }
    let spec = DataSpec { packing: true, input_length: 40, target_length: 15, ..pairs(folder.path()) };
    let corpus = Corpus::open(&spec).unwrap();
    assert_eq!(corpus.whole(3).map(|batch| batch.unwrap().num_examples).sum::<usize>(), 40);
}

/// Pairs in rows of six, each a target behind its input.
fn joined(lines: &[(&str, &str)], packing: bool) -> (TempDir, Corpus) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let line =
        |(input, target): &(&str, &str)| format!("{{\"input\": \"{input}\", \"target\": \"{target}\"}}\n");
    fs::write(&path, lines.iter().map(line).collect::<String>()).unwrap();
    let spec = DataSpec { joined: true, packing, target_length: 6, shuffle_examples: 1, ..pairs(&path) };
    (folder, Corpus::open(&DataSpec { sequences: 3, ..spec }).unwrap())
}

#[test]
fn a_target_stands_behind_its_input_and_has_the_row_but_for_one_place() {
    let (_folder, corpus) = joined(&[("ab", "c"), ("abcdef", "xy"), ("ab", "uvwxyz")], false);
    let batch = take(&corpus, &corpus.start(), 1).pop().unwrap();
    assert_eq!(batch.inputs, None);
    // The second keeps the last tokens of its input, the third all of its target that leaves one of them.
    let rows =
        ndarray::array![[100, 101, 102, 1, 0, 0], [103, 104, 105, 123, 124, 1], [101, 120, 121, 122, 123, 1]];
    assert_eq!(batch.targets, rows);
    let roles = ndarray::array![[1, 1, 2, 2, 0, 0], [1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 2, 2]];
    assert_eq!((batch.roles, batch.segments), (Some(roles), None));
    assert_eq!(batch.truncated, Truncated { inputs: 2, targets: 1 });
    let pairs: Vec<Pair> = corpus.whole(1).pairs().map(Result::unwrap).collect();
    let first = Pair { input: vec![100, 101], target: vec![102] };
    assert!(pairs.len() == 3 && pairs.contains(&first), "{pairs:?}");
}

#[test]
fn joined_pairs_are_packed_and_numbered() {
    let (_folder, corpus) = joined(&[("a", "b"), ("c", ""), ("ab", "cd"), ("x", "y")], true);
    let batch = take(&corpus, &corpus.start(), 1).pop().unwrap();
    // Lengths 3, 2, 5 and 3 of 6; behind the last one there is room for the first of the next epoch.
    assert_eq!(batch.targets.row(0).to_vec(), [100, 101, 1, 102, 1, 0]);
    assert_eq!(batch.roles.unwrap().row(0).to_vec(), [1, 2, 2, 1, 2, 0]);
    let segments = batch.segments.unwrap();
    assert_eq!(segments.targets.row(0).to_vec(), [1, 1, 1, 2, 2, 0]);
    assert_eq!((segments.inputs, batch.num_examples), (None, 5));
}
