//! A program: a graph with named inputs and outputs.

use super::{evaluate, generate, init, state::Layout, teacher::Network, train};
use crate::build::{BuildError, Builder};
use crate::config::{Architecture, RunConfig};
use crate::ir::{DType, Graph, TensorType, Value};
use crate::layers::Weights;
use crate::model::{Batch, Segments};
use serde::{Deserialize, Serialize};

/// The names of all programs.
pub const PROGRAMS: [&str; 7] =
    ["init", "train_step", "eval_step", "forward", "prefill", "decode_step", "gradients"];

/// One that an artifact has only where it is asked for.
const ON_REQUEST: &str = "gradients";

/// The program of a training step with a teacher.
pub const DISTILL_STEP: &str = "distill_step";

/// The programs that an artifact has unless it is asked for others: one more with a teacher.
pub fn programs(config: &RunConfig) -> Vec<&'static str> {
    let distill = config.distillation.teacher.as_ref().map(|_| DISTILL_STEP);
    PROGRAMS.into_iter().filter(|name| *name != ON_REQUEST).chain(distill).collect()
}

/// What an input or output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Part of the state.
    State,
    /// Kept on the device from token to token of a generation.
    Cache,
    /// Given anew at each call.
    Input,
    /// A result that is not state.
    Output,
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub ty: TensorType,
    pub role: Role,
    /// Of an output: the input whose buffer it takes over.
    pub alias: Option<usize>,
}

impl Role {
    /// Whether it stays on the device between calls; an output takes over the buffer of the input of its name.
    pub fn stays(self) -> bool {
        matches!(self, Role::State | Role::Cache)
    }
}

impl Port {
    fn new(name: &str, ty: TensorType, role: Role) -> Self {
        Self { name: name.into(), ty, role, alias: None }
    }
}

/// A graph with its signature.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub graph: Graph,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// Builds a program by name; `None` if there is none of that name.
pub fn build(config: &RunConfig, name: &str) -> Option<Result<Program, BuildError>> {
    let name = programs(config).into_iter().chain([ON_REQUEST]).find(|p| *p == name)?;
    let layout = Layout::new(config);
    let mut assembly = Assembly { config, layout: &layout, b: Builder::new(), inputs: vec![] };
    let outputs = match name {
        "init" => init::build(&mut assembly),
        "train_step" => train::build(&mut assembly, None),
        DISTILL_STEP => train::build(&mut assembly, Network::new(&config.distillation)),
        "eval_step" => evaluate::eval_step(&mut assembly),
        "forward" => evaluate::forward(&mut assembly),
        "gradients" => evaluate::gradients(&mut assembly),
        "prefill" => generate::prefill(&mut assembly),
        _ => generate::decode_step(&mut assembly),
    };
    Some(outputs.map(|outputs| assembly.finish(name, outputs)))
}

/// A program in the making.
pub(super) struct Assembly<'a> {
    pub config: &'a RunConfig,
    pub layout: &'a Layout,
    pub b: Builder,
    inputs: Vec<Port>,
}

/// A result and its name; what stays on the device aliases the input of that name.
pub(super) enum Output {
    State(String, Value),
    Cache(String, Value),
    Plain(String, Value),
}

impl Assembly<'_> {
    pub fn input(&mut self, name: &str, ty: TensorType, role: Role) -> Result<Value, BuildError> {
        self.inputs.push(Port::new(name, ty.clone(), role));
        self.b.parameter(ty)
    }

    /// Inputs for all parameters, by name and in order.
    pub fn params(&mut self) -> Result<Vec<Value>, BuildError> {
        let layout = self.layout;
        layout.params.iter().map(|def| self.input(&def.name, def.ty(), Role::State)).collect()
    }

    /// The same values, to be found by layers.
    pub fn weights(&self, values: &[Value]) -> Weights {
        Weights::new(self.layout.params.iter().map(|def| def.name.clone()).zip(values.iter().copied()))
    }

    /// The token inputs for `sequences` rows, with the numbers of their examples where rows hold several.
    pub fn batch(&mut self, sequences: usize) -> Result<Batch, BuildError> {
        let sizes = &self.config.batch;
        let tokens = |length: usize| TensorType::new(DType::S32, [sequences, length]);
        let (inputs, targets) = (tokens(sizes.input_length), tokens(sizes.target_length));
        let inputs = match self.config.model.architecture {
            Architecture::EncoderDecoder => Some(self.input("inputs", inputs, Role::Input)?),
            Architecture::DecoderOnly => None,
        };
        let targets = self.input("targets", targets, Role::Input)?;
        let segments = match sizes.packing {
            true => Some(Segments {
                inputs: inputs.map(|x| self.input_like("input_segments", x)).transpose()?,
                targets: self.input_like("target_segments", targets)?,
            }),
            false => None,
        };
        Ok(Batch { inputs, targets, segments })
    }

    fn input_like(&mut self, name: &str, x: Value) -> Result<Value, BuildError> {
        let ty = self.b.ty(x).clone();
        self.input(name, ty, Role::Input)
    }

    fn finish(self, name: &'static str, outputs: Vec<Output>) -> Program {
        let mut ports = vec![];
        let mut values = vec![];
        for output in outputs {
            let (name, value, role) = match output {
                Output::State(name, value) => (name, value, Role::State),
                Output::Cache(name, value) => (name, value, Role::Cache),
                Output::Plain(name, value) => (name, value, Role::Output),
            };
            let same = |port: &Port| port.role == role && port.name == name;
            let alias = if role.stays() { self.inputs.iter().position(same) } else { None };
            ports.push(Port { alias, ..Port::new(&name, self.b.ty(value).clone(), role) });
            values.push(value);
        }
        Program { name, graph: self.b.finish(&values), inputs: self.inputs, outputs: ports }
    }
}
