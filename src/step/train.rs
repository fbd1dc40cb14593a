//! One training step: loss, gradients, update of the state, metrics.

use super::bias;
use super::loss::{self, LAYER_METRICS, Losses, per_token};
use super::program::{Assembly, Output, Role};
use super::state::{Layout, optimizer};
use super::teacher::{self, Network};
use crate::build::{BuildError, Builder, ScanInputs};
use crate::config::RunConfig;
use crate::grad;
use crate::ir::{DType, TensorType, Value};
use crate::layers::{Context, ParamDef, Phase, Weights};
use crate::model::{self, Batch};
use crate::optim;
use crate::shard::BATCH;

/// Numbers that a step sums over tokens.
const NUM_SUMS: usize = 5;

/// State and batch -> state and metrics. The loss is the mean over target tokens that are not padding.
///
/// With a teacher, whose parameters are further inputs, the loss is partly that of its predictions.
pub(super) fn build(a: &mut Assembly, teacher: Option<Network>) -> Result<Vec<Output>, BuildError> {
    let params = a.params()?;
    let layout = a.layout;
    let slots = a.slots(&layout.slots, Role::State)?;
    let mean_squares = a.slots(&layout.mean_squares, Role::Derived)?;
    let step = a.input("step", TensorType::scalar(DType::S32), Role::State)?;
    let key = a.input("key", TensorType::new(DType::U32, [2]), Role::State)?;
    let teacher_params = teacher.as_ref().map_or(Ok(vec![]), |teacher| teacher.params(a))?;
    let batch = a.batch(a.config.batch.sequences)?;
    let config = a.config;
    let b = &mut a.b;

    let step_bits = b.convert(step, DType::U32)?;
    let step_key = b.fold_in_value(key, step_bits)?;
    let weights = model::target_weights(b, &config.model, batch)?;
    let tokens = b.sum_all(weights)?;
    let tokens = config.mesh.sum(b, tokens, BATCH)?;
    let share = teacher::share(b, &config.distillation, step)?;
    let lesson = teacher.as_ref().map(|network| Lesson { network, params: &teacher_params, share });
    let inputs = Micro { config, layout, params: &params, key: step_key, tokens, lesson };
    let sums = match config.batch.accumulation {
        0 | 1 => inputs.gradients(b, batch)?,
        n => inputs.accumulated(b, batch, n)?,
    };
    let (grads, metrics) = sums.split_at(layout.specs.len());
    let weights = trained(&layout.held, &params);
    let update = b.scoped("optimizer", |b| {
        let state = optim::State { params: &weights, slots: &slots, mean_squares: &mean_squares };
        optim::update(b, &optimizer(config), &layout.specs, state, grads, step)
    })?;

    let mut outputs = vec![];
    let mut updated = update.params.iter().copied();
    for (def, &old) in layout.held.iter().zip(&params) {
        let new = match def.trained {
            true => updated.next().unwrap_or(old),
            false => bias::updated(b, config, def, old, metrics)?,
        };
        outputs.push(Output::State(def.name.clone(), new));
    }
    for (slot, value) in layout.slots.iter().zip(&update.slots) {
        outputs.push(Output::State(slot.name.clone(), *value));
    }
    for (slot, value) in layout.mean_squares.iter().zip(&update.mean_squares) {
        outputs.push(Output::Derived(slot.name.clone(), *value));
    }
    let one = b.scalar(DType::S32, 1.0)?;
    outputs.push(Output::State("step".into(), b.add(step, one)?));
    outputs.push(Output::State("key".into(), key));
    outputs.extend(report(b, config, metrics, tokens, teacher.is_some())?);
    outputs.push(Output::Plain("learning_rate".into(), update.learning_rate));
    outputs.push(Output::Plain("grad_norm".into(), update.grad_norm));
    Ok(outputs)
}

/// Of values that belong to `defs`, those that are trained.
pub(super) fn trained(defs: &[ParamDef], values: &[Value]) -> Vec<Value> {
    defs.iter().zip(values).filter(|(def, _)| def.trained).map(|(_, &value)| value).collect()
}

/// What every microbatch needs.
struct Micro<'a> {
    config: &'a RunConfig,
    layout: &'a Layout,
    /// As they are held.
    params: &'a [Value],
    key: Value,
    /// Of the whole batch.
    tokens: Value,
    lesson: Option<Lesson<'a>>,
}

/// The teacher in a step.
#[derive(Clone, Copy)]
struct Lesson<'a> {
    network: &'a Network,
    params: &'a [Value],
    share: Value,
}

impl Micro<'_> {
    /// Gradients of all trained parameters, then the metrics that are summed over microbatches.
    fn gradients(&self, b: &mut Builder, batch: Batch) -> Result<Vec<Value>, BuildError> {
        let RunConfig { target, mesh, .. } = *self.config;
        let weights = Weights::new(mesh, self.layout.held.iter().zip(self.params.iter().copied()));
        let config = &self.config.model;
        let cx = Context { config, target, mesh, phase: Phase::Train, weights: &weights, key: self.key };
        let teacher = match self.lesson {
            Some(Lesson { network, params, share }) => Some(network.predict(b, params, batch, share)?),
            None => None,
        };
        let (losses, _) = loss::losses(b, self.config, &cx, &self.layout.params, batch, teacher)?;
        let share = 1.0 / self.config.batch.accumulation.max(1) as f64;
        let mut total = per_token(b, losses.objective, self.tokens)?;
        let layers: Vec<Value> =
            losses.layers.iter().map(|&x| b.mul_scalar(x, share)).collect::<Result<_, _>>()?;
        if let Some(auxiliary) = losses.auxiliary {
            let auxiliary = b.mul_scalar(auxiliary, share)?;
            total = b.add(total, auxiliary)?;
        }
        // Derivatives are those of the sum over all devices, each of which has the whole loss.
        let share = b.mul_scalar(total, 1.0 / mesh.num_replicas() as f64)?;
        let grads = grad::gradients(b, share, &trained(&self.layout.held, self.params))?;
        let Losses { cross_entropy, z_loss, correct, soft_cross_entropy, .. } = losses;
        let sums = vec![total, cross_entropy, z_loss, correct, soft_cross_entropy];
        Ok([grads, sums, layers].concat())
    }

    /// The same, summed over `n` microbatches of consecutive rows.
    fn accumulated(&self, b: &mut Builder, batch: Batch, n: usize) -> Result<Vec<Value>, BuildError> {
        let split = |b: &mut Builder, x: Value| {
            let shape = b.shape(x);
            b.reshape(x, &[n, shape[0] / n, shape[1]])
        };
        let parts = batch.values().into_iter().map(|x| split(b, x));
        let mut xs: Vec<Value> = parts.collect::<Result<_, _>>()?;
        xs.push(b.iota(TensorType::new(DType::U32, [n]), 0)?);
        let lesson = self.lesson.iter().flat_map(|lesson| [&[lesson.share], lesson.params].concat());
        let consts = [self.params, &[self.key, self.tokens], &lesson.collect::<Vec<_>>()].concat();
        let types = self.sum_types(b);
        let carry: Vec<Value> = types.iter().map(|ty| b.zeros(ty)).collect::<Result<_, _>>()?;
        let inputs = ScanInputs { consts: &consts, carry: &carry, xs: &xs, ..Default::default() };
        let (sums, _) = b.scan(inputs, |b, consts, carry, xs| {
            let (params, rest) = consts.split_at(self.params.len());
            let key = b.fold_in_value(rest[0], xs[xs.len() - 1])?;
            let lesson = self.lesson.map(|own| Lesson { share: rest[2], params: &rest[3..], ..own });
            let micro = Micro { params, key, tokens: rest[1], lesson, ..*self };
            let terms = micro.gradients(b, batch.with(xs))?;
            let sums = carry.iter().zip(terms).map(|(&c, t)| b.add(c, t)).collect::<Result<_, _>>()?;
            Ok((sums, vec![]))
        })?;
        Ok(sums)
    }

    /// The types of what [`Micro::gradients`] returns.
    fn sum_types(&self, b: &Builder) -> Vec<TensorType> {
        let model = &self.config.model;
        let layers = model.sparse_layers();
        let scalar = TensorType::scalar(DType::F32);
        let mut types = b.types(&trained(&self.layout.held, self.params));
        types.extend(vec![scalar; NUM_SUMS]);
        if layers > 0 {
            types.extend(vec![TensorType::new(DType::F32, [layers]); LAYER_METRICS.len() - 1]);
            types.push(TensorType::new(DType::F32, [layers, model.moe.num_experts]));
        }
        types
    }
}

/// Names the summed metrics; those over tokens become means.
fn report(
    b: &mut Builder,
    config: &RunConfig,
    sums: &[Value],
    tokens: Value,
    taught: bool,
) -> Result<Vec<Output>, BuildError> {
    let [total, cross_entropy, z_loss, correct, soft, layers @ ..] = sums else {
        return Err(BuildError::Invalid("internal: a step reports at least five sums".into()));
    };
    let mut outputs = vec![Output::Plain("loss".into(), *total)];
    for (name, sum) in [("cross_entropy", cross_entropy), ("z_loss", z_loss), ("accuracy", correct)] {
        outputs.push(Output::Plain(name.into(), per_token(b, *sum, tokens)?));
    }
    if taught {
        outputs.push(Output::Plain("soft_cross_entropy".into(), per_token(b, *soft, tokens)?));
    }
    outputs.push(Output::Plain("tokens".into(), tokens));
    if config.model.moe.num_experts > 0 {
        let named = LAYER_METRICS.iter().zip(layers);
        outputs.extend(named.map(|(name, &value)| Output::Plain(format!("layers/{name}"), value)));
    }
    Ok(outputs)
}
