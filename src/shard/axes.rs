//! Mesh axes and the numbering of replicas: `(data * experts + expert) * models + model`.

use crate::config::Mesh;
use crate::ir::ReplicaGroups;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An axis of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    Data,
    Expert,
    Model,
}

/// All axes, from the one whose neighbours are farthest apart to the one whose neighbours are next to each other.
pub const ALL: &[Axis] = &[Axis::Data, Axis::Expert, Axis::Model];
/// The axes over which the rows of a batch are split.
pub const BATCH: &[Axis] = &[Axis::Data, Axis::Expert];
/// The axis over which heads and `d_ff` are split.
pub const MODEL: &[Axis] = &[Axis::Model];

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Axis::Data => "data",
            Axis::Expert => "expert",
            Axis::Model => "model",
        })
    }
}

impl Mesh {
    /// Devices along an axis.
    pub fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Data => self.data,
            Axis::Expert => self.expert,
            Axis::Model => self.model,
        }
    }

    /// Devices along these axes together.
    pub fn parts(&self, axes: &[Axis]) -> usize {
        axes.iter().map(|&axis| self.size(axis)).product()
    }

    /// The axes over which the words of embedding and output head are split.
    pub fn vocabulary(&self) -> &'static [Axis] {
        if self.shard_vocabulary { MODEL } else { &[] }
    }

    /// How far apart in number two replicas are that are neighbours along an axis.
    pub(super) fn stride(&self, axis: Axis) -> usize {
        match axis {
            Axis::Data => self.expert * self.model,
            Axis::Expert => self.model,
            Axis::Model => 1,
        }
    }

    /// The place of a replica along these axes, counted with the last axis fastest.
    pub fn index(&self, replica: usize, axes: &[Axis]) -> usize {
        let place = |axis| replica / self.stride(axis) % self.size(axis);
        axes.iter().fold(0, |index, &axis| index * self.size(axis) + place(axis))
    }

    /// The groups of replicas that differ only along these axes, each in the order of [`Mesh::index`].
    pub fn groups(&self, axes: &[Axis]) -> ReplicaGroups {
        let others: Vec<Axis> = ALL.iter().copied().filter(|axis| !axes.contains(axis)).collect();
        let mut groups = vec![vec![0; self.parts(axes)]; self.parts(&others)];
        for replica in 0..self.num_replicas() {
            groups[self.index(replica, &others)][self.index(replica, axes)] = replica;
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_the_replicas_that_differ_along_their_axes() {
        let mesh = Mesh { data: 2, expert: 3, model: 2, ..Mesh::default() };
        // Replica 7 is data 1, expert 0, model 1.
        assert_eq!(ALL.iter().map(|&axis| mesh.index(7, &[axis])).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(mesh.groups(&[Axis::Model])[..2], [vec![0, 1], vec![2, 3]]);
        assert_eq!(mesh.groups(&[Axis::Expert])[..2], [vec![0, 2, 4], vec![1, 3, 5]]);
        assert_eq!(mesh.groups(BATCH), [vec![0, 2, 4, 6, 8, 10], vec![1, 3, 5, 7, 9, 11]]);
        assert_eq!(mesh.groups(&[]), (0..12).map(|replica| vec![replica]).collect::<Vec<_>>());
    }
}
