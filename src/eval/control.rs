//! Operations with subgraphs.

use super::data::{block, reshape};
use super::machine::{EvalError, Machine, Row};
use super::tensor::{Scalar, Tensor, by_kind};
use crate::ir::{Graph, Scan, TensorType};
use std::sync::Arc;

impl Machine<'_> {
    /// Runs `graph` on those rows only whose place is in `places`; returns their results.
    fn run_some(&self, graph: &Graph, rows: &[Row], places: &[usize]) -> Result<Vec<Row>, EvalError> {
        let active: Vec<usize> = places.iter().map(|&place| self.active[place]).collect();
        let inputs = places.iter().map(|&place| rows[place].clone()).collect();
        Machine { replicas: self.replicas, active: &active }.run(graph, inputs)
    }
}

/// Each replica loops for as long as its own condition holds.
pub(super) fn while_loop(
    machine: &Machine,
    cond: &Graph,
    body: &Graph,
    mut rows: Vec<Row>,
) -> Result<Vec<Row>, EvalError> {
    let mut running: Vec<usize> = (0..rows.len()).collect();
    loop {
        let holds = machine.run_some(cond, &rows, &running)?;
        running =
            running.iter().zip(holds).filter(|(_, row)| row[0].scalar_int() != 0).map(|(&p, _)| p).collect();
        if running.is_empty() {
            return Ok(rows);
        }
        for (&place, row) in running.iter().zip(machine.run_some(body, &rows, &running)?) {
            rows[place] = row;
        }
    }
}

pub(super) fn conditional(
    machine: &Machine,
    branches: &[Arc<Graph>],
    operands: Vec<Row>,
) -> Result<Vec<Row>, EvalError> {
    let last = branches.len() - 1;
    let chosen: Vec<usize> = operands
        .iter()
        .map(|row| usize::try_from(row[0].scalar_int()).map_or(last, |index| index.min(last)))
        .collect();
    let rows: Vec<Row> = operands.into_iter().map(|mut row| row.split_off(1)).collect();
    let mut results = vec![vec![]; rows.len()];
    for (index, branch) in branches.iter().enumerate() {
        let places: Vec<usize> = (0..rows.len()).filter(|&place| chosen[place] == index).collect();
        for (&place, row) in places.iter().zip(machine.run_some(branch, &rows, &places)?) {
            results[place] = row;
        }
    }
    Ok(results)
}

pub(super) fn scan(machine: &Machine, scan: &Scan, operands: &[Row]) -> Result<Vec<Row>, EvalError> {
    let fixed = scan.num_consts + scan.num_carry;
    let mut carries: Vec<Row> = operands.iter().map(|row| row[scan.num_consts..fixed].to_vec()).collect();
    let mut stacks = vec![vec![]; operands.len()];
    for step in 0..scan.length {
        let i = if scan.reverse { scan.length - 1 - step } else { step };
        let inputs = operands.iter().zip(carries).map(|(row, carry)| {
            let elements = row[fixed..].iter().map(|xs| Arc::new(element(xs, i)));
            row[..scan.num_consts].iter().cloned().chain(carry).chain(elements).collect()
        });
        let mut results = machine.run(&scan.body, inputs.collect())?;
        for (stack, row) in stacks.iter_mut().zip(&mut results) {
            stack.push(row.split_off(scan.num_carry));
        }
        carries = results;
    }
    if scan.reverse {
        stacks.iter_mut().for_each(|stack| stack.reverse());
    }
    let types = &scan.body.output_types()[scan.num_carry..];
    let stacked = stacks.iter().map(|rows| {
        types.iter().enumerate().map(|(k, ty)| {
            let parts: Vec<&Tensor> = rows.iter().map(|row: &Row| &*row[k]).collect();
            Arc::new(stack(ty, &parts))
        })
    });
    Ok(carries.into_iter().zip(stacked).map(|(carry, ys)| carry.into_iter().chain(ys).collect()).collect())
}

/// Element `i` along the leading axis.
fn element(xs: &Tensor, i: usize) -> Tensor {
    let mut starts = vec![0; xs.shape().len()];
    let mut sizes = xs.shape().to_vec();
    (starts[0], sizes[0]) = (i, 1);
    reshape(&block(xs, &starts, &sizes), &xs.shape()[1..])
}

/// Tensors of one type along a new leading axis.
fn stack(element: &TensorType, parts: &[&Tensor]) -> Tensor {
    fn typed<T: Scalar>(element: &TensorType, parts: &[&Tensor]) -> Tensor {
        let shape = [&[parts.len()][..], &element.shape].concat();
        Tensor::exact(element.dtype, shape, parts.iter().flat_map(|x| x.elements::<T>()).copied().collect())
    }
    let like = Tensor { ty: element.clone(), data: super::tensor::Data::Int(vec![]) };
    by_kind!(like, typed(element, parts))
}

#[cfg(test)]
mod tests {
    use crate::build::{Builder, ScanInputs};
    use crate::eval::{evaluate, evaluate_replicas};
    use crate::ir::*;

    fn s32(v: i32) -> Literal {
        Literal::scalar(v)
    }

    fn scalar() -> TensorType {
        TensorType::scalar(DType::S32)
    }

    fn sums(reverse: bool) -> Graph {
        // carry' = carry + x; y = carry' * const
        let body = Builder::graph(&[scalar(), scalar(), scalar()], |b, v| {
            let carry = b.add(v[1], v[2])?;
            Ok(vec![carry, b.mul(carry, v[0])?])
        });
        let scan = Scan {
            body: body.unwrap().into(),
            length: 3,
            num_consts: 1,
            num_carry: 1,
            reverse,
            remat: RematPolicy::SaveAll,
        };
        let xs = TensorType::new(DType::S32, [3]);
        Builder::graph(&[scalar(), scalar(), xs], |b, v| b.insert(Op::Scan(scan), v)).unwrap()
    }

    #[test]
    fn scan_carries_and_stacks() {
        let xs = Literal::new([3], &[1i32, 2, 3]).unwrap();
        let out = evaluate(&sums(false), &[s32(10), s32(0), xs.clone()]).unwrap();
        assert_eq!(out[0], s32(6));
        assert_eq!(out[1].to_f64(), [10.0, 30.0, 60.0]);
        let out = evaluate(&sums(true), &[s32(10), s32(0), xs]).unwrap();
        assert_eq!(out[0], s32(6));
        assert_eq!(out[1].to_f64(), [60.0, 50.0, 30.0]);
    }

    #[test]
    fn scan_of_no_steps_returns_the_carry() {
        let xs = TensorType::new(DType::F32, [0, 2]);
        let carry = TensorType::new(DType::F32, [2]);
        let graph = Builder::graph(&[carry, xs.clone()], |b, v| {
            let inputs = ScanInputs { carry: &v[..1], xs: &v[1..], ..Default::default() };
            let (carry, ys) = b.scan(inputs, |b, _, c, x| Ok((vec![b.add(c[0], x[0])?], vec![x[0]])))?;
            Ok([carry, ys].concat())
        });
        let carry = Literal::new([2], &[1.0f32, 2.0]).unwrap();
        let out = evaluate(&graph.unwrap(), &[carry.clone(), Literal::zeros(xs.clone())]).unwrap();
        assert_eq!(out, [carry, Literal::zeros(xs)]);
    }

    /// Doubles until 100 is reached.
    fn doubling() -> Graph {
        Builder::graph(&[scalar()], |b, v| {
            b.while_loop(
                v,
                |b, s| b.compare_scalar(Direction::Lt, s[0], 100.0),
                |b, s| Ok(vec![b.add(s[0], s[0])?]),
            )
        })
        .unwrap()
    }

    #[test]
    fn while_runs_until_its_condition_fails() {
        assert_eq!(evaluate(&doubling(), &[s32(3)]).unwrap(), [s32(192)]);
        assert_eq!(evaluate(&doubling(), &[s32(100)]).unwrap(), [s32(100)]);
    }

    #[test]
    fn replicas_may_loop_for_different_counts() {
        let out = evaluate_replicas(&doubling(), &[vec![s32(60)], vec![s32(7)]]).unwrap();
        assert_eq!(out, [[s32(120)], [s32(112)]]);
    }

    #[test]
    fn an_index_out_of_range_takes_the_last_branch() {
        let branch = |k: f64| Builder::graph(&[scalar()], |b, v| Ok(vec![b.add_scalar(v[0], k)?])).unwrap();
        let graph = Builder::graph(&[scalar(), scalar()], |b, v| {
            b.conditional(v[0], vec![branch(1.0).into(), branch(2.0).into()], &v[1..])
        })
        .unwrap();
        for (index, expected) in [(0, 11), (1, 12), (2, 12), (-1, 12)] {
            assert_eq!(evaluate(&graph, &[s32(index), s32(10)]).unwrap(), [s32(expected)], "index {index}");
        }
        let rows = [vec![s32(1), s32(0)], vec![s32(0), s32(0)]];
        assert_eq!(evaluate_replicas(&graph, &rows).unwrap(), [[s32(2)], [s32(1)]]);
    }

    #[test]
    fn calls_evaluate_their_body() {
        let graph = Builder::graph(&[TensorType::new(DType::F32, [2])], |b, v| {
            b.custom_vjp(
                "twice",
                v,
                |b, x| Ok((vec![b.add(x[0], x[0])?], vec![x[0]])),
                |b, args| Ok(vec![b.add(args.cotangents[0], args.cotangents[0])?]),
            )
        });
        let out = evaluate(&graph.unwrap(), &[Literal::new([2], &[1.0f32, 2.0]).unwrap()]).unwrap();
        assert_eq!(out[0].to_f64(), [2.0, 4.0]);
    }
}
