//! The comparison, and inputs for it.

use switchyard::build::{BuildError, Builder};
use switchyard::eval::evaluate;
use switchyard::grad::gradients;
use switchyard::infer::infer;
use switchyard::ir::*;

/// The step of the central differences: their error is about its square, and rounding over it: 1e-10.
const STEP: f64 = 1e-5;
/// Well above that error, well below any wrong factor.
const TOLERANCE: f64 = 1e-6;

pub type Built = Result<Vec<Value>, BuildError>;

/// Numbers spread evenly over a range, in no order, no two alike.
pub fn numbers(count: usize, low: f64, high: f64) -> Vec<f64> {
    (1..=count).map(|i| low + (high - low) * (i as f64 * 0.618_033_988_749_894_9).fract()).collect()
}

pub fn floats(shape: &[usize], low: f64, high: f64) -> Literal {
    Literal::new(shape, &numbers(shape.iter().product(), low, high)).unwrap()
}

pub fn f64s(shape: &[usize], data: &[f64]) -> Literal {
    Literal::new(shape, data).unwrap()
}

pub fn ints(shape: &[usize], data: &[i32]) -> Literal {
    Literal::new(shape, data).unwrap()
}

/// A sum of all float outputs with weights of no symmetry, so that no error cancels.
fn loss(b: &mut Builder, outputs: &[Value]) -> Result<Value, BuildError> {
    let mut loss = b.scalar(DType::F64, 0.0)?;
    for (i, &output) in
        outputs.iter().filter(|v| b.dtype(**v) == DType::F64).collect::<Vec<_>>().iter().enumerate()
    {
        let shape = b.shape(*output);
        let weights = numbers(shape.iter().product(), -1.0, 1.5 + i as f64);
        let weights = b.constant(Literal::new(shape, &weights)?)?;
        let weighted = b.mul(*output, weights)?;
        let sum = b.sum_all(weighted)?;
        loss = b.add(loss, sum)?;
    }
    Ok(loss)
}

fn types(inputs: &[Literal]) -> Vec<TensorType> {
    inputs.iter().map(|x| x.ty().clone()).collect()
}

/// The gradients of the weighted sum of what `body` returns, of its float inputs.
pub fn gradients_of(
    body: impl Fn(&mut Builder, &[Value]) -> Built,
) -> impl Fn(&mut Builder, &[Value]) -> Built {
    move |b, v| {
        let outputs = body(b, v)?;
        let loss = loss(b, &outputs)?;
        let wrt: Vec<Value> = v.iter().copied().filter(|v| b.dtype(*v).is_float()).collect();
        gradients(b, loss, &wrt)
    }
}

/// What `body` gives for these inputs.
pub fn values(inputs: &[Literal], body: impl Fn(&mut Builder, &[Value]) -> Built) -> Vec<Vec<f64>> {
    let graph = Builder::graph(&types(inputs), |b, v| body(b, v)).unwrap();
    verify(&graph);
    evaluate(&graph, inputs).unwrap().iter().map(Literal::to_f64).collect()
}

/// Compares the gradients of a weighted sum of the float outputs of `body` with central differences.
pub fn check(name: &str, inputs: &[Literal], body: impl Fn(&mut Builder, &[Value]) -> Built) {
    let forward = Builder::graph(&types(inputs), |b, v| {
        let outputs = body(b, v)?;
        Ok(vec![loss(b, &outputs)?])
    })
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    let backward = Builder::graph(&types(inputs), |b, v| {
        let outputs = body(b, v)?;
        let loss = loss(b, &outputs)?;
        let wrt: Vec<Value> = v.iter().copied().filter(|v| b.dtype(*v).is_float()).collect();
        Ok([gradients(b, loss, &wrt)?, vec![loss]].concat())
    });
    let backward = backward.unwrap_or_else(|e| panic!("{name}: {e}"));
    verify(&backward);
    let mut found = evaluate(&backward, inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
    // Loops and calls that return more for the backward pass still return the same.
    assert_eq!(found.pop(), evaluate(&forward, inputs).unwrap().pop(), "{name}: value");
    let places: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].ty().dtype.is_float()).collect();
    assert_eq!(found.len(), places.len());
    for (&i, found) in places.iter().zip(&found) {
        assert_eq!(found.ty(), inputs[i].ty(), "{name}: type of gradient {i}");
        for (k, found) in found.to_f64().into_iter().enumerate() {
            let expected = difference(&forward, inputs, i, k);
            let close = (found - expected).abs() <= TOLERANCE * (1.0 + expected.abs());
            assert!(close, "{name}: gradient of input {i} at {k} is {found}, differences give {expected}");
        }
    }
}

/// Also differentiates the gradient.
pub fn check_twice(name: &str, inputs: &[Literal], body: impl Fn(&mut Builder, &[Value]) -> Built) {
    check(name, inputs, &body);
    check(&format!("gradient of {name}"), inputs, gradients_of(body));
}

fn difference(forward: &Graph, inputs: &[Literal], i: usize, k: usize) -> f64 {
    let at = |delta: f64| {
        let mut inputs = inputs.to_vec();
        let mut data = inputs[i].to_f64();
        data[k] += delta;
        inputs[i] = f64s(&inputs[i].ty().shape.clone(), &data);
        evaluate(forward, &inputs).unwrap()[0].to_f64()[0]
    };
    (at(STEP) - at(-STEP)) / (2.0 * STEP)
}

/// Types are what inference says, operands come before users, in all bodies.
pub fn verify(graph: &Graph) {
    let mut defined: std::collections::HashSet<Value> = Default::default();
    for node in graph.nodes() {
        for operand in &node.operands {
            assert!(
                defined.contains(operand),
                "{operand} of {} is used before it is defined",
                node.op.name()
            );
        }
        defined.extend(&node.results);
        let types = infer(&node.op, &graph.types(&node.operands)).unwrap();
        assert_eq!(types, graph.types(&node.results), "{}", node.op.name());
        for body in bodies(&node.op) {
            verify(body);
        }
    }
}

fn bodies(op: &Op) -> Vec<&Graph> {
    match op {
        Op::Sort { comparator, .. } => vec![comparator],
        Op::While { cond, body } => vec![cond, body],
        Op::Scan(scan) => vec![&scan.body],
        Op::Conditional { branches } => branches.iter().map(|b| &**b).collect(),
        Op::Call(Call { body, derivative: Derivative::Custom { vjp, .. }, .. }) => vec![body, vjp],
        Op::Call(call) => vec![&call.body],
        _ => vec![],
    }
}
