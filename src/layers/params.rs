//! Parameters: how layers declare them, and how they find their values.

use crate::build::{BuildError, Builder};
use crate::ir::{DType, TensorType, Value};
use std::collections::BTreeMap;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with this deviation, cut at two deviations.
    TruncatedNormal(f64),
    Constant(f64),
}

/// One parameter tensor: master weights are always float32.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamDef {
    /// The path, such as `encoder/block_1/moe/experts/wi`.
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
    /// Leading axes that stack independent matrices (repeats of a block, experts).
    pub batch_axes: usize,
    /// Whether Adafactor may keep factored second moments.
    pub factored: bool,
    /// Whether weight decay applies (not for norms).
    pub decay: bool,
    /// Whether gradients and the optimizer move it; other state has rules of its own.
    pub trained: bool,
}

impl ParamDef {
    /// `f32[shape]`.
    pub fn ty(&self) -> TensorType {
        TensorType::new(DType::F32, self.shape.clone())
    }
}

/// Collects definitions below a path.
#[derive(Debug, Default)]
pub struct Params {
    path: Vec<String>,
    repeats: Option<usize>,
    defs: Vec<ParamDef>,
}

impl Params {
    /// All definitions, in order.
    pub fn into_defs(self) -> Vec<ParamDef> {
        self.defs
    }

    /// Definitions below `name`.
    pub fn scoped(&mut self, name: &str, declare: impl FnOnce(&mut Self)) {
        self.path.push(name.into());
        declare(self);
        self.path.pop();
    }

    /// Definitions with a leading axis of `repeats` stacked blocks.
    pub fn repeated(&mut self, repeats: usize, declare: impl FnOnce(&mut Self)) {
        self.repeats = Some(repeats);
        declare(self);
        self.repeats = None;
    }

    /// A matrix `[fan_in, fan_out]` with deviation `sqrt(scale / fan_in)`.
    pub fn matrix(&mut self, name: &str, shape: [usize; 2], scale: f64) -> &mut ParamDef {
        self.add(name, &shape, Init::TruncatedNormal((scale / shape[0].max(1) as f64).sqrt()))
    }

    /// One matrix per expert: `[experts, fan_in, fan_out]`.
    pub fn expert_matrices(&mut self, name: &str, shape: [usize; 3], scale: f64) {
        let init = Init::TruncatedNormal((scale / shape[1].max(1) as f64).sqrt());
        self.add(name, &shape, init).batch_axes += 1;
    }

    /// The gain of a norm: ones.
    pub fn gain(&mut self, name: &str, size: usize) {
        self.add(name, &[size], Init::Constant(1.0)).decay = false;
    }

    pub fn add(&mut self, name: &str, shape: &[usize], init: Init) -> &mut ParamDef {
        let mut path = self.path.clone();
        path.push(name.into());
        let repeats: Vec<usize> = self.repeats.into_iter().collect();
        self.defs.push(ParamDef {
            name: path.join("/"),
            shape: [&repeats, shape].concat(),
            init,
            batch_axes: repeats.len(),
            factored: true,
            decay: true,
            trained: true,
        });
        let last = self.defs.len() - 1;
        &mut self.defs[last]
    }
}

/// The values of parameters in one graph, found by the scope of the builder.
#[derive(Clone, Debug, Default)]
pub struct Weights(BTreeMap<String, Value>);

impl Weights {
    /// Values by full name.
    pub fn new(values: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// The parameter `name` of the layer whose scope the builder is in.
    pub fn get(&self, b: &Builder, name: &str) -> Result<Value, BuildError> {
        let scope = b.scope();
        self.path(&if scope.is_empty() { name.into() } else { format!("{scope}/{name}") })
    }

    /// The parameter with this full name.
    pub fn path(&self, path: &str) -> Result<Value, BuildError> {
        let missing = || BuildError::Invalid(format!("internal: no parameter is declared at `{path}`"));
        self.0.get(path).copied().ok_or_else(missing)
    }
}
