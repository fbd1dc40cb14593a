//! Parameters: how layers declare them, and how they find their values.

use crate::build::{BuildError, Builder};
use crate::ir::{DType, TensorType, Value};
use crate::shard::{Axis, Mesh, Partition, PartitionError};
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
    /// Of the whole tensor, on however many devices.
    pub shape: Vec<usize>,
    /// What of it each device holds.
    pub partition: Partition,
    pub init: Init,
    /// Leading axes that stack independent matrices (repeats of a block, experts).
    pub batch_axes: usize,
    /// Whether Adafactor may keep factored second moments.
    pub factored: bool,
    /// Whether weight decay applies (not for norms).
    pub decay: bool,
    /// Whether gradients and the optimizer move it; other state has rules of its own.
    pub trained: bool,
    /// Whether the first axis stacks repeats of a block.
    pub stacked: bool,
}

/// The name of one row of a stack: `encoder/block_1/mlp/wi[2]`.
pub fn row_name(stack: &str, row: usize) -> String {
    format!("{stack}[{row}]")
}

/// The stack and the row that [`row_name`] names.
pub fn row_of(name: &str) -> Option<(&str, usize)> {
    let (stack, row) = name.strip_suffix(']')?.rsplit_once('[')?;
    Some((stack, row.parse().ok()?))
}

impl ParamDef {
    /// `f32[shape]`.
    pub fn ty(&self) -> TensorType {
        TensorType::new(DType::F32, self.shape.clone())
    }

    /// The type of what one device holds.
    pub fn block(&self, mesh: &Mesh) -> Result<TensorType, PartitionError> {
        self.partition.block(mesh, &self.ty())
    }

    /// The parameters that a stack consists of; one that is no stack is its only row.
    pub fn rows(&self) -> Vec<ParamDef> {
        if !self.stacked {
            return vec![self.clone()];
        }
        let row = |row: usize| ParamDef {
            name: row_name(&self.name, row),
            shape: self.shape[1..].to_vec(),
            partition: self.partition.without(0),
            batch_axes: self.batch_axes - 1,
            stacked: false,
            ..self.clone()
        };
        (0..self.shape[0]).map(row).collect()
    }

    /// Splits a dimension, counted from the last (-1), over an axis of the mesh.
    pub fn split(&mut self, dim: isize, axis: Axis) -> &mut Self {
        let rank = self.shape.len();
        self.partition = std::mem::take(&mut self.partition).split(rank.wrapping_add_signed(dim), &[axis]);
        self
    }

    /// Splits over `data` the largest dimension of one matrix that divides and is whole so far, if there is one.
    pub fn split_over_data(&mut self, mesh: &Mesh) {
        let free = |&dim: &usize| {
            self.partition.axes_of(dim).is_empty() && self.shape[dim].is_multiple_of(mesh.data)
        };
        let dims = (self.batch_axes..self.shape.len()).rev();
        if let Some(dim) = dims.filter(free).max_by_key(|&dim| self.shape[dim]) {
            self.partition = std::mem::take(&mut self.partition).split(dim, &[Axis::Data]);
        }
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

    /// One matrix per expert: `[experts, fan_in, fan_out]`, split over `expert`.
    pub fn expert_matrices(&mut self, name: &str, shape: [usize; 3], scale: f64) -> &mut ParamDef {
        let init = Init::TruncatedNormal((scale / shape[1].max(1) as f64).sqrt());
        let def = self.add(name, &shape, init).split(-3, Axis::Expert);
        def.batch_axes += 1;
        def
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
            partition: Partition::whole(),
            init,
            batch_axes: repeats.len(),
            factored: true,
            decay: true,
            trained: true,
            stacked: self.repeats.is_some(),
        });
        let last = self.defs.len() - 1;
        &mut self.defs[last]
    }
}

/// The values of parameters in one graph, found by the scope of the builder.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    mesh: Mesh,
    /// The scope below which the network is built; it is no part of the parameters' names.
    root: Option<&'static str>,
    values: BTreeMap<String, Weight>,
}

/// What this device holds of a parameter.
#[derive(Clone, Copy, Debug)]
struct Weight {
    value: Value,
    /// The dimension that is split over `data`, counted from the last: the layer needs it whole.
    gather: Option<usize>,
}

impl Weights {
    /// Values of the blocks that this device holds, with their definitions. Those of one block of a stack have lost the leading
    /// axis.
    pub fn new<'a>(mesh: Mesh, values: impl IntoIterator<Item = (&'a ParamDef, Value)>) -> Self {
        let entry = |(def, value): (&ParamDef, Value)| {
            let rank = def.shape.len();
            let gather = (0..rank).find(|&dim| def.partition.axes_of(dim).contains(&Axis::Data));
            (def.name.clone(), Weight { value, gather: gather.map(|dim| rank - dim) })
        };
        Self { mesh, root: None, values: values.into_iter().map(entry).collect() }
    }

    /// The same for a network that is built below this scope.
    pub fn below(self, root: &'static str) -> Self {
        Self { root: Some(root), ..self }
    }

    /// Other values of the same network.
    pub fn others<'a>(&self, values: impl IntoIterator<Item = (&'a ParamDef, Value)>) -> Self {
        Self { root: self.root, ..Self::new(self.mesh, values) }
    }

    /// The parameter `name` of the layer whose scope the builder is in.
    pub fn get(&self, b: &mut Builder, name: &str) -> Result<Value, BuildError> {
        self.get_as(b, name, DType::F32)
    }

    /// The same, in this element type.
    pub fn get_as(&self, b: &mut Builder, name: &str, dtype: DType) -> Result<Value, BuildError> {
        let scope = b.scope();
        let inner = self.root.and_then(|root| scope.strip_prefix(root));
        let scope = inner.map_or(&*scope, |inner| inner.trim_start_matches('/'));
        self.path(b, &if scope.is_empty() { name.into() } else { format!("{scope}/{name}") }, dtype)
    }

    /// The parameter with this full name, in this element type.
    pub fn path(&self, b: &mut Builder, path: &str, dtype: DType) -> Result<Value, BuildError> {
        let Weight { value, gather } = self.find(path)?;
        // Converted first, so that fewer bytes travel.
        let value = b.convert(value, dtype)?;
        match gather {
            Some(from_last) => {
                let dim = b.ty(value).rank().saturating_sub(from_last);
                self.mesh.gather(b, value, dim, &[Axis::Data])
            }
            None => Ok(value),
        }
    }

    /// What this device holds of the parameter with this full name.
    pub fn block(&self, path: &str) -> Result<Value, BuildError> {
        Ok(self.find(path)?.value)
    }

    fn find(&self, path: &str) -> Result<Weight, BuildError> {
        let missing = || BuildError::Invalid(format!("internal: no parameter is declared at `{path}`"));
        self.values.get(path).copied().ok_or_else(missing)
    }
}
