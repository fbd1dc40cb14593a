//! The gradient is that of the sum of the losses of all replicas, by the inputs of each.

use crate::check::{f64s, numbers, verify};
use switchyard::build::{BuildError, Builder};
use switchyard::eval::evaluate_replicas;
use switchyard::grad::gradients;
use switchyard::ir::*;

const REPLICAS: usize = 4;
const STEP: f64 = 1e-5;

/// Sum of squares, weighted differently on each replica.
fn loss(b: &mut Builder, op: &Op, x: Value) -> Result<Value, BuildError> {
    let y = b.one(op.clone(), &[x])?;
    let replica = b.one(Op::ReplicaId, &[])?;
    let replica = b.convert(replica, DType::F64)?;
    let shape = b.shape(y);
    let weights = b.constant(Literal::new(shape.clone(), &numbers(shape.iter().product(), -1.0, 1.5))?)?;
    let weights = b.scale(weights, replica)?;
    let weights = b.add_scalar(weights, 0.5)?;
    let squares = b.square(y)?;
    let weighted = b.mul(squares, weights)?;
    b.sum_all(weighted)
}

fn total(graph: &Graph, inputs: &[Vec<Literal>]) -> f64 {
    evaluate_replicas(graph, inputs).unwrap().iter().map(|outputs| outputs[0].to_f64()[0]).sum()
}

fn check(op: Op, shape: &[usize]) {
    let ty = [TensorType::new(DType::F64, shape)];
    let forward = Builder::graph(&ty, |b, v| Ok(vec![loss(b, &op, v[0])?])).unwrap();
    let backward = Builder::graph(&ty, |b, v| {
        let loss = loss(b, &op, v[0])?;
        gradients(b, loss, v)
    })
    .unwrap();
    verify(&backward);
    let count: usize = shape.iter().product();
    let data: Vec<Vec<f64>> = (0..REPLICAS).map(|r| numbers(count, -1.0, 1.0 + r as f64)).collect();
    let inputs =
        |data: &[Vec<f64>]| -> Vec<Vec<Literal>> { data.iter().map(|d| vec![f64s(shape, d)]).collect() };
    let found = evaluate_replicas(&backward, &inputs(&data)).unwrap();
    for replica in 0..REPLICAS {
        let found = found[replica][0].to_f64();
        for k in 0..count {
            let at = |delta: f64| {
                let mut data = data.clone();
                data[replica][k] += delta;
                total(&forward, &inputs(&data))
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let close = (found[k] - expected).abs() < 1e-6 * (1.0 + expected.abs());
            assert!(close, "{op:?}: replica {replica}, element {k}: {} for {expected}", found[k]);
        }
    }
}

fn groups() -> [ReplicaGroups; 3] {
    [vec![vec![0, 1, 2, 3]], vec![vec![0, 2], vec![3, 1]], vec![vec![0], vec![1], vec![2], vec![3]]]
}

#[test]
fn collectives_have_the_gradient_of_the_total_loss() {
    for groups in groups() {
        check(Op::AllReduce { reducer: Reducer::Add, groups: groups.clone() }, &[3]);
        check(Op::AllGather { dim: 1, groups: groups.clone() }, &[2, 3]);
        check(Op::ReduceScatter { dim: 0, reducer: Reducer::Add, groups: groups.clone() }, &[4, 2]);
        check(Op::AllToAll { split_dim: 0, concat_dim: 1, groups: groups.clone() }, &[4, 3]);
        check(Op::AllToAll { split_dim: 1, concat_dim: 0, groups: groups.clone() }, &[2, 8]);
        check(Op::AllToAll { split_dim: 0, concat_dim: 0, groups }, &[4, 2]);
    }
    check(Op::CollectivePermute { pairs: vec![(0, 1), (1, 2), (3, 0)] }, &[3]);
}

#[test]
fn extremes_over_replicas_have_no_derivative() {
    for op in [
        Op::AllReduce { reducer: Reducer::Max, groups: vec![vec![0, 1]] },
        Op::ReduceScatter { dim: 0, reducer: Reducer::Mul, groups: vec![vec![0, 1]] },
    ] {
        let error = Builder::graph(&[TensorType::new(DType::F64, [2])], |b, v| {
            let loss = loss(b, &op, v[0])?;
            gradients(b, loss, v)
        })
        .unwrap_err();
        assert!(error.to_string().contains("only `add` can be differentiated"), "{error}");
    }
}
