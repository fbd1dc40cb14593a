//! Sorting by a comparator graph.

use super::machine::{EvalError, Machine, Row};
use super::tensor::{Scalar, Tensor, by_kind};
use crate::ir::Graph;
use std::sync::Arc;

/// Sorts all operands together along `dim`, always stably.
pub(super) fn sort(operands: &[Arc<Tensor>], dim: usize, comparator: &Graph) -> Result<Row, EvalError> {
    let shape = operands[0].shape();
    let (size, inner) = (shape[dim], shape[dim + 1..].iter().product::<usize>());
    let mut order: Vec<usize> = (0..operands[0].ty.elements()).collect();
    let lanes = order.len().checked_div(size).unwrap_or(0);
    for lane in 0..lanes {
        let first = lane / inner * inner * size + lane % inner;
        let places: Vec<usize> = (0..size).map(|i| first + i * inner).collect();
        let sorted = merge_sort(places.clone(), &|a, b| before(operands, comparator, a, b))?;
        places.iter().zip(sorted).for_each(|(&to, from)| order[to] = from);
    }
    Ok(operands.iter().map(|x| Arc::new(by_kind!(x, reordered(x, &order)))).collect())
}

fn reordered<T: Scalar>(x: &Tensor, order: &[usize]) -> Tensor {
    let elements = x.elements::<T>();
    Tensor::exact(x.dtype(), x.shape(), order.iter().map(|&i| elements[i]).collect())
}

/// Whether the comparator says that element `a` comes before element `b`.
fn before(operands: &[Arc<Tensor>], comparator: &Graph, a: usize, b: usize) -> Result<bool, EvalError> {
    fn scalar<T: Scalar>(x: &Tensor, i: usize) -> Tensor {
        Tensor::exact(x.dtype(), [], vec![x.elements::<T>()[i]])
    }
    let scalars = operands.iter().flat_map(|x| [a, b].map(|i| Arc::new(by_kind!(x, scalar(x, i)))));
    let result = Machine { replicas: 1, active: &[0] }.run(comparator, vec![scalars.collect()])?;
    Ok(result[0][0].scalar_int() != 0)
}

/// Stable, and without surprises where `before` is no order (the standard library may panic then).
fn merge_sort<E>(
    items: Vec<usize>,
    before: &impl Fn(usize, usize) -> Result<bool, E>,
) -> Result<Vec<usize>, E> {
    if items.len() < 2 {
        return Ok(items);
    }
    let (left, right) = items.split_at(items.len() / 2);
    let (left, right) = (merge_sort(left.to_vec(), before)?, merge_sort(right.to_vec(), before)?);
    let mut merged = Vec::with_capacity(items.len());
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        if before(right[j], left[i])? {
            merged.push(right[j]);
            j += 1;
        } else {
            merged.push(left[i]);
            i += 1;
        }
    }
    merged.extend(left[i..].iter().chain(&right[j..]));
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use crate::build::Builder;
    use crate::eval::evaluate;
    use crate::ir::{DType, Literal, TensorType};

    fn sorted(dim: usize, descending: bool, keys: &Literal, values: &Literal) -> Vec<Literal> {
        let types = [keys.ty().clone(), values.ty().clone()];
        let graph = Builder::graph(&types, |b, x| b.sort_by_key(x[0], &[x[1]], dim, descending)).unwrap();
        evaluate(&graph, &[keys.clone(), values.clone()]).unwrap()
    }

    #[test]
    fn equal_keys_keep_their_order() {
        let keys = Literal::new([5], &[2i32, 1, 2, 1, 0]).unwrap();
        let values = Literal::new([5], &[0.0f32, 1.0, 2.0, 3.0, 4.0]).unwrap();
        let up = sorted(0, false, &keys, &values);
        assert_eq!(up[0].to_f64(), [0.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(up[1].to_f64(), [4.0, 1.0, 3.0, 0.0, 2.0]);
        let down = sorted(0, true, &keys, &values);
        assert_eq!(down[1].to_f64(), [0.0, 2.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn each_lane_is_sorted_on_its_own() {
        let keys = Literal::new([2, 2], &[3.0f32, 1.0, 2.0, 4.0]).unwrap();
        let values = Literal::new([2, 2], &[0i32, 1, 2, 3]).unwrap();
        assert_eq!(sorted(0, false, &keys, &values)[1].to_f64(), [2.0, 1.0, 0.0, 3.0]);
        assert_eq!(sorted(1, false, &keys, &values)[1].to_f64(), [1.0, 0.0, 2.0, 3.0]);
    }

    #[test]
    fn an_empty_axis_is_sorted() {
        let none = Literal::zeros(TensorType::new(DType::S32, [0, 2]));
        assert_eq!(sorted(0, false, &none, &none), [none.clone(), none.clone()]);
        assert_eq!(sorted(1, false, &none, &none), [none.clone(), none]);
    }

    #[test]
    fn a_comparator_that_is_no_order_still_ends() {
        let x = Literal::new([4], &[f32::NAN, 1.0, f32::NAN, 0.0]).unwrap();
        assert_eq!(sorted(0, false, &x, &x)[0].ty(), x.ty());
    }
}
