//! Composites that every layer needs.

use super::{BuildError, Builder};
use crate::ir::*;

type Built = Result<Value, BuildError>;

impl Builder {
    /// A scalar constant.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Built {
        self.constant(Literal::scalar_of(dtype, value))
    }

    /// A tensor with this value everywhere.
    pub fn full(&mut self, ty: &TensorType, value: f64) -> Built {
        let scalar = self.scalar(ty.dtype, value)?;
        self.broadcast_in_dim(scalar, &ty.shape, &[])
    }

    pub fn zeros(&mut self, ty: &TensorType) -> Built {
        self.full(ty, 0.0)
    }

    /// A tensor of the type of `x` with this value everywhere.
    pub fn full_like(&mut self, x: Value, value: f64) -> Built {
        let ty = self.ty(x).clone();
        self.full(&ty, value)
    }

    #[track_caller]
    pub fn add_scalar(&mut self, x: Value, value: f64) -> Built {
        let c = self.full_like(x, value)?;
        self.add(x, c)
    }

    #[track_caller]
    pub fn mul_scalar(&mut self, x: Value, value: f64) -> Built {
        if value == 1.0 {
            return Ok(x);
        }
        let c = self.full_like(x, value)?;
        self.mul(x, c)
    }

    #[track_caller]
    pub fn square(&mut self, x: Value) -> Built {
        self.mul(x, x)
    }

    /// Repeats a scalar value over the shape of `like`.
    #[track_caller]
    pub fn splat(&mut self, scalar: Value, like: Value) -> Built {
        let shape = self.shape(like);
        self.broadcast_in_dim(scalar, &shape, &[])
    }

    /// Multiplies every element by a scalar value.
    #[track_caller]
    pub fn scale(&mut self, x: Value, scalar: Value) -> Built {
        let s = self.splat(scalar, x)?;
        self.mul(x, s)
    }

    #[track_caller]
    pub fn sum(&mut self, x: Value, dims: &[usize]) -> Built {
        self.reduce(x, dims, Reducer::Add)
    }

    /// The sums of tensors of one type, in one pass over all of them.
    #[track_caller]
    pub fn sums(&mut self, xs: &[Value], dims: &[usize]) -> Result<Vec<Value>, BuildError> {
        self.insert(Op::Reduce { dims: dims.into(), reducer: Reducer::Add }, xs)
    }

    /// The sum over all axes: a scalar.
    #[track_caller]
    pub fn sum_all(&mut self, x: Value) -> Built {
        let dims: Vec<usize> = (0..self.ty(x).rank()).collect();
        self.sum(x, &dims)
    }

    #[track_caller]
    pub fn mean(&mut self, x: Value, dims: &[usize]) -> Built {
        let count: usize = dims.iter().filter_map(|&d| self.ty(x).shape.get(d)).product();
        let sum = self.sum(x, dims)?;
        self.mul_scalar(sum, 1.0 / count.max(1) as f64)
    }

    #[track_caller]
    pub fn mean_all(&mut self, x: Value) -> Built {
        let dims: Vec<usize> = (0..self.ty(x).rank()).collect();
        self.mean(x, &dims)
    }

    /// Undoes a reduction over `dims` of a tensor of `shape`: repeats along them.
    #[track_caller]
    pub fn unreduce(&mut self, x: Value, shape: &[usize], dims: &[usize]) -> Built {
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
        self.broadcast_in_dim(x, shape, &kept)
    }

    /// `softmax` over the last axis, in the element type of `x`.
    #[track_caller]
    pub fn softmax(&mut self, x: Value) -> Built {
        let [exp, sum] = self.exponentials(x)?;
        let shape = self.shape(x);
        let sum = self.unreduce(sum, &shape, &[shape.len().saturating_sub(1)])?;
        self.div(exp, sum)
    }

    /// The softmax in two: `exp(x - max)`, and its sums over the last axis. The maximum counts as a constant.
    #[track_caller]
    pub fn exponentials(&mut self, x: Value) -> Result<[Value; 2], BuildError> {
        let shape = self.shape(x);
        let last = [shape.len().saturating_sub(1)];
        let max = self.reduce(x, &last, Reducer::Max)?;
        let max = self.stop_gradient(max)?;
        let max = self.unreduce(max, &shape, &last)?;
        let shifted = self.sub(x, max)?;
        let exp = self.exp(shifted)?;
        Ok([exp, self.sum(exp, &last)?])
    }

    /// `log(sum(exp(x)))` over the last axis, without overflow.
    #[track_caller]
    pub fn logsumexp(&mut self, x: Value) -> Built {
        let shape = self.shape(x);
        let last = [shape.len().saturating_sub(1)];
        let max = self.reduce(x, &last, Reducer::Max)?;
        let max = self.stop_gradient(max)?;
        let wide = self.unreduce(max, &shape, &last)?;
        let shifted = self.sub(x, wide)?;
        let exp = self.exp(shifted)?;
        let sum = self.sum(exp, &last)?;
        let log = self.log(sum)?;
        self.add(log, max)
    }

    /// The lowest index of the greatest element of the last axis: `s32`.
    #[track_caller]
    pub fn argmax(&mut self, x: Value) -> Built {
        let shape = self.shape(x);
        let last = [shape.len().saturating_sub(1)];
        let x = self.stop_gradient(x)?;
        let max = self.reduce(x, &last, Reducer::Max)?;
        let max = self.unreduce(max, &shape, &last)?;
        let is_max = self.compare(Direction::Ge, x, max)?;
        let ty = TensorType::new(DType::S32, shape.clone());
        let index = self.iota(ty.clone(), last[0])?;
        let none = self.full(&ty, shape[last[0]].saturating_sub(1) as f64)?;
        let index = self.select(is_max, index, none)?;
        self.reduce(index, &last, Reducer::Min)
    }

    /// 1 where the new last axis equals the index, else 0; all 0 for an index out of range.
    #[track_caller]
    pub fn one_hot(&mut self, indices: Value, size: usize, dtype: DType) -> Built {
        let hot = self.one_hot_mask(indices, size)?;
        self.convert(hot, dtype)
    }

    /// As [`Builder::one_hot`], as `pred`.
    #[track_caller]
    pub fn one_hot_mask(&mut self, indices: Value, size: usize) -> Built {
        let ty = self.ty(indices).clone();
        let shape = [&ty.shape[..], &[size]].concat();
        let wide = self.unreduce(indices, &shape, &[ty.rank()])?;
        let index = self.iota(TensorType::new(ty.dtype, shape), ty.rank())?;
        self.compare(Direction::Eq, wide, index)
    }

    /// `pred ? x : value`.
    #[track_caller]
    pub fn mask(&mut self, pred: Value, x: Value, value: f64) -> Built {
        let other = self.full_like(x, value)?;
        self.select(pred, x, other)
    }

    /// Compares with a constant.
    #[track_caller]
    pub fn compare_scalar(&mut self, direction: Direction, x: Value, value: f64) -> Built {
        let c = self.full_like(x, value)?;
        self.compare(direction, x, c)
    }

    /// Elements `start..limit` of one axis.
    #[track_caller]
    pub fn slice_axis(&mut self, x: Value, dim: usize, start: usize, limit: usize) -> Built {
        let mut limits = self.shape(x);
        let mut starts = vec![0; limits.len()];
        let strides = vec![1; limits.len()];
        if let (Some(s), Some(l)) = (starts.get_mut(dim), limits.get_mut(dim)) {
            (*s, *l) = (start, limit);
        }
        self.slice(x, &starts, &limits, &strides)
    }

    /// Adds an axis of size one.
    #[track_caller]
    pub fn expand_dim(&mut self, x: Value, dim: usize) -> Built {
        let mut shape = self.shape(x);
        shape.insert(dim.min(shape.len()), 1);
        self.reshape(x, &shape)
    }

    /// Stacks values along a new leading axis.
    #[track_caller]
    pub fn stack(&mut self, xs: &[Value]) -> Built {
        let rows: Vec<Value> = xs.iter().map(|&x| self.expand_dim(x, 0)).collect::<Result<_, _>>()?;
        self.concatenate(&rows, 0)
    }

    /// The elements along the leading axis. The derivative stacks the cotangents, once for all of them.
    #[track_caller]
    pub fn unstack(&mut self, x: Value) -> Result<Vec<Value>, BuildError> {
        let shape = self.shape(x);
        let (Some(&length), element) = (shape.first(), shape.get(1..).unwrap_or_default()) else {
            return Err(BuildError::Invalid("unstack: operand has no axis".into()));
        };
        let split = |b: &mut Builder, x: Value| -> Result<Vec<Value>, BuildError> {
            (0..length)
                .map(|i| {
                    let row = b.slice_axis(x, 0, i, i + 1)?;
                    b.reshape(row, element)
                })
                .collect()
        };
        if !self.dtype(x).is_float() {
            return split(self, x);
        }
        self.custom_vjp(
            "unstack",
            &[x],
            |b, x| Ok((split(b, x[0])?, vec![])),
            |b, args| Ok(vec![b.stack(args.cotangents)?]),
        )
    }

    /// Rows of a table: `table[n, ..]`, `indices[i..]` -> `[i.., ..]`. Indices are clamped.
    #[track_caller]
    pub fn take_rows(&mut self, table: Value, indices: Value) -> Built {
        let row = self.ty(table).shape.get(1..).unwrap_or_default().to_vec();
        let batch = self.ty(indices).rank();
        let dims = GatherDims {
            offset_dims: (batch..batch + row.len()).collect(),
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0],
            index_vector_dim: batch,
            slice_sizes: [&[1][..], &row].concat(),
            ..Default::default()
        };
        self.gather(table, indices, dims)
    }

    /// Rows per group: `x[g, n, ..]`, `indices[g, i..]` -> `[g, i.., ..]`. Indices are clamped.
    #[track_caller]
    pub fn take_rows_grouped(&mut self, x: Value, indices: Value) -> Built {
        let row = self.ty(x).shape.get(2..).unwrap_or_default().to_vec();
        let batch = self.ty(indices).rank();
        let dims = GatherDims {
            offset_dims: (batch..batch + row.len()).collect(),
            collapsed_slice_dims: vec![1],
            start_index_map: vec![1],
            operand_batching_dims: vec![0],
            start_indices_batching_dims: vec![0],
            index_vector_dim: batch,
            slice_sizes: [&[1, 1][..], &row].concat(),
        };
        self.gather(x, indices, dims)
    }
}
