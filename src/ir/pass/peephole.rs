//! Local identities: what an operation is equal to, given the nodes that define its operands.

use crate::ir::graph::{Graph, Value};
use crate::ir::op::{BinaryOp, Op, UnaryOp};
use crate::ir::types::DType;

/// What an operation with one result can be replaced by.
#[derive(Debug, PartialEq)]
pub(super) enum Simpler {
    /// A value that exists.
    Value(Value),
    /// One operation on one operand.
    Op(Op, Value),
}

/// The simpler form of `op` on `operands`, values of `graph`, where there is one.
pub(super) fn simpler(graph: &Graph, op: &Op, operands: &[Value]) -> Option<Simpler> {
    let &x = operands.first()?;
    let same = match op {
        Op::Binary(op) => binary(graph, *op, x, *operands.get(1)?),
        Op::Unary(op @ (UnaryOp::Neg | UnaryOp::Not)) => inverse(graph, *op, x),
        Op::Select => select(graph, operands),
        Op::Convert(dtype) => return convert(graph, *dtype, x),
        Op::BroadcastInDim { shape, dims } => return broadcast(graph, shape, dims, x),
        Op::Reshape { shape } => return reshape(graph, shape, x),
        Op::Transpose { permutation } => return transpose(graph, permutation, x),
        Op::Slice { starts, limits, strides } => {
            let whole = starts.iter().all(|&s| s == 0) && *limits == graph.ty(x).shape;
            (whole && strides.iter().all(|&s| s == 1)).then_some(x)
        }
        Op::Pad { low, high, interior } => {
            let none = low.iter().chain(high).all(|&n| n == 0) && interior.iter().all(|&n| n == 0);
            none.then_some(x)
        }
        Op::Reverse { dims } | Op::Reduce { dims, .. } if operands.len() == 1 => dims.is_empty().then_some(x),
        Op::Concatenate { .. } => (operands.len() == 1).then_some(x),
        _ => None,
    };
    same.map(Simpler::Value)
}

fn binary(graph: &Graph, op: BinaryOp, x: Value, y: Value) -> Option<Value> {
    let is = |v: Value, value: f64| splat(graph, v) == Some(value);
    let bool = graph.ty(x).dtype == DType::Pred;
    // (value of a neutral right operand, whether it is neutral on the left too)
    let (neutral, commutes) = match op {
        BinaryOp::Add => (0.0, true),
        BinaryOp::Sub => (0.0, false),
        BinaryOp::Mul => (1.0, true),
        BinaryOp::Div => (1.0, false),
        BinaryOp::Or | BinaryOp::Xor => (0.0, true),
        BinaryOp::And if bool => (1.0, true),
        BinaryOp::ShiftLeft | BinaryOp::ShiftRight => (0.0, false),
        BinaryOp::Max | BinaryOp::Min if x == y => return Some(x),
        BinaryOp::And if x == y => return Some(x),
        BinaryOp::And | BinaryOp::Max | BinaryOp::Min | BinaryOp::Rem | BinaryOp::Pow => return None,
    };
    if is(y, neutral) {
        return Some(x);
    }
    (commutes && is(x, neutral)).then_some(y)
}

/// `-(-x)`, `!(!x)`.
fn inverse(graph: &Graph, op: UnaryOp, x: Value) -> Option<Value> {
    let inner = graph.node(x);
    (inner.op == Op::Unary(op)).then(|| inner.operands[0])
}

fn select(graph: &Graph, operands: &[Value]) -> Option<Value> {
    let [pred, on_true, on_false] = *operands else { return None };
    if on_true == on_false {
        return Some(on_true);
    }
    splat(graph, pred).map(|value| if value != 0.0 { on_true } else { on_false })
}

fn convert(graph: &Graph, dtype: DType, x: Value) -> Option<Simpler> {
    if graph.ty(x).dtype == dtype {
        return Some(Simpler::Value(x));
    }
    let inner = graph.node(x);
    let Op::Convert(through) = inner.op else { return None };
    let source = inner.operands[0];
    let from = graph.ty(source).dtype;
    if !is_exact(from, through) {
        return None;
    }
    Some(if from == dtype { Simpler::Value(source) } else { Simpler::Op(Op::Convert(dtype), source) })
}

/// Whether every value of `from` is one of `to`, so that a later conversion gives what a direct one would.
fn is_exact(from: DType, to: DType) -> bool {
    use DType::{Bf16, F16, F32, F64, S8, S32, S64, U8, U32, U64};
    matches!(
        (from, to),
        (F16 | Bf16, F32 | F64)
            | (F32, F64)
            | (S8, S32 | S64)
            | (S32, S64)
            | (U8, S32 | S64 | U32 | U64)
            | (U32, S64 | U64)
    )
}

fn broadcast(graph: &Graph, shape: &[usize], dims: &[usize], x: Value) -> Option<Simpler> {
    if graph.ty(x).shape == shape {
        return Some(Simpler::Value(x));
    }
    let inner = graph.node(x);
    let Op::BroadcastInDim { dims: first, .. } = &inner.op else { return None };
    let dims = first.iter().map(|&d| dims[d]).collect();
    Some(Simpler::Op(Op::BroadcastInDim { shape: shape.into(), dims }, inner.operands[0]))
}

fn reshape(graph: &Graph, shape: &[usize], x: Value) -> Option<Simpler> {
    if graph.ty(x).shape == shape {
        return Some(Simpler::Value(x));
    }
    let inner = graph.node(x);
    if !matches!(inner.op, Op::Reshape { .. }) {
        return None;
    }
    let source = inner.operands[0];
    if graph.ty(source).shape == shape {
        return Some(Simpler::Value(source));
    }
    Some(Simpler::Op(Op::Reshape { shape: shape.into() }, source))
}

fn transpose(graph: &Graph, permutation: &[usize], x: Value) -> Option<Simpler> {
    let is_identity = |p: &[usize]| p.iter().copied().eq(0..p.len());
    if is_identity(permutation) {
        return Some(Simpler::Value(x));
    }
    let inner = graph.node(x);
    let Op::Transpose { permutation: first } = &inner.op else { return None };
    let joined: Vec<usize> = permutation.iter().map(|&p| first[p]).collect();
    if is_identity(&joined) {
        return Some(Simpler::Value(inner.operands[0]));
    }
    Some(Simpler::Op(Op::Transpose { permutation: joined }, inner.operands[0]))
}

/// The one number that all elements of a value are, where it comes from a constant scalar.
fn splat(graph: &Graph, value: Value) -> Option<f64> {
    let mut node = graph.node(value);
    while let Op::BroadcastInDim { .. } | Op::Reshape { .. } = node.op {
        node = graph.node(node.operands[0]);
    }
    match &node.op {
        Op::Constant(literal) if literal.ty().elements() == 1 => literal.to_f64().first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{prune, simplify};
    use super::*;
    use crate::build::{BuildError, Builder};
    use crate::ir::{Reducer, TensorType, verify};

    fn ty(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    /// The operations left between the input, of shape [2,3], and the output.
    fn left(body: impl FnOnce(&mut Builder, Value) -> Result<Value, BuildError>) -> Vec<Op> {
        let graph = Builder::graph(&[ty(&[2, 3])], |b, x| Ok(vec![body(b, x[0])?])).unwrap();
        let simple = prune(&simplify(&graph));
        verify(&simple).unwrap();
        assert_eq!(simple.output_types(), graph.output_types());
        simple.nodes()[1..].iter().map(|n| n.op.clone()).collect()
    }

    #[test]
    fn neutral_operands_vanish() {
        assert_eq!(left(|b, x| b.add_scalar(x, 0.0)), []);
        assert_eq!(left(|b, x| b.one(Op::Convert(DType::F32), &[x])), []);
        let one = |b: &mut Builder, x| b.full_like(x, 1.0);
        assert_eq!(left(|b, x| one(b, x).and_then(|c| b.mul(c, x))), []);
        assert_eq!(left(|b, x| one(b, x).and_then(|c| b.div(x, c))), []);
        assert_eq!(left(|b, x| b.reduce(x, &[], Reducer::Add)), []);
        assert_eq!(left(|b, x| b.slice(x, &[0, 0], &[2, 3], &[1, 1])), []);
        assert_eq!(left(|b, x| b.neg(x).and_then(|y| b.neg(y))), []);
    }

    #[test]
    fn one_over_x_and_zero_minus_x_stay() {
        assert_eq!(left(|b, x| b.full_like(x, 1.0).and_then(|c| b.div(c, x))).len(), 3);
        assert_eq!(left(|b, x| b.zeros(&ty(&[2, 3])).and_then(|c| b.sub(c, x))).len(), 3);
    }

    #[test]
    fn reshapes_join_and_cancel() {
        let shape = vec![6, 1];
        assert_eq!(
            left(|b, x| b.reshape(x, &[6]).and_then(|y| b.reshape(y, &[6, 1]))),
            [Op::Reshape { shape }]
        );
        assert_eq!(left(|b, x| b.reshape(x, &[6]).and_then(|y| b.reshape(y, &[2, 3]))), []);
    }

    #[test]
    fn transposes_join_in_order() {
        // [2,3] -> [2,1,3] by (1,0,2) gives [1,2,3]; then (2,0,1) gives [3,1,2]: axes 2, 1, 0 of [2,1,3].
        let ops = left(|b, x| {
            let wide = b.expand_dim(x, 1)?;
            let once = b.transpose(wide, &[1, 0, 2])?;
            b.transpose(once, &[2, 0, 1])
        });
        assert_eq!(ops[1..], [Op::Transpose { permutation: vec![2, 1, 0] }]);
        assert_eq!(left(|b, x| b.transpose(x, &[1, 0]).and_then(|y| b.transpose(y, &[1, 0]))), []);
    }

    #[test]
    fn broadcasts_join() {
        let ops = left(|b, x| {
            let wide = b.broadcast_in_dim(x, &[2, 4, 3], &[0, 2])?;
            b.broadcast_in_dim(wide, &[5, 2, 4, 3], &[1, 2, 3])
        });
        assert_eq!(ops, [Op::BroadcastInDim { shape: vec![5, 2, 4, 3], dims: vec![1, 3] }]);
    }

    #[test]
    fn converting_out_and_back_cancels_only_where_it_is_exact() {
        assert_eq!(left(|b, x| b.convert(x, DType::F64).and_then(|y| b.convert(y, DType::F32))), []);
        assert_eq!(left(|b, x| b.convert(x, DType::Bf16).and_then(|y| b.convert(y, DType::F32))).len(), 2);
    }

    #[test]
    fn a_constant_condition_selects_its_branch() {
        let ops = left(|b, x| {
            let (y, no) = (b.exp(x)?, b.full(&ty(&[2, 3]).with_dtype(DType::Pred), 0.0)?);
            b.select(no, x, y)
        });
        assert_eq!(ops, [Op::Unary(UnaryOp::Exp)]);
    }
}
