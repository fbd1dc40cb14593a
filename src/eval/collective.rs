//! Operations between replicas.

use super::data::{block, concatenate};
use super::linear::reduce;
use super::machine::{EvalError, Machine, Row};
use super::tensor::{Data, Tensor};
use crate::ir::{DType, Op, Reducer};
use std::sync::Arc;

/// The results of a collective per replica; `operands` are in the order of the active replicas.
pub(super) fn collective(machine: &Machine, op: &Op, operands: &[Row]) -> Result<Vec<Row>, EvalError> {
    let cx = Collective { machine, op: op.name(), operands };
    match op {
        Op::AllReduce { reducer, groups } => cx.each(groups, |parts, _| combined(parts, *reducer)),
        Op::AllGather { dim, groups } => cx.each(groups, |parts, _| concatenate(parts, *dim)),
        Op::ReduceScatter { dim, reducer, groups } => {
            cx.each(groups, |parts, rank| chunk(&combined(parts, *reducer), *dim, rank, parts.len()))
        }
        Op::AllToAll { split_dim, concat_dim, groups } => cx.each(groups, |parts, rank| {
            let chunks: Row =
                parts.iter().map(|x| Arc::new(chunk(x, *split_dim, rank, parts.len()))).collect();
            concatenate(&chunks, *concat_dim)
        }),
        Op::CollectivePermute { pairs } => cx.permute(pairs),
        Op::ReplicaId => Ok(machine.active.iter().map(|&id| vec![Arc::new(scalar(id))]).collect()),
        _ => Ok(machine.active.iter().map(|_| vec![Arc::new(scalar(0))]).collect()),
    }
}

struct Collective<'a> {
    machine: &'a Machine<'a>,
    op: &'static str,
    operands: &'a [Row],
}

impl Collective<'_> {
    /// `compute(operands of the group in its order, own place in the group)` for every active replica.
    fn each(
        &self,
        groups: &[Vec<usize>],
        compute: impl Fn(&[Arc<Tensor>], usize) -> Tensor,
    ) -> Result<Vec<Row>, EvalError> {
        if groups.concat().len() != self.machine.replicas {
            let replicas = self.machine.replicas;
            return Err(EvalError::Groups { op: self.op, groups: groups.to_vec(), replicas });
        }
        let result = |&replica: &usize| {
            let found = groups.iter().find_map(|g| Some((g, g.iter().position(|&r| r == replica)?)));
            let Some((group, rank)) = found else {
                let replicas = self.machine.replicas;
                return Err(EvalError::Groups { op: self.op, groups: groups.to_vec(), replicas });
            };
            let parts: Row = group.iter().map(|&r| self.of(replica, r)).collect::<Result<_, _>>()?;
            Ok(vec![Arc::new(compute(&parts, rank))])
        };
        self.machine.active.iter().map(result).collect()
    }

    /// The operand of replica `other`, for which `replica` waits.
    fn of(&self, replica: usize, other: usize) -> Result<Arc<Tensor>, EvalError> {
        let replicas = self.machine.replicas;
        if other >= replicas {
            return Err(EvalError::NoReplica { op: self.op, replica: other, replicas });
        }
        let place = self.machine.active.iter().position(|&r| r == other);
        let diverged = EvalError::Diverged { op: self.op, replica, missing: other };
        place.map(|place| self.operands[place][0].clone()).ok_or(diverged)
    }

    /// Replicas that nobody sends to receive zeros.
    fn permute(&self, pairs: &[(usize, usize)]) -> Result<Vec<Row>, EvalError> {
        let receive = |(place, &replica): (usize, &usize)| {
            let received = match pairs.iter().find(|pair| pair.1 == replica) {
                Some(&(source, _)) => self.of(replica, source)?,
                None => Arc::new(zeros_like(&self.operands[place][0])),
            };
            Ok(vec![received])
        };
        self.machine.active.iter().enumerate().map(receive).collect()
    }
}

fn scalar(value: usize) -> Tensor {
    Tensor::exact(DType::U32, [], vec![value as i128])
}

fn zeros_like(x: &Tensor) -> Tensor {
    let n = x.ty.elements();
    let data = if x.dtype().is_float() { Data::Float(vec![0.0; n]) } else { Data::Int(vec![0; n]) };
    Tensor { ty: x.ty.clone(), data }
}

/// Element by element over the operands: stacked along a new axis, which is reduced.
fn combined(parts: &[Arc<Tensor>], reducer: Reducer) -> Tensor {
    let stacked: Row =
        parts.iter().map(|x| Arc::new(super::data::reshape(x, &[&[1][..], x.shape()].concat()))).collect();
    reduce(&concatenate(&stacked, 0), &[0], reducer)
}

/// Chunk `index` of `count` equal ones along `dim`.
fn chunk(x: &Tensor, dim: usize, index: usize, count: usize) -> Tensor {
    let mut sizes = x.shape().to_vec();
    sizes[dim] /= count;
    let mut starts = vec![0; sizes.len()];
    starts[dim] = index * sizes[dim];
    block(x, &starts, &sizes)
}

#[cfg(test)]
mod tests {
    use crate::build::Builder;
    use crate::eval::{EvalError, evaluate_replicas};
    use crate::ir::*;

    fn run(op: Op, rows: &[&[i32]]) -> Result<Vec<Vec<f64>>, EvalError> {
        let ty = TensorType::new(DType::S32, [rows[0].len()]);
        let graph = Builder::graph(&[ty], |b, x| b.insert(op, x)).unwrap();
        let inputs: Vec<_> = rows.iter().map(|r| vec![Literal::new([r.len()], r).unwrap()]).collect();
        Ok(evaluate_replicas(&graph, &inputs)?.iter().map(|row| row[0].to_f64()).collect())
    }

    #[test]
    fn all_reduce_combines_within_groups() {
        let op = Op::AllReduce { reducer: Reducer::Add, groups: vec![vec![0, 2], vec![1, 3]] };
        let sums = run(op, &[&[1], &[2], &[4], &[8]]).unwrap();
        assert_eq!(sums, [[5.0], [10.0], [5.0], [10.0]]);
    }

    #[test]
    fn all_gather_joins_in_the_order_of_the_group() {
        let op = Op::AllGather { dim: 0, groups: vec![vec![1, 0]] };
        assert_eq!(run(op, &[&[1], &[2]]).unwrap(), [[2.0, 1.0], [2.0, 1.0]]);
    }

    #[test]
    fn reduce_scatter_hands_out_chunks_of_the_sum() {
        let op = Op::ReduceScatter { dim: 0, reducer: Reducer::Add, groups: vec![vec![1, 0]] };
        assert_eq!(run(op, &[&[1, 2], &[10, 20]]).unwrap(), [[22.0], [11.0]]);
    }

    #[test]
    fn all_to_all_exchanges_chunks() {
        let op = Op::AllToAll { split_dim: 0, concat_dim: 0, groups: vec![vec![0, 1]] };
        let exchanged = run(op, &[&[1, 2, 3, 4], &[5, 6, 7, 8]]).unwrap();
        assert_eq!(exchanged, [[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]);
    }

    #[test]
    fn permute_sends_and_leaves_zeros() {
        let op = Op::CollectivePermute { pairs: vec![(0, 1), (1, 2)] };
        assert_eq!(run(op, &[&[1], &[2], &[3]]).unwrap(), [[0.0], [1.0], [2.0]]);
    }

    #[test]
    fn a_source_that_does_not_run_is_an_error() {
        let error = run(Op::CollectivePermute { pairs: vec![(2, 0)] }, &[&[1], &[2]]).unwrap_err();
        assert_eq!(error.to_string(), "collective_permute: replica 2 is named, there are 2");
    }

    #[test]
    fn replicas_know_their_number_and_partition_zero() {
        let graph =
            Builder::graph(&[], |b, _| Ok(vec![b.one(Op::ReplicaId, &[])?, b.one(Op::PartitionId, &[])?]));
        let ids = evaluate_replicas(&graph.unwrap(), &[vec![], vec![]]).unwrap();
        assert_eq!(ids[1], [Literal::scalar(1u32), Literal::scalar(0u32)]);
    }

    #[test]
    fn groups_of_other_replicas_are_refused() {
        let op = Op::AllReduce { reducer: Reducer::Add, groups: vec![vec![0, 1]] };
        let error = run(op, &[&[1]]).unwrap_err().to_string();
        assert_eq!(
            error,
            "all_reduce: replica groups [[0, 1]] do not divide 1 replicas, evaluate as many as they name"
        );
    }

    #[test]
    fn a_collective_that_one_replica_skips_is_an_error() {
        let scalar = TensorType::scalar(DType::S32);
        let meet = |b: &mut Builder, v: &[Value]| {
            b.insert(Op::AllReduce { reducer: Reducer::Add, groups: vec![vec![0, 1]] }, v)
        };
        let meet = Builder::graph(std::slice::from_ref(&scalar), meet).unwrap();
        let skip = Builder::graph(std::slice::from_ref(&scalar), |_, v| Ok(v.to_vec())).unwrap();
        let graph =
            Builder::graph(&[scalar], |b, v| b.conditional(v[0], vec![meet.into(), skip.into()], v)).unwrap();
        let rows = [vec![Literal::scalar(0i32)], vec![Literal::scalar(1i32)]];
        let error = evaluate_replicas(&graph, &rows).unwrap_err();
        assert!(matches!(error, EvalError::Diverged { replica: 0, missing: 1, .. }), "{error}");
    }
}
