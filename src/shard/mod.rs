//! What each device of a mesh holds, and how devices exchange it.
//!
//! | file | subject |
//! | --- | --- |
//! | `axes` | [`Axis`]: names of mesh axes, numbers of replicas, groups of replicas |
//! | `partition` | [`Partition`]: which dimension of a tensor is split over which mesh axes; [`Placement`]: blocks of host values |
//! | `collective` | the collectives of a program, none of them on an axis of size 1 |
//!
//! There is one program for all replicas. A tensor is split into equal blocks over some axes of the mesh and held whole on
//! each device along the others. docs/parallelism.md says which tensor is split how.

mod axes;
mod collective;
mod partition;

pub use crate::config::Mesh;
pub use axes::{ALL, Axis, BATCH, MODEL};
pub use partition::{Partition, PartitionError, Placement};
