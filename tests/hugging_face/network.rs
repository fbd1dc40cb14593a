//! Programs of an imported model on the evaluator.

use std::collections::BTreeMap;
use std::path::Path;
use switchyard::checkpoint::{self, Checkpoint, Meta, TensorFile};
use switchyard::config::{Architecture, RunConfig};
use switchyard::convert::{self, Options};
use switchyard::eval::evaluate;
use switchyard::ir::{Literal, TensorType};
use switchyard::step;

/// Named outputs.
pub type Outputs = BTreeMap<String, Literal>;

/// An imported model for batches of one shape.
pub struct Network {
    pub config: RunConfig,
    pub checkpoint: Checkpoint,
}

impl Network {
    /// Imports `there` into `here`; the batch has the shapes of `inputs` and `targets`.
    pub fn import(there: &Path, here: &Path, batch: &[(String, Literal)]) -> Self {
        let made = convert::import(there, here).unwrap_or_else(|error| panic!("{error}"));
        let mut config = made.config;
        config.batch.accumulation = 1;
        // Programs are given the checkpoint's tensors, which are stacks.
        config.model.scan_blocks = Some(true);
        for (name, tokens) in batch {
            let [rows, length] = &tokens.ty().shape[..] else { panic!("{name} has two axes") };
            config.batch.sequences = *rows;
            match name.as_str() {
                "inputs" => config.batch.input_length = *length,
                "targets" => config.batch.target_length = *length,
                _ => (),
            }
        }
        if config.model.architecture == Architecture::DecoderOnly {
            config.batch.input_length = config.batch.target_length;
        }
        let checkpoint = Checkpoint::open(&made.checkpoint.path).unwrap();
        checkpoint.verify().unwrap();
        Self { config, checkpoint }
    }

    /// The outputs of a program.
    pub fn run(&self, program: &str, batch: &[(String, Literal)]) -> Outputs {
        let program = step::build(&self.config, program).unwrap().unwrap();
        let given =
            |name: &str| batch.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
        let inputs: Vec<Literal> = program
            .inputs
            .iter()
            .map(|port| given(&port.name).unwrap_or_else(|| self.checkpoint.tensor(&port.name).unwrap()))
            .collect();
        let values = evaluate(&program.graph, &inputs).unwrap();
        program.outputs.iter().map(|port| port.name.clone()).zip(values).collect()
    }

    /// The tokens that continue a batch greedily, `count` for each row, by `prefill` and `decode_step`; one list per row.
    pub fn generate(&self, batch: &[(String, Literal)], count: usize) -> Vec<Vec<i32>> {
        let rows = self.config.batch.sequences;
        let (given, mut slot) = match self.config.model.architecture {
            Architecture::EncoderDecoder => (batch.to_vec(), 0),
            Architecture::DecoderOnly => self.prompt(batch),
        };
        let mut outputs = self.run("prefill", &given);
        let mut generated = vec![vec![]; rows];
        let mut next = vec![0; rows];
        while generated[0].len() < count {
            if let Some(logits) = outputs.remove("logits") {
                next = greedy(&logits);
                generated.iter_mut().zip(&next).for_each(|(row, token)| row.push(*token));
            }
            let mut inputs: Vec<(String, Literal)> = outputs.into_iter().collect();
            inputs.push(("token".into(), Literal::new([rows], &next).unwrap()));
            inputs.push(("slot".into(), Literal::scalar(slot)));
            outputs = self.run("decode_step", &inputs);
            slot += 1;
        }
        generated
    }

    /// The prompts of a decoder alone, whose padding, on the left, is 0; and the slot behind them.
    fn prompt(&self, batch: &[(String, Literal)]) -> (Vec<(String, Literal)>, i32) {
        let prompts = &batch.iter().find(|(name, _)| name == "prompt").unwrap().1;
        let (width, slots) = (prompts.ty().shape[1], self.config.batch.target_length);
        let rows = prompts.to_f64();
        let filled =
            rows.chunks(width).flat_map(|row| (0..slots).map(|i| row.get(i).copied().unwrap_or(0.0)));
        let tokens: Vec<i32> = filled.map(|token| token as i32).collect();
        let real: Vec<f32> = tokens.iter().map(|&token| if token == 0 { 0.0 } else { 1.0 }).collect();
        let shape = [rows.len() / width, slots];
        let named = vec![
            ("prompt".into(), Literal::new(shape, &tokens).unwrap()),
            ("prompt_real".into(), Literal::new(shape, &real).unwrap()),
        ];
        (named, width as i32)
    }

    /// The gradients of the loss under the names and in the layout of the other library.
    pub fn gradients(&self, batch: &[(String, Literal)], work: &Path) -> TensorFile {
        let outputs = self.run("gradients", batch);
        let state: Vec<(String, TensorType)> =
            self.checkpoint.tensors().map(|(name, ty)| (name.to_string(), ty.clone())).collect();
        // What is not trained has no gradient, but a name in the other library.
        let fetch = |i: usize| {
            let (name, ty) = &state[i];
            let gradient = outputs.get(&format!("gradients/{name}")).cloned();
            Ok::<_, String>(gradient.unwrap_or_else(|| Literal::zeros(ty.clone())))
        };
        let saved = checkpoint::save(&work.join("gradients"), &Meta::default(), &state, fetch).unwrap();
        let file = TensorFile::open(&saved.path).unwrap();
        let target = work.join("gradients there");
        convert::export(&file, &self.config, &target, Options::default()).unwrap();
        TensorFile::open(&target.join("model.safetensors")).unwrap()
    }
}

/// The greatest element of each row, the first of equals.
fn greedy(logits: &Literal) -> Vec<i32> {
    let best = |row: &[f64]| (0..row.len()).rev().max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap() as i32;
    logits.to_f64().chunks(logits.ty().shape[1]).map(best).collect()
}

/// The norm of the difference over the norm of the reference.
pub fn distance(ours: &Literal, theirs: &Literal) -> f64 {
    assert_eq!(ours.ty().shape, theirs.ty().shape);
    let (ours, theirs) = (ours.to_f64(), theirs.to_f64());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(&theirs).map(|(x, y)| x - y));
    difference / norm(&mut theirs.iter().copied()).max(1e-30)
}
