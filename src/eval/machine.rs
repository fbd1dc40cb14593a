//! Runs graphs: one environment per replica, node by node, all replicas in step.

use super::tensor::Tensor;
use super::{collective, control, data, elementwise, index, linear, random, sort};
use crate::ir::{Graph, Literal, LiteralError, Node, Op, TensorType, Value};
use std::sync::Arc;

/// A graph could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("the graph takes {expected} inputs, replica {replica} got {found}")]
    InputCount { replica: usize, expected: usize, found: usize },
    #[error("input {index} must be {expected}, replica {replica} got {found}")]
    InputType { replica: usize, index: usize, expected: TensorType, found: TensorType },
    #[error(
        "{op}: replica groups {groups:?} do not divide {replicas} replicas, evaluate as many as they name"
    )]
    Groups { op: &'static str, groups: Vec<Vec<usize>>, replicas: usize },
    #[error("{op}: replica {replica} is named, there are {replicas}")]
    NoReplica { op: &'static str, replica: usize, replicas: usize },
    #[error("{op}: replica {replica} waits for {missing}, which took another branch")]
    Diverged { op: &'static str, replica: usize, missing: usize },
    #[error("internal: {op} computed {computed} for {value}, inference says {inferred}, in scope `{scope}`")]
    ResultType { op: &'static str, value: Value, computed: TensorType, inferred: TensorType, scope: Arc<str> },
    #[error(transparent)]
    Literal(#[from] LiteralError),
}

/// Some values of one replica.
pub(super) type Row = Vec<Arc<Tensor>>;

/// The replicas that run a graph together. Rows are in the order of `active`.
#[derive(Clone, Copy)]
pub(super) struct Machine<'a> {
    /// How many replicas there are in all.
    pub replicas: usize,
    /// Those that run the graph at hand, ascending.
    pub active: &'a [usize],
}

/// See [`super::evaluate_replicas`].
pub(super) fn evaluate(graph: &Graph, inputs: &[Vec<Literal>]) -> Result<Vec<Vec<Literal>>, EvalError> {
    let mut rows = vec![];
    for (replica, literals) in inputs.iter().enumerate() {
        check_inputs(graph, replica, literals)?;
        rows.push(literals.iter().map(|x| Arc::new(Tensor::from_literal(x))).collect());
    }
    let active: Vec<usize> = (0..inputs.len()).collect();
    let outputs = Machine { replicas: inputs.len(), active: &active }.run(graph, rows)?;
    outputs.iter().map(|row| row.iter().map(|x| Ok(x.to_literal()?)).collect()).collect()
}

fn check_inputs(graph: &Graph, replica: usize, literals: &[Literal]) -> Result<(), EvalError> {
    let expected = graph.input_types();
    if expected.len() != literals.len() {
        return Err(EvalError::InputCount { replica, expected: expected.len(), found: literals.len() });
    }
    for (index, (expected, literal)) in expected.into_iter().zip(literals).enumerate() {
        if &expected != literal.ty() {
            return Err(EvalError::InputType { replica, index, expected, found: literal.ty().clone() });
        }
    }
    Ok(())
}

impl Machine<'_> {
    /// The outputs per replica for the inputs per replica.
    pub fn run(&self, graph: &Graph, inputs: Vec<Row>) -> Result<Vec<Row>, EvalError> {
        let last_use = last_uses(graph);
        let mut env: Vec<Vec<Option<Arc<Tensor>>>> = vec![vec![None; graph.num_values()]; inputs.len()];
        for (position, node) in graph.nodes().iter().enumerate() {
            let operands: Vec<Row> = env.iter().map(|env| row(env, &node.operands)).collect();
            for &operand in node.operands.iter().filter(|v| last_use[v.index()] == position) {
                env.iter_mut().for_each(|env| env[operand.index()] = None);
            }
            let results = match &node.op {
                Op::Parameter { index, .. } => inputs.iter().map(|row| vec![row[*index].clone()]).collect(),
                _ => self.step(&node.op, operands)?,
            };
            for (env, results) in env.iter_mut().zip(results) {
                check_results(graph, node, &results)?;
                for (value, result) in node.results.iter().zip(results) {
                    env[value.index()] = Some(result);
                }
            }
        }
        Ok(env.iter().map(|env| row(env, graph.outputs())).collect())
    }

    /// The results of one operation per replica. Takes the operands so that what is not needed any more is freed.
    fn step(&self, op: &Op, operands: Vec<Row>) -> Result<Vec<Row>, EvalError> {
        match op {
            Op::While { cond, body } => control::while_loop(self, cond, body, operands),
            Op::Scan(scan) => control::scan(self, scan, &operands),
            Op::Conditional { branches } => control::conditional(self, branches, operands),
            Op::Call(call) => self.run(&call.body, operands),
            Op::AllReduce { .. }
            | Op::AllGather { .. }
            | Op::ReduceScatter { .. }
            | Op::AllToAll { .. }
            | Op::CollectivePermute { .. }
            | Op::ReplicaId
            | Op::PartitionId => collective::collective(self, op, &operands),
            _ => operands.into_iter().map(|row| local(op, row)).collect(),
        }
    }
}

/// The results of an operation that each replica does on its own.
fn local(op: &Op, x: Row) -> Result<Row, EvalError> {
    let one = |tensor: Tensor| Ok(vec![Arc::new(tensor)]);
    match op {
        Op::OptimizationBarrier | Op::StopGradient => Ok(x),
        Op::Constant(literal) => one(Tensor::from_literal(literal)),
        Op::Iota { ty, dim } => one(data::iota(ty, *dim)),
        Op::Unary(op) => one(elementwise::unary(*op, &x[0])),
        Op::Binary(op) => one(elementwise::binary(*op, &x[0], &x[1])),
        Op::Compare(direction) => one(elementwise::compare(*direction, &x[0], &x[1])),
        Op::Select => one(elementwise::select(&x[0], &x[1], &x[2])),
        Op::Clamp => one(elementwise::clamp(&x[0], &x[1], &x[2])),
        Op::Convert(dtype) => one(elementwise::convert(&x[0], *dtype)),
        Op::BitcastConvert(dtype) => one(elementwise::bitcast(&x[0], *dtype)?),
        Op::BroadcastInDim { shape, dims } => one(data::broadcast_in_dim(&x[0], shape, dims)),
        Op::Reshape { shape } => one(data::reshape(&x[0], shape)),
        Op::Transpose { permutation } => one(data::transpose(&x[0], permutation)),
        Op::Reverse { dims } => one(data::reverse(&x[0], dims)),
        Op::Slice { starts, limits, strides } => one(data::slice(&x[0], starts, limits, strides)),
        Op::Pad { low, high, interior } => one(data::pad(&x[0], &x[1], low, high, interior)),
        Op::Concatenate { dim } => one(data::concatenate(&x, *dim)),
        Op::DotGeneral { dims, result, .. } => one(linear::dot_general(&x[0], &x[1], dims, *result)),
        Op::Reduce { dims, reducer } => {
            Ok(x.iter().map(|x| Arc::new(linear::reduce(x, dims, *reducer))).collect())
        }
        Op::CumSum { dim, exclusive, reverse } => one(linear::cumsum(&x[0], *dim, *exclusive, *reverse)),
        Op::Gather(dims) => one(index::gather(&x[0], &x[1], dims)),
        Op::Scatter { dims, combiner, .. } => one(index::scatter(&x[0], &x[1], &x[2], dims, *combiner)),
        Op::DynamicSlice { sizes } => one(index::dynamic_slice(&x[0], &x[1..], sizes)),
        Op::DynamicUpdateSlice => one(index::dynamic_update_slice(&x[0], &x[1], &x[2..])),
        Op::Sort { dim, comparator, .. } => sort::sort(&x, *dim, comparator),
        Op::RngBitGenerator { algorithm, ty } => Ok(random::rng_bit_generator(*algorithm, &x[0], ty)),
        Op::Parameter { .. }
        | Op::While { .. }
        | Op::Scan(_)
        | Op::Conditional { .. }
        | Op::Call(_)
        | Op::AllReduce { .. }
        | Op::AllGather { .. }
        | Op::ReduceScatter { .. }
        | Op::AllToAll { .. }
        | Op::CollectivePermute { .. }
        | Op::ReplicaId
        | Op::PartitionId => unreachable!("internal: {} is evaluated by all replicas together", op.name()),
    }
}

/// The node after which each value is not read any more; outputs are read after the last.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![usize::MAX; graph.num_values()];
    for (position, node) in graph.nodes().iter().enumerate() {
        node.operands.iter().for_each(|v| last[v.index()] = position);
    }
    graph.outputs().iter().for_each(|v| last[v.index()] = usize::MAX);
    last
}

fn row(env: &[Option<Arc<Tensor>>], values: &[Value]) -> Row {
    let get = |v: &Value| env[v.index()].clone();
    values
        .iter()
        .map(|v| get(v).unwrap_or_else(|| panic!("internal: {v} is read before it is computed")))
        .collect()
}

fn check_results(graph: &Graph, node: &Node, results: &[Arc<Tensor>]) -> Result<(), EvalError> {
    for (&value, result) in node.results.iter().zip(results) {
        let inferred = graph.ty(value);
        if &result.ty != inferred {
            return Err(EvalError::ResultType {
                op: node.op.name(),
                value,
                computed: result.ty.clone(),
                inferred: inferred.clone(),
                scope: node.scope.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{evaluate, evaluate_replicas};
    use super::*;
    use crate::build::Builder;
    use crate::ir::DType;

    fn doubled() -> Graph {
        let ty = TensorType::new(DType::F32, [2]);
        Builder::graph(&[ty], |b, x| Ok(vec![b.add(x[0], x[0])?, x[0]])).unwrap()
    }

    #[test]
    fn outputs_come_in_order_and_may_be_inputs() {
        let x = Literal::new([2], &[1.5f32, -2.0]).unwrap();
        let outputs = evaluate(&doubled(), std::slice::from_ref(&x)).unwrap();
        assert_eq!(outputs, [Literal::new([2], &[3.0f32, -4.0]).unwrap(), x]);
    }

    #[test]
    fn wrong_inputs_are_named() {
        let error = evaluate(&doubled(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "the graph takes 1 inputs, replica 0 got 0");
        let x = Literal::new([3], &[1.0f32; 3]).unwrap();
        let error = evaluate(&doubled(), &[x]).unwrap_err();
        assert_eq!(error.to_string(), "input 0 must be f32[2], replica 0 got f32[3]");
    }

    #[test]
    fn replicas_keep_their_own_values() {
        let row = |v: f32| vec![Literal::new([2], &[v, v]).unwrap()];
        let outputs = evaluate_replicas(&doubled(), &[row(1.0), row(2.0)]).unwrap();
        assert_eq!(outputs[1][0], Literal::new([2], &[4.0f32; 2]).unwrap());
        assert_eq!(outputs[0][1], row(1.0)[0]);
    }
}
