//! Collectives along mesh axes. Along axes of size 1 there is nothing to exchange, and the value itself is returned.
//!
//! Derivatives follow [`crate::grad`]: a cotangent belongs to the sum of the loss over all replicas. Where replicas hold the
//! same value, each of them has a part of its cotangent, and the parts add up.

use super::axes::Axis;
use super::partition::Partition;
use crate::build::{BuildError, Builder, Window};
use crate::config::Mesh;
use crate::ir::{Op, Reducer, TensorType, Value};

type Built = Result<Value, BuildError>;

impl Mesh {
    /// The sum of `x` over the replicas along these axes, the same on all of them.
    #[track_caller]
    pub fn sum(&self, b: &mut Builder, x: Value, axes: &[Axis]) -> Built {
        match self.parts(axes) {
            1 => Ok(x),
            _ => b.one(Op::AllReduce { reducer: Reducer::Add, groups: self.groups(axes) }, &[x]),
        }
    }

    /// The greatest of each element of `x` over the replicas along these axes, the same on all of them. Has no derivative.
    #[track_caller]
    pub fn max(&self, b: &mut Builder, x: Value, axes: &[Axis]) -> Built {
        match self.parts(axes) {
            1 => Ok(x),
            _ => b.one(Op::AllReduce { reducer: Reducer::Max, groups: self.groups(axes) }, &[x]),
        }
    }

    /// The mean of `x` over the replicas along these axes, the same on all of them.
    #[track_caller]
    pub fn mean(&self, b: &mut Builder, x: Value, axes: &[Axis]) -> Built {
        match self.parts(axes) {
            1 => Ok(x),
            parts => {
                let sum = self.sum(b, x, axes)?;
                b.mul_scalar(sum, 1.0 / parts as f64)
            }
        }
    }

    /// The blocks of the replicas along these axes, joined along `dim`.
    #[track_caller]
    pub fn gather(&self, b: &mut Builder, x: Value, dim: usize, axes: &[Axis]) -> Built {
        match self.parts(axes) {
            1 => Ok(x),
            _ => b.one(Op::AllGather { dim, groups: self.groups(axes) }, &[x]),
        }
    }

    /// Sends piece `i` of `x` along `split_dim` to replica `i` of the axis, and joins what arrives along `concat_dim`.
    #[track_caller]
    pub fn exchange(
        &self,
        b: &mut Builder,
        x: Value,
        (split_dim, concat_dim): (usize, usize),
        axis: Axis,
    ) -> Built {
        match self.size(axis) {
            1 => Ok(x),
            _ => b.one(Op::AllToAll { split_dim, concat_dim, groups: self.groups(&[axis]) }, &[x]),
        }
    }

    /// This replica's block of a tensor that is split so, whose blocks have this shape.
    pub fn window(
        &self,
        b: &mut Builder,
        block: &[usize],
        partition: &Partition,
    ) -> Result<Window, BuildError> {
        let mut window = Window::all(block);
        for (dim, &size) in block.iter().enumerate() {
            let axes = partition.axes_of(dim);
            let parts = self.parts(axes);
            if parts > 1 {
                let place = self.place(b, axes)?;
                let size_value = b.full_like(place, size as f64)?;
                window.starts.push((dim, b.mul(place, size_value)?));
                window.whole[dim] = size * parts;
            }
        }
        Ok(window)
    }

    /// The place of this replica along these axes: `u32[]`, as [`Mesh::index`].
    pub fn place(&self, b: &mut Builder, axes: &[Axis]) -> Built {
        let replica = b.one(Op::ReplicaId, &[])?;
        let mut index = b.zeros(&TensorType::scalar(b.dtype(replica)))?;
        for &axis in axes {
            let stride = b.full_like(replica, self.stride(axis) as f64)?;
            let size = b.full_like(replica, self.size(axis) as f64)?;
            let along = b.div(replica, stride)?;
            let along = b.rem(along, size)?;
            let before = b.mul(index, size)?;
            index = b.add(before, along)?;
        }
        Ok(index)
    }
}
