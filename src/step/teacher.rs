//! The teacher of a distillation: a frozen network, whose predictions the student learns from.

use super::program::{Assembly, Role};
use crate::build::{BuildError, Builder};
use crate::config::{Distillation, ModelConfig, RunConfig, Target};
use crate::ir::{DType, Direction, TensorType, Value};
use crate::layers::vocabulary::{self, Teacher};
use crate::layers::{Context, ParamDef, Phase, Weights};
use crate::model::{self, Batch};
use crate::shard::Mesh;

/// What stands before the names of the teacher's parameters in the state; they are no part of the student's.
pub const PREFIX: &str = "teacher/";
/// The scope of the teacher's operations.
pub const SCOPE: &str = "teacher";

/// The teacher's network in a program.
pub(super) struct Network {
    config: ModelConfig,
    target: Target,
    defs: Vec<ParamDef>,
    /// The same as the program takes them.
    held: Vec<ParamDef>,
    temperature: f64,
}

impl Network {
    pub fn new(run: &RunConfig) -> Option<Self> {
        let config = ModelConfig::clone(run.distillation.teacher.as_deref()?);
        let target = run.target;
        let defs = model::declare(&config);
        let held = model::held(&config, target, &defs);
        Some(Self { config, target, defs, held, temperature: run.distillation.temperature })
    }

    /// Inputs for its parameters. No output takes them over, so they stay as they are.
    pub fn params(&self, a: &mut Assembly) -> Result<Vec<Value>, BuildError> {
        let input = |def: &ParamDef| a.input(&format!("{PREFIX}{}", def.name), def.ty(), Role::State);
        self.held.iter().map(input).collect()
    }

    /// Its predictions of a batch, made as in evaluation, with this share of the loss.
    pub fn predict(
        &self,
        b: &mut Builder,
        params: &[Value],
        batch: Batch,
        share: Value,
    ) -> Result<Teacher, BuildError> {
        // Each device has the whole teacher, and asks it about its own rows.
        let mesh = Mesh::default();
        let weights = Weights::new(mesh, self.held.iter().zip(params.iter().copied())).below(SCOPE);
        let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
        let (config, target) = (&self.config, self.target);
        let cx = Context { config, target, mesh, phase: Phase::Eval, weights: &weights, key };
        let [hidden, head] = b.scoped(SCOPE, |b| {
            let forward = model::forward(b, &cx, &self.defs, batch)?;
            vocabulary::teacher(b, &cx, forward.hidden)
        })?;
        Ok(Teacher { hidden, head, share, temperature: self.temperature })
    }
}

/// The teacher's share of the loss at a step `s32[]`: `f32[]`.
pub(super) fn share(b: &mut Builder, distillation: &Distillation, step: Value) -> Result<Value, BuildError> {
    let share = b.scalar(DType::F32, distillation.share)?;
    if distillation.start_step == 0 {
        return Ok(share);
    }
    let begun = b.compare_scalar(Direction::Ge, step, distillation.start_step as f64)?;
    b.mask(begun, share, 0.0)
}
