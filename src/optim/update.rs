//! One optimizer step over all parameters.

use super::adafactor::{self, Adafactor};
use super::adamw::{self, AdamW};
use super::mean_squares;
use super::rows;
use super::schedule::learning_rate;
use super::spec::{Factors, ParamSpec, Slot, slots, slots_of};
use crate::build::{BuildError, Builder};
use crate::config::{OptimizerConfig, Schedule, Target};
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
    /// Whether one loop makes the gradients of all elements of a stack, which [`crate::ir::optimize`] lets take up the update.
    pub gradients_by_rows: bool,
    pub target: Target,
}

impl Context<'_> {
    pub(super) fn means(&self) -> Means {
        Means { mesh: self.mesh, target: self.target }
    }

    /// Whether a loop updates this stack row by row.
    fn updates_by_rows(&self, spec: &ParamSpec) -> bool {
        self.gradients_by_rows && self.clip_global_norm().is_none() && rows::has_rows(spec)
    }

    /// Whether the mean square of this parameter is kept for its next update. Not of stacks that a loop updates in place: the sum
    /// would be another reader of the new row, for which XLA copies the stack.
    pub(super) fn keeps_mean_square(&self, spec: &ParamSpec) -> bool {
        let wanted =
            matches!(self.optimizer, OptimizerConfig::Adafactor { multiply_by_parameter_scale: true, .. });
        wanted && self.target.keeps_mean_squares() && !self.updates_by_rows(spec)
    }

    /// The largest norm of all gradients together.
    fn clip_global_norm(&self) -> Option<f64> {
        match *self.optimizer {
            OptimizerConfig::Adafactor { clip_global_norm, .. }
            | OptimizerConfig::AdamW { clip_global_norm, .. } => clip_global_norm,
        }
    }
}

/// What an optimizer step changes: blocks that this device holds.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    pub params: &'a [Value],
    /// As [`super::slots`] lists them.
    pub slots: &'a [Value],
    /// As [`super::mean_squares`] lists them.
    pub mean_squares: &'a [Value],
}

/// What an optimizer step gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Of the types of the old ones.
    pub params: Vec<Value>,
    pub slots: Vec<Value>,
    pub mean_squares: Vec<Value>,
    /// `f32[]`.
    pub learning_rate: Value,
    /// Euclidean norm of all gradients before clipping: `f32[]`; not finite if any gradient is not.
    pub grad_norm: Value,
}

/// What all parameters share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalars {
    pub means: Means,
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

/// New value of a parameter, in float32, and of its slots.
pub(super) type Updated = Result<(Value, Vec<Value>), BuildError>;

/// A gradient, and the sum of the squares of what this device holds of it: `f32[]`, or one for each row of a stack.
pub(super) struct Measured {
    pub gradient: Gradient,
    pub squares: Value,
}

pub(super) enum Rule {
    Adafactor(Adafactor),
    AdamW(AdamW),
}

/// Adds one step of the optimizer to the program.
///
/// `grads` have the shapes of the blocks of `params` and any float type: of each parameter this device's part,
/// which is summed over the devices that hold copies; `step` is an integer scalar, 0 at the first step.
/// Gradients are clipped by their global norm first, if the configuration says so. Errors: [`BuildError::Invalid`] if the
/// inputs do not fit.
pub fn update(
    b: &mut Builder,
    cx: &Context,
    params: &[ParamSpec],
    state: State,
    grads: &[Value],
    step: Value,
) -> Result<Update, BuildError> {
    check(b, cx, params, state, grads)?;
    let learning_rate = learning_rate(b, cx.schedule, step)?;
    let count = b.convert(step, DType::F32)?;
    let count = b.add_scalar(count, 1.0)?;
    let scalars = Scalars { means: cx.means(), rate: learning_rate, count, clip: None };
    let (mut left, mut kept) = (state.slots, state.mean_squares.iter());
    let tensors: Vec<Tensor> = params
        .iter()
        .zip(state.params.iter().zip(grads))
        .map(|(spec, (&value, &grad))| {
            let (slots, rest) = left.split_at(slots_of(cx.optimizer, spec).len());
            left = rest;
            let mean_square = if cx.keeps_mean_square(spec) { kept.next().copied() } else { None };
            Tensor { spec, value, grad, slots, mean_square }
        })
        .collect();
    let (updated, grad_norm) = match cx.clip_global_norm() {
        Some(limit) => clipped(b, cx, &tensors, scalars, limit)?,
        None => unclipped(b, cx, &tensors, scalars)?,
    };
    let params = updated.iter().map(|new| new.value).collect();
    let mean_squares = updated.iter().filter_map(|new| new.mean_square).collect();
    let slots = updated.into_iter().flat_map(|new| new.slots).collect();
    Ok(Update { params, slots, mean_squares, learning_rate, grad_norm })
}

/// A parameter and what belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub spec: &'a ParamSpec,
    pub value: Value,
    pub grad: Value,
    pub slots: &'a [Value],
    /// Where [`Context::keeps_mean_square`] says so.
    pub mean_square: Option<Value>,
}

/// What a parameter and what belongs to it become.
pub(super) struct New {
    pub value: Value,
    pub slots: Vec<Value>,
    pub mean_square: Option<Value>,
}

/// New parameters, and the norm of all gradients.
type All = Result<(Vec<New>, Value), BuildError>;

/// All gradients are there before any parameter changes: their norm scales each.
fn clipped(b: &mut Builder, cx: &Context, tensors: &[Tensor], scalars: Scalars, limit: f64) -> All {
    let measured =
        |tensor: &Tensor| b.scoped(&tensor.spec.name, |b| measure(b, cx, tensor.spec, tensor.grad));
    let measured: Vec<Measured> = tensors.iter().map(measured).collect::<Result<_, _>>()?;
    let grad_norm = norm(b, cx, tensors, measured.iter().map(|m| m.squares))?;
    let clip = clip_factor(b, limit, grad_norm)?;
    let rule = Rule::new(b, cx.optimizer, Scalars { clip: Some(clip), ..scalars })?;
    let apply = |(&tensor, Measured { gradient, .. }): (&Tensor, Measured)| {
        b.scoped(&tensor.spec.name, |b| {
            let clipped = b.scale(gradient.clipped, clip)?;
            rule.apply(b, cx, tensor, Gradient { clipped, ..gradient })
        })
    };
    let updated = tensors.iter().zip(measured).map(apply).collect::<Result<_, _>>()?;
    Ok((updated, grad_norm))
}

/// Each parameter for itself.
fn unclipped(b: &mut Builder, cx: &Context, tensors: &[Tensor], scalars: Scalars) -> All {
    let rule = Rule::new(b, cx.optimizer, scalars)?;
    let (mut updated, mut squares) = (vec![], vec![]);
    for &tensor in tensors {
        let (new, sum) = b.scoped(&tensor.spec.name, |b| match cx.updates_by_rows(tensor.spec) {
            true => rows::apply(b, cx, scalars, tensor),
            false => apply(b, cx, &rule, tensor),
        })?;
        updated.push(new);
        squares.push(sum);
    }
    let grad_norm = norm(b, cx, tensors, squares)?;
    Ok((updated, grad_norm))
}

/// The update of one parameter whose gradient is not clipped, and the squares of that as in [`Measured`].
pub(super) fn apply(
    b: &mut Builder,
    cx: &Context,
    rule: &Rule,
    tensor: Tensor,
) -> Result<(New, Value), BuildError> {
    let Measured { gradient, squares } = measure(b, cx, tensor.spec, tensor.grad)?;
    Ok((rule.apply(b, cx, tensor, gradient)?, squares))
}

impl Rule {
    pub fn new(b: &mut Builder, config: &OptimizerConfig, scalars: Scalars) -> Result<Self, BuildError> {
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
        cx: &Context,
        tensor: Tensor,
        gradient: Gradient,
    ) -> Result<New, BuildError> {
        let spec = tensor.spec;
        let master = Tensor { value: b.convert(tensor.value, DType::F32)?, ..tensor };
        let (new, slots) = match self {
            Rule::Adafactor(rule) => rule.apply(b, master, gradient)?,
            Rule::AdamW(rule) => rule.apply(b, master, gradient)?,
        };
        let value = b.convert(new, spec.ty.dtype)?;
        let mean_square = tensor.mean_square.map(|_| mean_squares::take(b, cx, spec, value)).transpose()?;
        Ok(New { value, slots, mean_square })
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

/// The gradient in float32, summed over the devices that hold copies of the parameter: each has a part of the cotangent.
fn measure(b: &mut Builder, cx: &Context, spec: &ParamSpec, grad: Value) -> Result<Measured, BuildError> {
    let grad = cx.mesh.sum(b, grad, &spec.partition.copied())?;
    let clipped = b.convert(grad, DType::F32)?;
    let squares = b.square(clipped)?;
    let Some(f) = factors(cx.optimizer, spec) else {
        return Ok(Measured { gradient: Gradient { clipped, means: None }, squares: b.sum_all(squares)? });
    };
    // The row means that the moments need hold the sum already: no further pass over the gradient.
    let row = cx.means().mean(b, spec, squares, &[f.largest])?;
    let col = cx.means().mean(b, spec, squares, &[f.second])?;
    let sum = b.sum_all(row)?;
    let squares = b.mul_scalar(sum, spec.ty.shape[f.largest] as f64)?;
    Ok(Measured { gradient: Gradient { clipped, means: Some((row, col)) }, squares })
}

/// The norm of all gradients, from the squares of each.
fn norm(
    b: &mut Builder,
    cx: &Context,
    tensors: &[Tensor],
    squares: impl IntoIterator<Item = Value>,
) -> Built {
    // By the axes over which their tensors are split.
    let mut sums: BTreeMap<Vec<Axis>, Value> = BTreeMap::new();
    for (&Tensor { spec, .. }, squares) in tensors.iter().zip(squares) {
        let sum = b.sum_all(squares)?;
        let split = match factors(cx.optimizer, spec) {
            Some(f) => spec.partition.without(f.largest).axes(),
            None => spec.partition.axes(),
        };
        let sum = match sums.get(&split) {
            Some(&before) => b.add(before, sum)?,
            None => sum,
        };
        sums.insert(split, sum);
    }
    let mut total = b.scalar(DType::F32, 0.0)?;
    for (axes, sum) in sums {
        let sum = cx.mesh.sum(b, sum, &axes)?;
        total = b.add(total, sum)?;
    }
    let norm = b.sqrt(total)?;
    Ok(b.name(norm, "grad_norm", &[]))
}

/// How means are taken of tensors that lie on the devices of a mesh.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    pub mesh: Mesh,
    pub target: Target,
}

impl Means {
    /// The mean over dimensions `dims` of the whole tensor, from the block `x` that this device holds.
    pub fn mean(self, b: &mut Builder, spec: &ParamSpec, x: Value, dims: &[usize]) -> Built {
        let sum = if self.target.splits_long_sums() { long_sum(b, x, dims)? } else { b.sum(x, dims)? };
        self.of_sum(b, spec, sum, dims)
    }

    /// The same of several tensors like the parameter.
    pub fn means(
        self,
        b: &mut Builder,
        spec: &ParamSpec,
        xs: &[Value],
        dims: &[usize],
    ) -> Result<Vec<Value>, BuildError> {
        match self.target.sums_together() {
            true => b.sums(xs, dims)?.into_iter().map(|sum| self.of_sum(b, spec, sum, dims)).collect(),
            false => xs.iter().map(|&x| self.mean(b, spec, x, dims)).collect(),
        }
    }

    /// The mean over dimensions `dims` of the whole tensor, from the sum over the block that this device holds.
    pub fn of_sum(self, b: &mut Builder, spec: &ParamSpec, sum: Value, dims: &[usize]) -> Built {
        let count: usize = dims.iter().map(|&dim| spec.ty.shape[dim]).product();
        let sum = self.mesh.sum(b, sum, &spec.partition.axes_of_all(dims))?;
        b.mul_scalar(sum, 1.0 / count.max(1) as f64)
    }
}

/// Terms that XLA's CPU back end sums in one loop.
const SHORT_SUM: usize = 32;

/// The sum over `dims`, in two parts where it is long. The last dimension is left alone: splitting it would move elements.
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
fn clip_factor(b: &mut Builder, limit: f64, norm: Value) -> Built {
    let limit = b.scalar(DType::F32, limit)?;
    let norm = b.max(norm, limit)?;
    b.div(limit, norm)
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
    state: State,
    grads: &[Value],
) -> Result<(), BuildError> {
    let types: Vec<TensorType> =
        params.iter().map(|spec| spec.partition.block(&cx.mesh, &spec.ty)).collect::<Result<_, _>>()?;
    let blocks = |slots: Vec<Slot>| -> Result<Vec<TensorType>, BuildError> {
        slots.iter().map(|slot| Ok(slot.partition.block(&cx.mesh, &slot.ty)?)).collect()
    };
    same("parameter", &b.types(state.params), &types)?;
    same("slot", &b.types(state.slots), &blocks(slots(cx.optimizer, params))?)?;
    let kept = blocks(mean_squares::mean_squares(cx, params))?;
    same("mean square", &b.types(state.mean_squares), &kept)?;
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
