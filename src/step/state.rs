//! The state of training: a flat, ordered list of named tensors.

use crate::config::RunConfig;
use crate::ir::{DType, TensorType};
use crate::layers::ParamDef;
use crate::model;
use crate::optim::{self, ParamSpec, Slot};

/// One tensor of the state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    pub name: String,
    pub ty: TensorType,
}

/// The parts of the state of one run.
#[derive(Debug)]
pub struct Layout {
    /// All parameters, those too that no gradient moves.
    pub params: Vec<ParamDef>,
    /// Those that are trained.
    pub specs: Vec<ParamSpec>,
    pub slots: Vec<Slot>,
}

impl Layout {
    /// The parts for a configuration.
    pub fn new(config: &RunConfig) -> Self {
        let params = model::declare(&config.model);
        let specs: Vec<ParamSpec> = params
            .iter()
            .filter(|def| def.trained)
            .map(|def| ParamSpec {
                name: def.name.clone(),
                ty: def.ty(),
                batch_axes: def.batch_axes,
                factored: def.factored,
                decay: def.decay,
            })
            .collect();
        let slots = optim::slots(&config.optimizer, &specs);
        Self { params, specs, slots }
    }

    /// Parameters, optimizer slots, the step `s32[]`, the random key `u32[2]`.
    pub fn tensors(&self) -> Vec<StateTensor> {
        let tensor = |name: &str, ty: TensorType| StateTensor { name: name.into(), ty };
        let params = self.params.iter().map(|def| tensor(&def.name, def.ty()));
        let slots = self.slots.iter().map(|slot| tensor(&slot.name, slot.ty.clone()));
        let rest =
            [tensor("step", TensorType::scalar(DType::S32)), tensor("key", TensorType::new(DType::U32, [2]))];
        params.chain(slots).chain(rest).collect()
    }
}

/// Whether a tensor of a state is a parameter, by its name; the rest are optimizer slots, step and random key.
pub fn is_parameter(name: &str) -> bool {
    !name.starts_with("optimizer/") && name != "step" && name != "key"
}

/// All tensors of the state, in order.
pub fn layout(config: &RunConfig) -> Vec<StateTensor> {
    Layout::new(config).tensors()
}
