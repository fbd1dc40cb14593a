//! Programs of an imported model on the evaluator.

use std::collections::BTreeMap;
use std::path::Path;
use switchyard::checkpoint::{self, Checkpoint, Meta, TensorFile};
use switchyard::config::RunConfig;
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
        for (name, tokens) in batch {
            let [rows, length] = &tokens.ty().shape[..] else { panic!("{name} has two axes") };
            config.batch.sequences = *rows;
            match name.as_str() {
                "inputs" => config.batch.input_length = *length,
                _ => config.batch.target_length = *length,
            }
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

    /// The gradients of the loss under the names and in the layout of the other library.
    pub fn gradients(&self, batch: &[(String, Literal)], work: &Path) -> TensorFile {
        let outputs = self.run("gradients", batch);
        let state: Vec<(String, TensorType)> =
            self.checkpoint.tensors().map(|(name, ty)| (name.to_string(), ty.clone())).collect();
        let fetch = |i: usize| Ok::<_, String>(outputs[&format!("gradients/{}", state[i].0)].clone());
        let saved = checkpoint::save(&work.join("gradients"), &Meta::default(), &state, fetch).unwrap();
        let file = TensorFile::open(&saved.path).unwrap();
        let target = work.join("gradients there");
        convert::export(&file, &self.config, &target, Options::default()).unwrap();
        TensorFile::open(&target.join("model.safetensors")).unwrap()
    }
}

/// The norm of the difference over the norm of the reference.
pub fn distance(ours: &Literal, theirs: &Literal) -> f64 {
    assert_eq!(ours.ty().shape, theirs.ty().shape);
    let (ours, theirs) = (ours.to_f64(), theirs.to_f64());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(&theirs).map(|(x, y)| x - y));
    difference / norm(&mut theirs.iter().copied()).max(1e-30)
}
