//! Adds a layer of one's own: a squared-ReLU network with a derivative of its own, trained by gradient descent on the CPU.
//!
//! cargo run --example custom_layer

use switchyard::build::{BuildError, Builder};
use switchyard::grad::gradients;
use switchyard::ir::{DType, Literal, TensorType, Value, optimize};
use switchyard::runtime::{Argument, CompileOptions, cpu};
use switchyard::{hlo, lower};

/// `relu(x)^2`. The derivative, `2 relu(x) g`, is given by hand and keeps `relu(x)` instead of `x`.
fn squared_relu(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "squared_relu",
        &[x],
        |b, x| {
            let zero = b.full_like(x[0], 0.0)?;
            let relu = b.max(x[0], zero)?;
            // Results, then what the derivative needs.
            Ok((vec![b.square(relu)?], vec![relu]))
        },
        |b, args| {
            let relu = args.outputs[1];
            let double = b.mul_scalar(relu, 2.0)?;
            Ok(vec![b.mul(double, args.cotangents[0])?])
        },
    )?;
    Ok(results[0])
}

/// One step of gradient descent: `(x, y, w1, w2) -> (w1, w2, loss)`; the weights keep their memory.
fn step() -> Result<hlo::HloModuleProto, BuildError> {
    let types = [[64, 8], [64, 1], [8, 32], [32, 1]].map(|shape| TensorType::new(DType::F32, shape));
    let graph = Builder::graph(&types, |b, inputs| {
        let [x, y, w1, w2] = *inputs else { return Err(BuildError::Invalid("four inputs".into())) };
        let hidden = b.einsum("bi,ih->bh", x, w1)?;
        let hidden = squared_relu(b, hidden)?;
        let output = b.einsum("bh,ho->bo", hidden, w2)?;
        let error = b.sub(output, y)?;
        let square = b.square(error)?;
        let loss = b.mean_all(square)?;
        let grads = gradients(b, loss, &[w1, w2])?;
        let mut outputs = vec![];
        for (weight, grad) in [w1, w2].into_iter().zip(grads) {
            let change = b.mul_scalar(grad, 0.2)?;
            outputs.push(b.sub(weight, change)?);
        }
        outputs.push(loss);
        Ok(outputs)
    })?;
    let names = ["x", "y", "w1", "w2"].map(String::from);
    // Outputs 0 and 1 take over the buffers of inputs 2 and 3.
    Ok(lower::lower("step", &optimize(&graph), &names, &[(0, 2), (1, 3)]))
}

fn main() -> anyhow::Result<()> {
    let backend = cpu::open_dyn(1)?;
    let executable = backend.compile(&hlo::encode(&step()?), &CompileOptions::default())?;
    let wave =
        |n: usize, scale: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.91).sin() * scale).collect() };
    let x = wave(64 * 8, 1.0);
    let y: Vec<f32> = x.chunks(8).map(|row| row[0] * row[1] + row[2]).collect();
    let upload = |shape: [usize; 2], data: &[f32]| -> anyhow::Result<_> {
        Ok(backend.upload(&Literal::new(shape, data)?, 0)?)
    };
    let (x, y) = (upload([64, 8], &x)?, upload([64, 1], &y)?);
    let (mut w1, mut w2) = (upload([8, 32], &wave(256, 0.5))?, upload([32, 1], &wave(32, 0.3))?);
    let mut losses = vec![];
    for _ in 0..200 {
        let arguments =
            vec![Argument::from(&x), Argument::from(&y), Argument::Donate(w1), Argument::Donate(w2)];
        let mut results = executable.run(arguments)?;
        losses.push(results.remove(2).download()?.to_f64()[0]);
        w2 = results.remove(1);
        w1 = results.remove(0);
    }
    println!("loss {:.4} after the first step, {:.4} after the last", losses[0], losses[199]);
    anyhow::ensure!(losses[199] < 0.5 * losses[0], "the layer did not learn");
    Ok(())
}
