//! The state of training: a flat, ordered list of named tensors.

use crate::config::RunConfig;
use crate::ir::{DType, TensorType};
use crate::layers::{ParamDef, vocabulary};
use crate::model;
use crate::optim::{self, ParamSpec, Slot};
use crate::shard::{Axis, Mesh, Partition};

/// One tensor of the state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    pub name: String,
    /// Of the whole tensor, on however many devices.
    pub ty: TensorType,
    /// What of it each device holds.
    pub partition: Partition,
}

impl StateTensor {
    /// Bytes of what one device holds.
    pub fn bytes_per_device(&self, mesh: &Mesh) -> u64 {
        (self.ty.size_bytes() / mesh.parts(&self.partition.axes())) as u64
    }
}

/// The parts of the state of one run.
#[derive(Debug)]
pub struct Layout {
    /// All parameters, those too that no gradient moves.
    pub params: Vec<ParamDef>,
    /// The same as programs take them ([`model::held`]).
    pub held: Vec<ParamDef>,
    /// Of these, those that are trained.
    pub specs: Vec<ParamSpec>,
    /// What the optimizer keeps for them.
    pub slots: Vec<Slot>,
    /// What follows from the parameters and is kept beside them.
    pub mean_squares: Vec<Slot>,
}

/// The surroundings of the optimizer.
pub fn optimizer(config: &RunConfig) -> optim::Context<'_> {
    optim::Context {
        mesh: config.mesh,
        optimizer: &config.optimizer,
        schedule: &config.schedule,
        target: config.target,
        // Microbatches add their gradients up in another loop.
        gradients_by_rows: config.model.scans_blocks(config.target) && config.batch.accumulation <= 1,
    }
}

/// All parameters of a run, as its mesh divides them.
fn params(config: &RunConfig) -> Vec<ParamDef> {
    let mut params = model::declare(&config.model);
    if config.mesh.shard_vocabulary {
        for def in params.iter_mut().filter(|def| vocabulary::has_words(&def.name)) {
            def.split(-2, Axis::Model);
        }
    }
    if config.mesh.shard_state {
        let trained = params.iter_mut().filter(|def| def.trained);
        trained.for_each(|def| def.split_over_data(&config.mesh));
    }
    params
}

/// What the optimizer must know of those parameters that are trained.
fn specs(params: &[ParamDef]) -> Vec<ParamSpec> {
    let spec = |def: &ParamDef| ParamSpec {
        name: def.name.clone(),
        ty: def.ty(),
        partition: def.partition.clone(),
        batch_axes: def.batch_axes,
        factored: def.factored,
        decay: def.decay,
    };
    params.iter().filter(|def| def.trained).map(spec).collect()
}

/// Parameters, optimizer slots, the step `s32[]`, the random key `u32[2]`.
fn tensors(params: &[ParamDef], slots: &[Slot]) -> Vec<StateTensor> {
    let tensor = |name: &str, ty: TensorType, partition: &Partition| StateTensor {
        name: name.into(),
        ty,
        partition: partition.clone(),
    };
    let params = params.iter().map(|def| tensor(&def.name, def.ty(), &def.partition));
    let slots = slots.iter().map(|slot| tensor(&slot.name, slot.ty.clone(), &slot.partition));
    let whole = |name: &str, ty: TensorType| tensor(name, ty, &Partition::whole());
    let rest =
        [whole("step", TensorType::scalar(DType::S32)), whole("key", TensorType::new(DType::U32, [2]))];
    params.chain(slots).chain(rest).collect()
}

impl Layout {
    /// The parts for a configuration.
    pub fn new(config: &RunConfig) -> Self {
        let params = params(config);
        let held = model::held(&config.model, config.target, &params);
        let specs = specs(&held);
        let slots = optim::slots(&config.optimizer, &specs);
        let mean_squares = optim::mean_squares(&optimizer(config), &specs);
        Self { params, held, specs, slots, mean_squares }
    }

    /// The partition of what is held of a parameter or beside it.
    pub fn partition(&self, name: &str) -> Option<Partition> {
        let params = self.held.iter().map(|def| (&def.name, &def.partition));
        let slots = self.slots.iter().chain(&self.mean_squares);
        let mut all = params.chain(slots.map(|slot| (&slot.name, &slot.partition)));
        all.find(|(found, _)| *found == name).map(|(_, partition)| partition.clone())
    }
}

/// Whether a tensor of a state is a parameter, by its name; the rest are optimizer slots, step and random key.
pub fn is_parameter(name: &str) -> bool {
    !name.starts_with("optimizer/") && name != "step" && name != "key"
}

/// All tensors of the state, in order, each stack as one.
pub fn layout(config: &RunConfig) -> Vec<StateTensor> {
    let params = params(config);
    tensors(&params, &optim::slots(&config.optimizer, &specs(&params)))
}
