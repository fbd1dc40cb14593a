//! Builds a small graph by hand, differentiates it, and compares with a finite difference. Needs no XLA.
//!
//! cargo run --example differentiate

use switchyard::build::Builder;
use switchyard::eval::evaluate;
use switchyard::grad::gradients;
use switchyard::ir::{DType, Literal, TensorType, optimize};

fn main() -> anyhow::Result<()> {
    // loss = mean(logistic(x w)^2), in float64 so that the finite difference is sharp.
    let mut b = Builder::new();
    let x = b.parameter(TensorType::new(DType::F64, [4, 3]))?;
    let w = b.parameter(TensorType::new(DType::F64, [3, 2]))?;
    let loss = b.scoped("layer", |b| {
        let hidden = b.einsum("bi,io->bo", x, w)?; // [batch, out]
        let active = b.logistic(hidden)?;
        let square = b.square(active)?;
        b.mean_all(square)
    })?;
    // Adds the backward pass to the same graph.
    let gradient = gradients(&mut b, loss, &[w])?[0];
    let graph = optimize(&b.finish(&[loss, gradient]));
    println!("{graph}");

    let inputs: Vec<f64> = (0..12).map(|i| (f64::from(i) * 0.7).sin()).collect();
    let weights: Vec<f64> = (0..6).map(|i| (f64::from(i) * 1.3).cos()).collect();
    let at = |weights: &[f64]| -> anyhow::Result<Vec<Literal>> {
        Ok(evaluate(&graph, &[Literal::new([4, 3], &inputs)?, Literal::new([3, 2], weights)?])?)
    };
    let gradient = at(&weights)?[1].to_f64();
    for (i, exact) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut moved = weights.clone();
            moved[i] += by;
            at(&moved).map(|outputs| outputs[0].to_f64()[0])
        };
        let numeric = (moved(1e-5)? - moved(-1e-5)?) / 2e-5;
        println!("d loss / d w[{i}] = {exact:.9}, by finite difference {numeric:.9}");
        anyhow::ensure!((exact - numeric).abs() < 1e-9, "the gradient is wrong");
    }
    Ok(())
}
