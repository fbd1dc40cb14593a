//! How a tensor is divided among the devices.

use super::axes::{ALL, Axis};
use crate::config::Mesh;
use crate::ir::{Literal, TensorType};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Over which mesh axes each dimension of a tensor is split, the first of them slowest. Along all other axes every device
/// has a copy. Dimensions behind the last that is split are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(Vec<Vec<Axis>>);

/// A partition does not fit a tensor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PartitionError {
    #[error("partition {partition} does not fit {ty}")]
    Rank { ty: TensorType, partition: Partition },
    #[error("partition {partition} splits over mesh axis {axis} twice")]
    Twice { partition: Partition, axis: Axis },
    #[error("dimension {dim} of {ty} does not divide into {parts} parts")]
    Uneven { ty: TensorType, dim: usize, parts: usize },
    #[error("{found} blocks of {block} do not make up {ty}")]
    Blocks { ty: TensorType, block: TensorType, found: usize },
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |axes: &Vec<Axis>| match axes[..] {
            [] => "-".to_string(),
            _ => axes.iter().map(Axis::to_string).collect::<Vec<_>>().join("+"),
        };
        write!(f, "[{}]", self.0.iter().map(names).collect::<Vec<_>>().join(", "))
    }
}

/// How a host value is divided among the devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub partition: Partition,
    /// Parts along the first dimension, one after the other, each of which is split for itself. 0 is 1.
    pub microbatches: usize,
}

impl From<Partition> for Placement {
    fn from(partition: Partition) -> Self {
        Self { partition, microbatches: 1 }
    }
}

impl Placement {
    /// The type of the whole value from that of one block; `None` where that has too many elements.
    pub fn whole(&self, mesh: &Mesh, block: &TensorType) -> Option<TensorType> {
        let mut whole = block.clone();
        for (dim, size) in whole.shape.iter_mut().enumerate() {
            *size = size.checked_mul(mesh.parts(self.partition.axes_of(dim)))?;
        }
        whole.checked_elements()?;
        Some(whole)
    }

    /// The block of a value that `replica` holds.
    ///
    /// Errors: as [`Partition::block`].
    pub fn cut(&self, mesh: &Mesh, value: &Literal, replica: usize) -> Result<Literal, PartitionError> {
        if self.microbatches <= 1 || self.partition.is_whole() {
            return self.partition.cut(mesh, value, replica);
        }
        // Rows apart by microbatch, and together again in the block.
        let uneven = || PartitionError::Uneven { ty: value.ty().clone(), dim: 0, parts: self.microbatches };
        let (rows, row) = value.ty().shape.split_first().ok_or_else(uneven)?;
        if !rows.is_multiple_of(self.microbatches) {
            return Err(uneven());
        }
        let shape = [&[self.microbatches, rows / self.microbatches], row].concat();
        let apart = reshaped(value, shape).ok_or_else(uneven)?;
        let block = self.partition.behind(1).cut(mesh, &apart, replica)?;
        let rows = block.ty().shape[0] * block.ty().shape[1];
        reshaped(&block, [&[rows], row].concat()).ok_or_else(uneven)
    }
}

fn reshaped(value: &Literal, shape: Vec<usize>) -> Option<Literal> {
    Literal::from_bytes(TensorType::new(value.ty().dtype, shape), value.bytes().to_vec()).ok()
}

impl Partition {
    /// Every device has the whole tensor.
    pub fn whole() -> Self {
        Self::default()
    }

    /// The same with dimension `dim` split over these axes too.
    pub fn split(mut self, dim: usize, axes: &[Axis]) -> Self {
        self.0.resize(self.0.len().max(dim + 1), vec![]);
        self.0[dim].extend(axes);
        self
    }

    /// The partition of a tensor that has lost this dimension.
    pub fn without(&self, dim: usize) -> Self {
        let mut kept = self.0.clone();
        if dim < kept.len() {
            kept.remove(dim);
        }
        while kept.last().is_some_and(Vec::is_empty) {
            kept.pop();
        }
        Self(kept)
    }

    /// The same for a tensor with so many more dimensions before the others.
    pub fn behind(&self, dims: usize) -> Self {
        Self([vec![vec![]; dims], self.0.clone()].concat())
    }

    /// The axes that split dimension `dim`.
    pub fn axes_of(&self, dim: usize) -> &[Axis] {
        self.0.get(dim).map_or(&[], Vec::as_slice)
    }

    /// The axes that split these dimensions.
    pub fn axes_of_all(&self, dims: &[usize]) -> Vec<Axis> {
        ALL.iter().copied().filter(|axis| dims.iter().any(|&d| self.axes_of(d).contains(axis))).collect()
    }

    /// The axes that split any dimension.
    pub fn axes(&self) -> Vec<Axis> {
        self.axes_of_all(&(0..self.0.len()).collect::<Vec<_>>())
    }

    /// The axes along which every device has a copy.
    pub fn copied(&self) -> Vec<Axis> {
        let split = self.axes();
        ALL.iter().copied().filter(|axis| !split.contains(axis)).collect()
    }

    /// Whether every device has the whole tensor.
    pub fn is_whole(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// The type of one block of `ty`.
    ///
    /// Errors: dimensions that do not divide, another rank, an axis that is named twice.
    pub fn block(&self, mesh: &Mesh, ty: &TensorType) -> Result<TensorType, PartitionError> {
        if self.0.len() > ty.rank() {
            return Err(PartitionError::Rank { ty: ty.clone(), partition: self.clone() });
        }
        let all = self.0.concat();
        if let Some(&axis) = all.iter().find(|axis| all.iter().filter(|other| other == axis).count() > 1) {
            return Err(PartitionError::Twice { partition: self.clone(), axis });
        }
        let mut block = ty.clone();
        for (dim, axes) in self.0.iter().enumerate() {
            let parts = mesh.parts(axes);
            if !ty.shape[dim].is_multiple_of(parts.max(1)) {
                return Err(PartitionError::Uneven { ty: ty.clone(), dim, parts });
            }
            block.shape[dim] /= parts.max(1);
        }
        Ok(block)
    }

    /// The block of a value that `replica` holds.
    ///
    /// Errors: as [`Partition::block`].
    pub fn cut(&self, mesh: &Mesh, value: &Literal, replica: usize) -> Result<Literal, PartitionError> {
        if self.is_whole() {
            return Ok(value.clone());
        }
        let block = self.block(mesh, value.ty())?;
        let mut bytes = vec![0; block.size_bytes()];
        for (from, to, length) in self.runs(mesh, value.ty(), &block, replica) {
            bytes[to..to + length].copy_from_slice(&value.bytes()[from..from + length]);
        }
        let misfit = PartitionError::Blocks { ty: value.ty().clone(), block: block.clone(), found: 1 };
        Literal::from_bytes(block, bytes).map_err(|_| misfit)
    }

    /// The replicas that hold the blocks of the tensor, each block once.
    pub fn owners(&self, mesh: &Mesh) -> Vec<usize> {
        let copied = self.copied();
        (0..mesh.num_replicas()).filter(|&replica| mesh.index(replica, &copied) == 0).collect()
    }

    /// The value of type `ty` from the blocks of its [`Partition::owners`], in their order.
    ///
    /// Errors: as [`Partition::block`], and blocks of another number or type.
    pub fn join(&self, mesh: &Mesh, ty: &TensorType, blocks: &[Literal]) -> Result<Literal, PartitionError> {
        let block = self.block(mesh, ty)?;
        let owners = self.owners(mesh);
        let misfit = || PartitionError::Blocks { ty: ty.clone(), block: block.clone(), found: blocks.len() };
        if blocks.len() != owners.len() || blocks.iter().any(|b| *b.ty() != block) {
            return Err(misfit());
        }
        let mut bytes = vec![0; ty.size_bytes()];
        for (&replica, part) in owners.iter().zip(blocks) {
            for (at, from, length) in self.runs(mesh, ty, &block, replica) {
                bytes[at..at + length].copy_from_slice(&part.bytes()[from..from + length]);
            }
        }
        Literal::from_bytes(ty.clone(), bytes).map_err(|_| misfit())
    }

    /// Runs of bytes that lie together in the tensor and in the block of a replica: (start in the tensor, start in the block,
    /// length).
    fn runs(
        &self,
        mesh: &Mesh,
        whole: &TensorType,
        block: &TensorType,
        replica: usize,
    ) -> Vec<(usize, usize, usize)> {
        let start = |dim: usize| mesh.index(replica, self.axes_of(dim)) * block.shape[dim];
        // Behind the last dimension that is cut, all is contiguous.
        let last = (0..whole.rank()).rfind(|&dim| block.shape[dim] != whole.shape[dim]);
        let inner = last.map_or(0, |dim| dim + 1);
        let mut offsets = vec![0];
        for dim in 0..inner.saturating_sub(1) {
            let rows = start(dim)..start(dim) + block.shape[dim];
            offsets = offsets
                .into_iter()
                .flat_map(|o| rows.clone().map(move |row| o * whole.shape[dim] + row))
                .collect();
        }
        let tail: usize = whole.shape[inner..].iter().product::<usize>() * whole.dtype.size_bytes();
        let (row, run, first) = match last {
            Some(dim) => (whole.shape[dim] * tail, block.shape[dim] * tail, start(dim) * tail),
            None => (0, tail, 0),
        };
        offsets.into_iter().enumerate().map(|(i, o)| (o * row + first, i * run, run)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    const MESH: Mesh = Mesh { data: 2, expert: 2, model: 3, shard_state: false, shard_vocabulary: false };

    fn counting(shape: &[usize]) -> Literal {
        let data: Vec<i32> = (0..shape.iter().product::<usize>() as i32).collect();
        Literal::new(shape.to_vec(), &data).unwrap()
    }

    #[test]
    fn a_replica_holds_the_block_of_its_place() {
        let value = counting(&[4, 2, 3]);
        let partition = Partition::whole().split(0, &[Axis::Data, Axis::Expert]).split(2, &[Axis::Model]);
        // Replica 7 is data 1, expert 0, model 1: row 2, column 1.
        let block = partition.cut(&MESH, &value, 7).unwrap();
        assert_eq!(block.ty().shape, [1, 2, 1]);
        assert_eq!(block.to_f64(), [13.0, 16.0]);
    }

    #[test]
    fn rows_of_each_microbatch_are_split_for_themselves() {
        // Rows 0 to 3 are the first microbatch: device 1 of 4 has row 1 of it, and row 5 of all.
        let mesh = Mesh { data: 4, ..Mesh::default() };
        let rows = Placement { partition: Partition::whole().split(0, &[Axis::Data]), microbatches: 2 };
        assert_eq!(rows.cut(&mesh, &counting(&[8, 2]), 1).unwrap().to_f64(), [2.0, 3.0, 10.0, 11.0]);
        let block = TensorType::new(DType::S32, [2, 2]);
        assert_eq!(rows.whole(&mesh, &block).unwrap().shape, [8, 2]);
    }

    #[test]
    fn blocks_join_to_the_value() {
        let value = counting(&[4, 6, 2]);
        let cases = [
            Partition::whole(),
            Partition::whole().split(0, &[Axis::Expert]),
            Partition::whole().split(1, &[Axis::Model]),
            Partition::whole().split(1, &[Axis::Data, Axis::Model]).split(0, &[Axis::Expert]),
            Partition::whole().split(2, &[Axis::Data]),
        ];
        for partition in cases {
            let blocks: Vec<Literal> = partition
                .owners(&MESH)
                .into_iter()
                .map(|replica| partition.cut(&MESH, &value, replica).unwrap())
                .collect();
            assert_eq!(partition.join(&MESH, value.ty(), &blocks).unwrap(), value, "{partition}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ty = TensorType::new(DType::F32, [4, 5]);
        let message = |partition: Partition| partition.block(&MESH, &ty).unwrap_err().to_string();
        assert_eq!(
            message(Partition::whole().split(1, &[Axis::Model])),
            "dimension 1 of f32[4,5] does not divide into 3 parts"
        );
        assert_eq!(
            message(Partition::whole().split(2, &[Axis::Expert])),
            "partition [-, -, expert] does not fit f32[4,5]"
        );
        assert_eq!(
            message(Partition::whole().split(0, &[Axis::Data]).split(1, &[Axis::Data])),
            "partition [data, data] splits over mesh axis data twice"
        );
    }
}
