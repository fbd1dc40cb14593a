//! Sorting moves elements by a permutation; the rule finds it and moves the cotangents back.

use super::rule::{Pulled, Site};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Graph, Op, TensorType, Value};
use std::sync::Arc;

pub(super) fn sort(
    site: &mut Site,
    op: &Op,
    dim: usize,
    (comparator, stable): (&Arc<Graph>, bool),
) -> Pulled {
    if !stable {
        // Sorting again might place equal keys otherwise than the forward pass did.
        return Err(site.no_derivative(op, "sort stably"));
    }
    let origin = permutation(site.b, &site.operands, dim, comparator)?;
    let wanted: Vec<usize> = (0..site.operands.len()).filter(|&i| site.active[i]).collect();
    let moved: Vec<(usize, Value)> =
        wanted.into_iter().filter_map(|i| site.cotangents[i].map(|g| (i, g))).collect();
    let cotangents: Vec<Value> = moved.iter().map(|&(_, g)| g).collect();
    // Sorting by where an element came from puts it back.
    let back = site.b.sort_by_key(origin, &cotangents, dim, false)?;
    let mut pulled = vec![None; site.operands.len()];
    for (&(i, _), &cotangent) in moved.iter().zip(&back[1..]) {
        pulled[i] = Some(cotangent);
    }
    Ok(pulled)
}

/// `s32`: where along `dim` each sorted element came from.
fn permutation(
    b: &mut Builder,
    operands: &[Value],
    dim: usize,
    comparator: &Graph,
) -> Result<Value, BuildError> {
    let position = TensorType::new(DType::S32, b.shape(operands[0]));
    let position = b.iota(position, dim)?;
    let scalars = [comparator.input_types(), vec![TensorType::scalar(DType::S32); 2]].concat();
    let comparator = b.subgraph(&scalars, |b, s| b.inline(comparator, &s[..s.len() - 2]))?;
    let sort = Op::Sort { dim, comparator: Arc::new(comparator), stable: true };
    let sorted = b.insert(sort, &[operands, &[position]].concat())?;
    sorted.last().copied().ok_or_else(|| BuildError::Invalid("internal: a sort without results".into()))
}
