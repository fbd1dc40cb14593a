//! Products that sum over several dimensions.

use super::rebuild::{Memo, Rebuild};
use crate::ir::graph::{Graph, Node, Value};
use crate::ir::op::{DotDims, Op};
use std::sync::Arc;

/// The graph with products that sum over neighbouring dimensions as products that sum over one, in subgraphs too: `[b, l, d]` times
/// `[b, l, f]` over `b` and `l` is `[b l, d]` times `[b l, f]`.
///
/// A compiler that knows products over one dimension alone would transpose both operands to get there. One that knows more may
/// keep them in an order that joining would have to undo.
pub fn join_contractions(graph: &Graph) -> Graph {
    join(graph, &mut Memo::default())
}

fn join(graph: &Graph, memo: &mut Memo) -> Graph {
    let mut to = Rebuild::new(graph);
    for node in graph.nodes() {
        let operands = to.get_all(&node.operands);
        match joined(&node.op) {
            Some((op, dims)) => {
                let lhs = reshaped(&mut to.out, node, operands[0], &dims.lhs_contracting);
                let rhs = reshaped(&mut to.out, node, operands[1], &dims.rhs_contracting);
                to.put(node, op, vec![lhs, rhs]);
            }
            None => {
                let op = node.op.map_subgraphs(&mut |g| memo.visit(g, &mut join));
                to.put(node, op, operands);
            }
        }
    }
    to.finish()
}

/// The product over one dimension, where there is one, and the dimensions of the old one.
fn joined(op: &Op) -> Option<(Op, &DotDims)> {
    let Op::DotGeneral { dims, precision, result } = op else { return None };
    let neighbours = |dims: &[usize]| dims.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let (lhs, rhs) = (&dims.lhs_contracting, &dims.rhs_contracting);
    if lhs.len() < 2 || !neighbours(lhs) || !neighbours(rhs) {
        return None;
    }
    let one = DotDims {
        lhs_batch: moved(&dims.lhs_batch, lhs),
        rhs_batch: moved(&dims.rhs_batch, rhs),
        lhs_contracting: vec![lhs[0]],
        rhs_contracting: vec![rhs[0]],
    };
    Some((Op::DotGeneral { dims: one, precision: *precision, result: *result }, dims))
}

/// Where dimensions are found after neighbours have become one.
fn moved(dims: &[usize], neighbours: &[usize]) -> Vec<usize> {
    dims.iter().map(|&dim| if dim > neighbours[0] { dim + 1 - neighbours.len() } else { dim }).collect()
}

/// `x` with neighbouring dimensions as one.
fn reshaped(out: &mut Graph, node: &Node, x: Value, dims: &[usize]) -> Value {
    let mut ty = out.ty(x).clone();
    let size = dims.iter().map(|&dim| ty.shape[dim]).product();
    ty.shape.splice(dims[0]..dims[0] + dims.len(), [size]);
    out.push(Op::Reshape { shape: ty.shape.clone() }, vec![x], vec![ty], Arc::clone(&node.scope))[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Builder, ScanInputs};
    use crate::eval::evaluate;
    use crate::ir::{DType, Literal, TensorType, verify};

    fn contractions(graph: &Graph) -> Vec<usize> {
        let count = |op: &Op| match op {
            Op::DotGeneral { dims, .. } => Some(dims.lhs_contracting.len()),
            _ => None,
        };
        graph.nodes().iter().filter_map(|node| count(&node.op)).collect()
    }

    fn wave(shape: [usize; 3]) -> Literal {
        let data: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32).sin()).collect();
        Literal::new(shape, &data).unwrap()
    }

    #[test]
    fn neighbours_become_one_dimension_and_the_rest_stays() {
        let types = [[2, 3, 4], [2, 3, 5], [3, 2, 5]].map(|shape| TensorType::new(DType::F32, shape));
        let graph = Builder::graph(&types, |b, x| {
            let weights = b.einsum("bld,blf->df", x[0], x[1])?;
            let crossed = b.einsum("bld,lbf->df", x[0], x[2])?;
            let batched = b.einsum("bld,blf->bdf", x[0], x[1])?;
            Ok(vec![weights, crossed, batched])
        });
        let graph = graph.unwrap();
        let found = join_contractions(&graph);
        verify(&found).unwrap();
        assert_eq!(contractions(&graph), [2, 2, 1]);
        assert_eq!(contractions(&found), [1, 2, 1]);
        let inputs = [wave([2, 3, 4]), wave([2, 3, 5]), wave([3, 2, 5])];
        assert_eq!(evaluate(&found, &inputs).unwrap(), evaluate(&graph, &inputs).unwrap());
    }

    #[test]
    fn bodies_of_loops_are_reached_and_batch_dimensions_move() {
        let types = [[2, 3, 4], [2, 3, 4]].map(|shape| TensorType::new(DType::F32, shape));
        let graph = Builder::graph(&types, |b, x| {
            let inputs = ScanInputs { carry: x, length: 2, ..Default::default() };
            let (carry, _) = b.scan(inputs, |b, _, carry, _| {
                let sums = b.einsum("xyz,xyz->z", carry[0], carry[1])?;
                let shape = b.shape(carry[0]);
                let sums = b.broadcast_in_dim(sums, &shape, &[2])?;
                Ok((vec![b.sin(sums)?, carry[1]], vec![]))
            })?;
            Ok(carry)
        });
        let graph = graph.unwrap();
        let found = join_contractions(&graph);
        verify(&found).unwrap();
        let body = |graph: &Graph| {
            contractions(
                graph.nodes().iter().find_map(|n| n.op.subgraphs().first().map(|(_, g)| *g)).unwrap(),
            )
        };
        assert_eq!((body(&graph), body(&found)), (vec![2], vec![1]));
        let inputs = [wave([2, 3, 4]), wave([2, 3, 4])];
        assert_eq!(evaluate(&found, &inputs).unwrap(), evaluate(&graph, &inputs).unwrap());
    }
}
