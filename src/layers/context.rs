//! What every layer needs to know while it is built.

use super::params::Weights;
use crate::build::{BuildError, Builder, Window};
use crate::config::{ComputeDtype, ModelConfig, Target};
use crate::ir::{DType, Value};
use crate::shard::{Axis, Mesh, Partition};

/// Training has noise and the training capacity; evaluation has neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Train,
    Eval,
}

/// The surroundings of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub config: &'a ModelConfig,
    pub target: Target,
    pub mesh: Mesh,
    pub phase: Phase,
    pub weights: &'a Weights,
    /// `u32[2]`: the random stream of this step and block.
    pub key: Value,
}

/// The element type of a model's activations.
pub fn dtype(config: &ModelConfig) -> DType {
    match config.compute_dtype {
        ComputeDtype::Float32 => DType::F32,
        ComputeDtype::Bfloat16 => DType::Bf16,
    }
}

impl<'a> Context<'a> {
    /// The surroundings on one device, for the default target.
    #[cfg(test)]
    pub fn alone(config: &'a ModelConfig, phase: Phase, weights: &'a Weights, key: Value) -> Self {
        Self { config, target: Target::default(), mesh: Mesh::default(), phase, weights, key }
    }

    /// The element type of activations.
    pub fn dtype(&self) -> DType {
        dtype(self.config)
    }

    /// The element type to which matrix products round activations: what they alone read is kept in it.
    pub fn operand_dtype(&self) -> DType {
        if self.target.rounds_operands() { DType::Bf16 } else { self.dtype() }
    }

    /// A parameter in the element type of activations.
    pub fn weight(&self, b: &mut Builder, name: &str) -> Result<Value, BuildError> {
        self.weights.get_as(b, name, self.dtype())
    }

    /// This replica's block, of this shape, of an activation that is split so: pairs of a dimension and mesh axes.
    pub fn window(
        &self,
        b: &mut Builder,
        shape: &[usize],
        split: &[(usize, &[Axis])],
    ) -> Result<Window, BuildError> {
        let partition = split.iter().fold(Partition::whole(), |all, (dim, axes)| all.split(*dim, axes));
        self.mesh.window(b, shape, &partition)
    }

    /// A random stream of its own for the place in the model that the builder's scope and `site` name.
    pub fn stream(&self, b: &mut Builder, site: &str) -> Result<Value, BuildError> {
        b.scoped(site, |b| b.fold_in_scope(self.key))
    }
}
