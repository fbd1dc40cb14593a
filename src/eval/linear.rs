//! Products, reductions and prefix sums. Floats are accumulated in `f64` and rounded once.

use super::data::transpose;
use super::elementwise::{float_binary, int_binary};
use super::tensor::{Data, Tensor};
use crate::ir::{DType, DotDims, Reducer};
use ndarray::ArrayView2;

/// The sizes of a product of stacked matrices.
#[derive(Clone, Copy)]
struct Product {
    batch: usize,
    rows: usize,
    columns: usize,
    depth: usize,
}

pub(super) fn dot_general(lhs: &Tensor, rhs: &Tensor, dims: &DotDims, result: DType) -> Tensor {
    let lhs_free = free(lhs, &dims.lhs_batch, &dims.lhs_contracting);
    let rhs_free = free(rhs, &dims.rhs_batch, &dims.rhs_contracting);
    let sizes = |x: &Tensor, axes: &[usize]| -> Vec<usize> { axes.iter().map(|&d| x.shape()[d]).collect() };
    let shape = [sizes(lhs, &dims.lhs_batch), sizes(lhs, &lhs_free), sizes(rhs, &rhs_free)].concat();
    let product = Product {
        batch: sizes(lhs, &dims.lhs_batch).iter().product(),
        rows: sizes(lhs, &lhs_free).iter().product(),
        columns: sizes(rhs, &rhs_free).iter().product(),
        depth: sizes(lhs, &dims.lhs_contracting).iter().product(),
    };
    let a = transpose(lhs, &[&dims.lhs_batch[..], &lhs_free, &dims.lhs_contracting].concat());
    let b = transpose(rhs, &[&dims.rhs_batch[..], &dims.rhs_contracting, &rhs_free].concat());
    match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => Tensor::fitted(result, shape, float_product(a, b, product)),
        _ => Tensor::fitted(result, shape, int_product(a.ints(), b.ints(), product)),
    }
}

fn free(x: &Tensor, batch: &[usize], contracting: &[usize]) -> Vec<usize> {
    (0..x.shape().len()).filter(|d| !batch.contains(d) && !contracting.contains(d)).collect()
}

fn float_product(a: &[f64], b: &[f64], p: Product) -> Vec<f64> {
    let mut result = Vec::with_capacity(p.batch * p.rows * p.columns);
    for i in 0..p.batch {
        let a = &a[i * p.rows * p.depth..][..p.rows * p.depth];
        let b = &b[i * p.depth * p.columns..][..p.depth * p.columns];
        let views = ArrayView2::from_shape((p.rows, p.depth), a)
            .and_then(|a| Ok((a, ArrayView2::from_shape((p.depth, p.columns), b)?)));
        let (a, b) = views.unwrap_or_else(|error| panic!("internal: matrix of other size: {error}"));
        result.extend(a.dot(&b).iter());
    }
    result
}

/// Modulo 2^128, from which every width is cut.
fn int_product(a: &[i128], b: &[i128], p: Product) -> Vec<i128> {
    let mut result = Vec::with_capacity(p.batch * p.rows * p.columns);
    for i in 0..p.batch {
        for row in 0..p.rows {
            for column in 0..p.columns {
                let a = &a[(i * p.rows + row) * p.depth..][..p.depth];
                let terms = a
                    .iter()
                    .enumerate()
                    .map(|(k, a)| a.wrapping_mul(b[(i * p.depth + k) * p.columns + column]));
                result.push(terms.fold(0, i128::wrapping_add));
            }
        }
    }
    result
}

pub(super) fn reduce(x: &Tensor, dims: &[usize], reducer: Reducer) -> Tensor {
    let kept: Vec<usize> = (0..x.shape().len()).filter(|d| !dims.contains(d)).collect();
    let shape: Vec<usize> = kept.iter().map(|&d| x.shape()[d]).collect();
    let sorted = transpose(x, &[&kept[..], dims].concat());
    let run: usize = dims.iter().map(|&d| x.shape()[d]).product();
    let neutral = Tensor::from_literal(&reducer.neutral(x.dtype()));
    let (op, dtype) = (reducer.binary(), x.dtype());
    let rows = 0..shape.iter().product();
    match (&sorted.data, &neutral.data) {
        (Data::Float(x), Data::Float(neutral)) => {
            let fold = |row: &[f64]| row.iter().fold(neutral[0], |a, &b| float_binary(op, a, b));
            Tensor::fitted(dtype, shape, rows.map(|row: usize| fold(&x[row * run..][..run])).collect())
        }
        _ => {
            let (x, neutral) = (sorted.ints(), neutral.scalar_int());
            let fold = |row: &[i128]| {
                row.iter().fold(neutral, |a, &b| super::tensor::wrap(int_binary(op, a, b, dtype), dtype))
            };
            Tensor::exact(dtype, shape, rows.map(|row: usize| fold(&x[row * run..][..run])).collect())
        }
    }
}

pub(super) fn cumsum(x: &Tensor, dim: usize, exclusive: bool, reverse: bool) -> Tensor {
    let size = x.shape()[dim];
    let inner: usize = x.shape()[dim + 1..].iter().product();
    let along = Along { size, inner, exclusive, reverse };
    match &x.data {
        Data::Float(elements) => Tensor::fitted(x.dtype(), x.shape(), along.sums(elements, |a, b| a + b)),
        Data::Int(elements) => Tensor::fitted(x.dtype(), x.shape(), along.sums(elements, i128::wrapping_add)),
    }
}

/// One axis of a row-major tensor, and which way to sum along it.
struct Along {
    size: usize,
    inner: usize,
    exclusive: bool,
    reverse: bool,
}

impl Along {
    fn sums<T: Copy + Default>(&self, x: &[T], add: impl Fn(T, T) -> T) -> Vec<T> {
        let mut result = vec![T::default(); x.len()];
        let lanes = x.len().checked_div(self.size).unwrap_or(0);
        for lane in 0..lanes {
            let first = lane / self.inner * self.inner * self.size + lane % self.inner;
            let mut sum = T::default();
            for step in 0..self.size {
                let i = first + self.inner * if self.reverse { self.size - 1 - step } else { step };
                let before = sum;
                sum = add(sum, x[i]);
                result[i] = if self.exclusive { before } else { sum };
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s32(shape: &[usize], x: &[i128]) -> Tensor {
        Tensor::exact(DType::S32, shape, x.to_vec())
    }

    #[test]
    fn product_puts_batch_then_left_then_right() {
        // Two matrices [2 x 1] times [1 x 2], batch last in the left operand.
        let lhs = Tensor::exact(DType::F32, [2, 1, 2], vec![1.0, 10.0, 2.0, 20.0]);
        let rhs = Tensor::exact(DType::F32, [2, 1, 2], vec![3.0, 4.0, 5.0, 6.0]);
        let dims = DotDims {
            lhs_batch: vec![2],
            rhs_batch: vec![0],
            lhs_contracting: vec![1],
            rhs_contracting: vec![1],
        };
        let y = dot_general(&lhs, &rhs, &dims, DType::F32);
        assert_eq!(y.shape(), [2, 2, 2]);
        assert_eq!(y.floats(), [3.0, 4.0, 6.0, 8.0, 50.0, 60.0, 100.0, 120.0]);
    }

    #[test]
    fn product_over_nothing_is_zero_and_integers_wrap() {
        let dims = DotDims { lhs_contracting: vec![0], rhs_contracting: vec![0], ..Default::default() };
        let none = Tensor::exact(DType::F32, [0, 2], Vec::<f64>::new());
        assert_eq!(dot_general(&none, &none, &dims, DType::F32).floats(), [0.0; 4]);
        let x = Tensor::exact(DType::S8, [2], vec![100i128, 100]);
        assert_eq!(dot_general(&x, &x, &dims, DType::S32).ints(), [20000]);
        // 20000 = 78 * 256 + 32
        assert_eq!(dot_general(&x, &x, &dims, DType::S8).ints(), [32]);
    }

    #[test]
    fn reductions_fold_their_axes() {
        let x = s32(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(reduce(&x, &[0], Reducer::Add).ints(), [5, 7, 9]);
        assert_eq!(reduce(&x, &[1], Reducer::Max).ints(), [3, 6]);
        assert_eq!(reduce(&x, &[1, 0], Reducer::Mul).ints(), [720]);
        assert_eq!(reduce(&x, &[], Reducer::Min).ints(), x.ints());
        assert_eq!(reduce(&x, &[1], Reducer::And).ints(), [0, 4]);
        assert_eq!(reduce(&x, &[1], Reducer::Or).ints(), [3, 7]);
    }

    #[test]
    fn reduction_of_nothing_is_neutral() {
        let none = s32(&[0, 2], &[]);
        assert_eq!(reduce(&none, &[0], Reducer::Max).ints(), [i32::MIN.into(); 2]);
        let none = Tensor::exact(DType::F32, [0], Vec::<f64>::new());
        assert_eq!(reduce(&none, &[0], Reducer::Min).floats(), [f64::INFINITY]);
    }

    #[test]
    fn sums_are_rounded_once() {
        // In f32 one step at a time, 2^24 + 1 + 1 stays 2^24.
        let x = Tensor::exact(DType::F32, [3], vec![16_777_216.0, 1.0, 1.0]);
        assert_eq!(reduce(&x, &[0], Reducer::Add).floats(), [16_777_218.0]);
    }

    #[test]
    fn prefix_sums_go_either_way_with_or_without_the_element() {
        let x = s32(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(cumsum(&x, 1, false, false).ints(), [1, 3, 6, 4, 9, 15]);
        assert_eq!(cumsum(&x, 1, true, false).ints(), [0, 1, 3, 0, 4, 9]);
        assert_eq!(cumsum(&x, 1, false, true).ints(), [6, 5, 3, 15, 11, 6]);
        assert_eq!(cumsum(&x, 1, true, true).ints(), [5, 3, 0, 11, 6, 0]);
        assert_eq!(cumsum(&x, 0, false, false).ints(), [1, 2, 3, 5, 7, 9]);
        assert_eq!(cumsum(&s32(&[0, 2], &[]), 0, false, false).ints(), []);
        assert_eq!(cumsum(&s32(&[2, 0], &[]), 0, false, false).ints(), []);
    }
}
