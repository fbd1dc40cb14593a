//! One optimizer step over all parameters.

use super::adafactor::{self, Adafactor};
use super::adamw::{self, AdamW};
use super::schedule::learning_rate;
use super::spec::{Factors, ParamSpec, slots_of};
use crate::build::{BuildError, Builder};
use crate::config::{OptimizerConfig, Schedule};
use crate::ir::{DType, TensorType, Value};
use crate::shard::{Axis, Mesh};
use std::collections::BTreeMap;

type Built = Result<Value, BuildError>;

/// The surroundings of an optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub mesh: Mesh,
    pub optimizer: &'a OptimizerConfig,
    pub schedule: &'a Schedule,
}

/// What an optimizer step gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Of the types of the old ones.
    pub params: Vec<Value>,
    pub slots: Vec<Value>,
    /// `f32[]`.
    pub learning_rate: Value,
    /// Euclidean norm of all gradients before clipping: `f32[]`; not finite if any gradient is not.
    pub grad_norm: Value,
}

/// What all parameters share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalars {
    pub mesh: Mesh,
    pub rate: Value,
    /// `step + 1` as `f32[]`.
    pub count: Value,
    /// Factor of all gradients, where the global norm is clipped.
    pub clip: Option<Value>,
}

/// A gradient in float32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gradient {
    /// After clipping by the global norm.
    pub clipped: Value,
    /// Means of squares over the largest and over the second axis, before clipping.
    pub means: Option<(Value, Value)>,
}

/// New value of a parameter and of its slots.
pub(super) type Updated = Result<(Value, Vec<Value>), BuildError>;

enum Rule {
    Adafactor(Adafactor),
    AdamW(AdamW),
}

/// Adds one step of the optimizer to the program.
///
/// `values` are the blocks of `params` that this device holds; `grads` their shapes and any float type; `slots` are as [`super::slots`] lists them;
/// `step` is an integer scalar, 0 at the first step. Gradients are clipped by their global norm first, if the configuration
/// says so. Errors: [`BuildError::Invalid`] if the inputs do not fit.
pub fn update(
    b: &mut Builder,
    cx: &Context,
    params: &[ParamSpec],
    values: &[Value],
    grads: &[Value],
    slots: &[Value],
    step: Value,
) -> Result<Update, BuildError> {
    let config = cx.optimizer;
    check(b, cx, params, (values, grads, slots))?;
    let learning_rate = learning_rate(b, cx.schedule, step)?;
    let (gradients, grad_norm) = gradients(b, cx, params, grads)?;
    let count = b.convert(step, DType::F32)?;
    let count = b.add_scalar(count, 1.0)?;
    let clip = clip_factor(b, config, grad_norm)?;
    let rule = Rule::new(b, config, Scalars { mesh: cx.mesh, rate: learning_rate, count, clip })?;
    let mut result = Update { params: vec![], slots: vec![], learning_rate, grad_norm };
    let mut slots = slots;
    for ((spec, &value), gradient) in params.iter().zip(values).zip(gradients) {
        let (own, rest) = slots.split_at(slots_of(config, spec).len().min(slots.len()));
        slots = rest;
        let (value, own) = b.scoped(&spec.name, |b| {
            let clipped = clip.map_or(Ok(gradient.clipped), |clip| b.scale(gradient.clipped, clip))?;
            rule.apply(b, spec, value, Gradient { clipped, ..gradient }, own)
        })?;
        result.params.push(value);
        result.slots.extend(own);
    }
    Ok(result)
}

impl Rule {
    fn new(b: &mut Builder, config: &OptimizerConfig, scalars: Scalars) -> Result<Self, BuildError> {
        match *config {
            OptimizerConfig::Adafactor {
                decay_exponent,
                decay_offset,
                epsilon1,
                epsilon2,
                clip_threshold,
                min_dim_size_to_factor,
                multiply_by_parameter_scale,
                beta1,
                weight_decay,
                clip_global_norm: _,
            } => {
                let settings = adafactor::Settings {
                    decay_exponent,
                    decay_offset,
                    epsilon1,
                    epsilon2,
                    clip_threshold,
                    min_dim_size_to_factor,
                    multiply_by_parameter_scale,
                    beta1,
                    weight_decay,
                };
                Adafactor::new(b, settings, scalars).map(Rule::Adafactor)
            }
            OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay, clip_global_norm: _ } => {
                let settings = adamw::Settings { beta1, beta2, epsilon, weight_decay };
                AdamW::new(b, settings, scalars).map(Rule::AdamW)
            }
        }
    }

    fn apply(
        &self,
        b: &mut Builder,
        spec: &ParamSpec,
        param: Value,
        gradient: Gradient,
        slots: &[Value],
    ) -> Updated {
        let master = b.convert(param, DType::F32)?;
        let (new, slots) = match self {
            Rule::Adafactor(rule) => rule.apply(b, spec, master, gradient, slots)?,
            Rule::AdamW(rule) => rule.apply(b, spec, master, gradient, slots)?,
        };
        Ok((b.convert(new, spec.ty.dtype)?, slots))
    }
}

fn factors(config: &OptimizerConfig, spec: &ParamSpec) -> Option<Factors> {
    match config {
        OptimizerConfig::Adafactor { min_dim_size_to_factor, .. } => {
            Factors::of(spec, *min_dim_size_to_factor)
        }
        OptimizerConfig::AdamW { .. } => None,
    }
}

/// The gradients in float32, not clipped yet, and their global norm.
fn gradients(
    b: &mut Builder,
    cx: &Context,
    params: &[ParamSpec],
    grads: &[Value],
) -> Result<(Vec<Gradient>, Value), BuildError> {
    // Sums of squares, by the axes over which their tensors are split.
    let mut sums: BTreeMap<Vec<Axis>, Value> = BTreeMap::new();
    let mut gradients = vec![];
    for (spec, &grad) in params.iter().zip(grads) {
        let value = b.convert(grad, DType::F32)?;
        let squares = b.square(value)?;
        let (means, sum, split) = match factors(cx.optimizer, spec) {
            // The row means that the moments need hold the sum already: no further pass over the gradient.
            Some(f) => {
                let row = mean(b, cx.mesh, spec, squares, &[f.largest])?;
                let col = mean(b, cx.mesh, spec, squares, &[f.second])?;
                let sum = b.sum_all(row)?;
                let sum = b.mul_scalar(sum, spec.ty.shape[f.largest] as f64)?;
                (Some((row, col)), sum, spec.partition.without(f.largest).axes())
            }
            None => (None, b.sum_all(squares)?, spec.partition.axes()),
        };
        let sum = match sums.get(&split) {
            Some(&before) => b.add(before, sum)?,
            None => sum,
        };
        sums.insert(split, sum);
        gradients.push(Gradient { clipped: value, means });
    }
    let mut total = b.scalar(DType::F32, 0.0)?;
    for (axes, sum) in sums {
        let sum = cx.mesh.sum(b, sum, &axes)?;
        total = b.add(total, sum)?;
    }
    let norm = b.sqrt(total)?;
    Ok((gradients, b.name(norm, "grad_norm", &[])))
}

/// The mean over dimensions `dims` of the whole tensor, from the block `x` that this device holds.
pub(super) fn mean(b: &mut Builder, mesh: Mesh, spec: &ParamSpec, x: Value, dims: &[usize]) -> Built {
    let count: usize = dims.iter().map(|&dim| spec.ty.shape[dim]).product();
    let sum = long_sum(b, x, dims)?;
    let sum = mesh.sum(b, sum, &spec.partition.axes_of_all(dims))?;
    b.mul_scalar(sum, 1.0 / count.max(1) as f64)
}

/// Terms that are summed in one loop.
const SHORT_SUM: usize = 32;

/// The sum over `dims`, in two parts where it is long.
///
/// XLA's CPU back end sums more than [`SHORT_SUM`] terms along a dimension by a tree, before which it writes the terms down; a
/// shorter sum is one loop with what makes its terms. The last dimension is left alone: on other targets splitting it
/// would move elements.
fn long_sum(b: &mut Builder, x: Value, dims: &[usize]) -> Built {
    let shape = b.shape(x);
    let splits = |&&dim: &&usize| {
        dim + 1 < shape.len() && shape[dim] > SHORT_SUM && shape[dim].is_multiple_of(SHORT_SUM)
    };
    let Some(&dim) = dims.iter().find(splits) else { return b.sum(x, dims) };
    let parts = [&shape[..dim], &[shape[dim] / SHORT_SUM, SHORT_SUM], &shape[dim + 1..]].concat();
    let x = b.reshape(x, &parts)?;
    let short = b.sum(x, &[dim + 1])?;
    // Or the two sums become one again.
    let short = b.optimization_barrier(&[short])?;
    b.sum(short[0], dims)
}

/// `limit / max(norm, limit)`: 1 below the limit, not a number where the norm is not.
fn clip_factor(b: &mut Builder, config: &OptimizerConfig, norm: Value) -> Result<Option<Value>, BuildError> {
    let limit = match config {
        OptimizerConfig::Adafactor { clip_global_norm, .. }
        | OptimizerConfig::AdamW { clip_global_norm, .. } => *clip_global_norm,
    };
    let Some(limit) = limit else { return Ok(None) };
    let limit = b.scalar(DType::F32, limit)?;
    let norm = b.max(norm, limit)?;
    Ok(Some(b.div(limit, norm)?))
}

/// `old * keep + new * (1 - keep)` for a constant `keep`.
pub(super) fn moving_average(b: &mut Builder, old: Value, new: Value, keep: f64) -> Built {
    let old = b.mul_scalar(old, keep)?;
    let new = b.mul_scalar(new, 1.0 - keep)?;
    b.add(old, new)
}

/// Decoupled weight decay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decay {
    pub rate: Value,
    pub weight: f64,
}

impl Decay {
    /// `param * (1 - rate * weight) - change`, without the decay where the spec asks for none.
    pub fn subtract(self, b: &mut Builder, spec: &ParamSpec, param: Value, change: Value) -> Built {
        if !spec.decay || self.weight == 0.0 {
            return b.sub(param, change);
        }
        let decay = b.mul_scalar(self.rate, -self.weight)?;
        let keep = b.add_scalar(decay, 1.0)?;
        let kept = b.scale(param, keep)?;
        b.sub(kept, change)
    }
}

fn check(
    b: &Builder,
    cx: &Context,
    params: &[ParamSpec],
    (values, grads, slots): (&[Value], &[Value], &[Value]),
) -> Result<(), BuildError> {
    let types: Vec<TensorType> =
        params.iter().map(|spec| spec.partition.block(&cx.mesh, &spec.ty)).collect::<Result<_, _>>()?;
    let slot_types: Vec<TensorType> = params
        .iter()
        .flat_map(|spec| slots_of(cx.optimizer, spec))
        .map(|slot| slot.partition.block(&cx.mesh, &slot.ty))
        .collect::<Result<_, _>>()?;
    same("parameter", &b.types(values), &types)?;
    same("slot", &b.types(slots), &slot_types)?;
    // Any float type will do for a gradient.
    let in_f32 = |ty: &TensorType| if ty.dtype.is_float() { ty.with_dtype(DType::F32) } else { ty.clone() };
    let found: Vec<TensorType> = b.types(grads).iter().map(in_f32).collect();
    same("gradient", &found, &types.iter().map(in_f32).collect::<Vec<_>>())?;
    let misfit = params.iter().find(|spec| spec.batch_axes > spec.ty.rank() || !spec.ty.dtype.is_float());
    match misfit {
        Some(ParamSpec { name, ty, batch_axes, .. }) => Err(BuildError::Invalid(format!(
            "optimizer: `{name}` must be a float with at least {batch_axes} axes, is {ty}"
        ))),
        None => Ok(()),
    }
}

fn same(what: &str, found: &[TensorType], expected: &[TensorType]) -> Result<(), BuildError> {
    if found.len() != expected.len() {
        let (expected, found) = (expected.len(), found.len());
        return Err(BuildError::Invalid(format!("optimizer: expected {expected} {what}s, got {found}")));
    }
    let differs = found.iter().zip(expected).enumerate().find(|(_, (found, expected))| found != expected);
    match differs {
        Some((i, (found, expected))) => {
            Err(BuildError::Invalid(format!("optimizer: {what} {i} must be {expected}, is {found}")))
        }
        None => Ok(()),
    }
}
