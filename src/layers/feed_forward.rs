//! The position-wise network, dense or one per expert.

use super::{Context, Params, dropout};
use crate::build::{BuildError, Builder};
use crate::config::{FeedForward, ModelConfig};
use crate::ir::{Direction, Value};
use crate::shard::{Axis, BATCH, MODEL};

/// How `[batch, length, d_ff]` is split over the mesh.
pub const HIDDEN: &[(usize, &[Axis])] = &[(0, BATCH), (2, MODEL)];

/// Names of the input matrices.
pub fn inputs(kind: FeedForward) -> &'static [&'static str] {
    match kind {
        FeedForward::Relu => &["wi"],
        FeedForward::GatedGelu | FeedForward::GatedSilu => &["wi_0", "wi_1"],
    }
}

pub fn declare(params: &mut Params, config: &ModelConfig) {
    for name in inputs(config.feed_forward) {
        params.matrix(name, [config.d_model, config.d_ff], config.init_scale).split(-1, Axis::Model);
    }
    params.matrix("wo", [config.d_ff, config.d_model], config.init_scale).split(-2, Axis::Model);
}

/// `wo(dropout(act(wi(x))))`: `[batch, length, d_model]` -> the same.
pub fn apply(b: &mut Builder, cx: &Context, x: Value) -> Result<Value, BuildError> {
    let hidden = hidden(b, cx, "bld,df->blf", x)?;
    let hidden = dropout::dropout_split(b, cx, ("hidden", cx.config.dropout), hidden, HIDDEN)?;
    let wo = cx.weight(b, "wo")?;
    let output = b.einsum("blf,fd->bld", hidden, wo)?;
    cx.mesh.sum(b, output, MODEL)
}

/// The activated hidden layer; `spec` is the product of `x` with an input matrix.
pub fn hidden(b: &mut Builder, cx: &Context, spec: &str, x: Value) -> Result<Value, BuildError> {
    let project = |b: &mut Builder, name| {
        let wi = cx.weight(b, name)?;
        b.einsum(spec, x, wi)
    };
    match cx.config.feed_forward {
        FeedForward::Relu => {
            // Rounded before rather than after: the derivative reads the same that the next product does.
            let projected = project(b, "wi")?;
            let rounded = b.convert(projected, cx.operand_dtype())?;
            let hidden = relu(b, rounded)?;
            b.convert(hidden, cx.dtype())
        }
        FeedForward::GatedGelu => gated(b, project, gelu_tanh),
        FeedForward::GatedSilu => gated(b, project, silu),
    }
}

/// `max(x, 0)`. Its derivative is read from the result, which the next product needs anyway: `x` is not kept. At 0 it is 0.
fn relu(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "relu",
        &[x],
        |b, x| {
            let zero = b.full_like(x[0], 0.0)?;
            Ok((vec![b.max(x[0], zero)?], vec![]))
        },
        |b, args| {
            let positive = b.compare_scalar(Direction::Gt, args.outputs[0], 0.0)?;
            Ok(vec![b.mask(positive, args.cotangents[0], 0.0)?])
        },
    )?;
    Ok(results[0])
}

/// `act(x wi_0) * (x wi_1)`.
fn gated(
    b: &mut Builder,
    project: impl Fn(&mut Builder, &'static str) -> Result<Value, BuildError>,
    act: impl Fn(&mut Builder, Value) -> Result<Value, BuildError>,
) -> Result<Value, BuildError> {
    let gate = project(b, "wi_0")?;
    let gate = act(b, gate)?;
    let linear = project(b, "wi_1")?;
    b.mul(gate, linear)
}

/// `x / (1 + exp(-x))`.
fn silu(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let logistic = b.logistic(x)?;
    b.mul(x, logistic)
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
fn gelu_tanh(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let square = b.square(x)?;
    let inner = b.mul_scalar(square, 0.044715)?;
    let inner = b.add_scalar(inner, 1.0)?;
    let inner = b.mul(x, inner)?;
    let inner = b.mul_scalar(inner, (2.0 / std::f64::consts::PI).sqrt())?;
    let tanh = b.tanh(inner)?;
    let gate = b.add_scalar(tanh, 1.0)?;
    let half = b.mul_scalar(x, 0.5)?;
    b.mul(half, gate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Target;
    use crate::eval::evaluate;
    use crate::grad::gradients;
    use crate::ir::{DType, Literal, TensorType};
    use crate::layers::{Phase, Weights};
    use crate::shard::Mesh;

    /// The hidden values of `x` times a matrix of one row, and the derivative of their sum by `x`.
    fn hidden_and_gradient(target: Target) -> [Vec<f64>; 2] {
        let config = ModelConfig { d_model: 1, d_ff: 5, ..ModelConfig::default() };
        let graph = Builder::graph(&[TensorType::new(DType::F32, [1, 1, 1])], |b, x| {
            let mut params = Params::default();
            declare(&mut params, &config);
            let defs = params.into_defs();
            let wi = b.constant(Literal::new([1, 5], &[1.003f32, -0.3, 1.0e-38, 7.77, -2.0])?)?;
            let wo = b.zeros(&TensorType::new(DType::F32, [5, 1]))?;
            let weights = Weights::new(Mesh::default(), defs.iter().zip([wi, wo]));
            let key = b.zeros(&TensorType::new(DType::U32, [2]))?;
            let cx = Context { target, ..Context::alone(&config, Phase::Train, &weights, key) };
            let hidden = hidden(b, &cx, "bld,df->blf", x[0])?;
            let sum = b.sum_all(hidden)?;
            Ok([vec![hidden], gradients(b, sum, x)?].concat())
        });
        let found = evaluate(&graph.unwrap(), &[Literal::new([1, 1, 1], &[1.0f32]).unwrap()]).unwrap();
        [found[0].to_f64(), found[1].to_f64()]
    }

    #[test]
    fn rounding_before_relu_is_rounding_after_it() {
        let ([plain, whole], [found, gradient]) =
            (hidden_and_gradient(Target::Cpu), hidden_and_gradient(Target::Tpu));
        let round = |x: &f64| f64::from(half::bf16::from_f64(*x));
        assert_eq!(found, plain.iter().map(round).collect::<Vec<_>>());
        assert_ne!(found, plain);
        // The weights of the same hidden values, also of one that is next to nothing.
        assert_eq!(gradient, whole);
    }
}
