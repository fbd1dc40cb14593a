//! Adafactor as T5 uses it.

use super::spec::{Factors, ParamSpec};
use super::update::{Decay, Gradient, Means, Scalars, Tensor, Updated, moving_average};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, DotDims, Value};

type Built = Result<Value, BuildError>;

/// The numbers of the configuration.
pub(super) struct Settings {
    pub decay_exponent: f64,
    pub decay_offset: u64,
    pub epsilon1: f64,
    pub epsilon2: f64,
    pub clip_threshold: f64,
    pub min_dim_size_to_factor: usize,
    pub multiply_by_parameter_scale: bool,
    pub beta1: Option<f64>,
    pub weight_decay: f64,
}

/// The rule with the scalars of this step. Source: Shazeer and Stern (2018), algorithms 4 to 6.
pub(super) struct Adafactor {
    settings: Settings,
    scalars: Scalars,
    /// `(count - decay_offset)^-decay_exponent`: the weight of the new squares, 1 at the first step.
    weight: Value,
    /// `1 - weight`.
    keep: Value,
}

impl Adafactor {
    pub fn new(b: &mut Builder, settings: Settings, scalars: Scalars) -> Result<Self, BuildError> {
        let exponent = b.scalar(DType::F32, -settings.decay_exponent)?;
        let one = b.scalar(DType::F32, 1.0)?;
        let count = match settings.decay_offset {
            0 => scalars.count,
            offset => {
                let count = b.add_scalar(scalars.count, -(offset as f64))?;
                b.max(count, one)?
            }
        };
        let weight = b.pow(count, exponent)?;
        let keep = b.sub(one, weight)?;
        Ok(Self { settings, scalars, weight, keep })
    }

    pub fn apply(
        &self,
        b: &mut Builder,
        Tensor { spec, value: param, slots, mean_square, .. }: Tensor,
        gradient: Gradient,
    ) -> Updated {
        let factors = Factors::of(spec, self.settings.min_dim_size_to_factor);
        let (direction, square, mut new) = match (factors, gradient.means, slots) {
            (Some(factors), Some(means), &[row, col, ..]) => {
                self.factored(b, spec, factors, (gradient.clipped, means), (row, col))?
            }
            (None, _, &[v, ..]) => {
                let (direction, new) = self.full(b, gradient.clipped, v)?;
                (direction, None, new)
            }
            _ => return Err(BuildError::Invalid(format!("optimizer: slots of `{}` are missing", spec.name))),
        };
        let size = self.step_size(b, spec, (param, mean_square), (direction, square))?;
        let shape = b.shape(direction);
        let size = b.unreduce(size, &shape, &spec.own_axes())?;
        let mut change = b.mul(direction, size)?;
        if let (Some(beta1), Some(&momentum)) = (self.settings.beta1, slots.last()) {
            change = moving_average(b, momentum, change, beta1)?;
            new.push(change);
        }
        let decay = Decay { rate: self.scalars.rate, weight: self.settings.weight_decay };
        Ok((decay.subtract(b, spec, param, change)?, new))
    }

    /// `g / sqrt(v)` with all second moments.
    fn full(&self, b: &mut Builder, grad: Value, v: Value) -> Updated {
        let squares = b.square(grad)?;
        let v = self.average(b, v, squares)?;
        let root = b.rsqrt(v)?;
        Ok((b.mul(grad, root)?, vec![v]))
    }

    /// `g / sqrt(row * col / mean(row))`: means of squares over the largest axis (row) and over the second (col); its mean square, where
    /// that is a product; the new moments.
    fn factored(
        &self,
        b: &mut Builder,
        spec: &ParamSpec,
        factors: Factors,
        (grad, means): (Value, (Value, Value)),
        (row, col): (Value, Value),
    ) -> Result<(Value, Option<Value>, Vec<Value>), BuildError> {
        let Factors { largest, second } = factors;
        let row = self.average_of_means(b, row, means.0)?;
        let col = self.average_of_means(b, col, means.1)?;
        // The row moments have lost the largest axis.
        let second_in_row = if second > largest { second - 1 } else { second };
        let shape = b.shape(row);
        let sum = b.sum(row, &[second_in_row])?;
        let sum = self.scalars.means.mesh.sum(b, sum, spec.partition.axes_of(second))?;
        let mean = b.mul_scalar(sum, 1.0 / spec.ty.shape[second].max(1) as f64)?;
        let mean = b.unreduce(mean, &shape, &[second_in_row])?;
        let relative = b.div(row, mean)?;
        let mut direction = grad;
        let shape = b.shape(grad);
        for (moments, axis) in [(relative, largest), (col, second)] {
            let root = b.rsqrt(moments)?;
            let root = b.unreduce(root, &shape, &[axis])?;
            direction = b.mul(direction, root)?;
        }
        let count = shape.iter().product();
        let means = self.scalars.means;
        let square = match spec.own_axes().len() == 2 && means.target.multiplies_squares(count) {
            true => Some(mean_square_by_product(b, means, spec, factors, grad, (relative, col))?),
            false => None,
        };
        Ok((direction, square, vec![row, col]))
    }

    /// Squares averaged over an axis before clipping; clipping scales them by its square.
    fn average_of_means(&self, b: &mut Builder, old: Value, mean: Value) -> Built {
        let mean = match self.scalars.clip {
            Some(clip) => {
                let clip = b.square(clip)?;
                b.scale(mean, clip)?
            }
            None => mean,
        };
        self.average(b, old, mean)
    }

    /// `old * keep + (squares + epsilon1) * weight`.
    fn average(&self, b: &mut Builder, old: Value, squares: Value) -> Built {
        let squares = b.add_scalar(squares, self.settings.epsilon1)?;
        let new = b.scale(squares, self.weight)?;
        let old = b.scale(old, self.keep)?;
        b.add(old, new)
    }

    /// The factor of `direction` per element of the stack: rate, parameter scale, and the clip of its root mean square.
    fn step_size(
        &self,
        b: &mut Builder,
        spec: &ParamSpec,
        (param, mean_square): (Value, Option<Value>),
        (direction, square): (Value, Option<Value>),
    ) -> Built {
        let scaled = self.settings.multiply_by_parameter_scale;
        let scale = (scaled && mean_square.is_none()).then_some(param);
        let measured: Vec<Value> = square.is_none().then_some(direction).into_iter().chain(scale).collect();
        let found = self.mean_squares(b, spec, &measured)?;
        let squares: Vec<Value> = square.into_iter().chain(found).chain(mean_square).collect();
        let roots: Vec<Value> = squares.into_iter().map(|mean| b.sqrt(mean)).collect::<Result<_, _>>()?;
        let excess = b.mul_scalar(roots[0], 1.0 / self.settings.clip_threshold)?;
        let one = b.full_like(excess, 1.0)?;
        let excess = b.max(excess, one)?;
        let mut size = b.splat(self.scalars.rate, excess)?;
        if let Some(&scale) = roots.get(1) {
            let least = b.full_like(scale, self.settings.epsilon2)?;
            let scale = b.max(scale, least)?;
            size = b.mul(size, scale)?;
        }
        b.div(size, excess)
    }

    /// Over the own axes: one number per element of the stack, for each tensor.
    fn mean_squares(
        &self,
        b: &mut Builder,
        spec: &ParamSpec,
        xs: &[Value],
    ) -> Result<Vec<Value>, BuildError> {
        if xs.is_empty() {
            return Ok(vec![]);
        }
        let squares: Vec<Value> = xs.iter().map(|&x| b.square(x)).collect::<Result<_, _>>()?;
        self.scalars.means.means(b, spec, &squares, &spec.own_axes())
    }
}

/// The mean square of `g / sqrt(relative * col)` of a matrix or a stack of such: squares of `g` times `1 / col` over the largest axis, then times
/// `1 / relative` over the other. The weights are two equal columns behind a barrier: libtpu turns products with one column into sums.
fn mean_square_by_product(
    b: &mut Builder,
    means: Means,
    spec: &ParamSpec,
    Factors { largest, .. }: Factors,
    grad: Value,
    (relative, col): (Value, Value),
) -> Built {
    let [col, relative] = [col, relative].map(|moments| b.rsqrt(moments).and_then(|root| b.square(root)));
    let (col, relative) = (col?, relative?);
    let with_two = |mut shape: Vec<usize>, at: usize| {
        shape.insert(at, 2);
        shape
    };
    let stack: Vec<usize> = (0..spec.batch_axes).collect();
    let last = stack.len() + 1;
    let columns = b.unreduce(col, &with_two(b.shape(col), stack.len()), &[stack.len()])?;
    let columns = b.optimization_barrier(&[columns])?;
    let dims = DotDims {
        lhs_batch: stack.clone(),
        rhs_batch: stack,
        lhs_contracting: vec![largest],
        rhs_contracting: vec![last],
    };
    let squares = b.square(grad)?;
    let sums = b.dot_general(squares, columns[0], dims)?;
    let relative = b.unreduce(relative, &with_two(b.shape(relative), last), &[last])?;
    let sums = b.mul(sums, relative)?;
    let sum = b.sum(sums, &[last - 1, last])?;
    let sum = b.mul_scalar(sum, 0.5)?;
    means.of_sum(b, spec, sum, &spec.own_axes())
}
