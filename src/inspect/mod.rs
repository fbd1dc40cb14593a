//! What a module says about itself: static shapes, aliases, FLOPs, bytes, collectives, memory, MoE shapes.
//!
//! Works on the proto alone, never on the builder's memory, so that a file proves what is claimed of it.

mod alias;
mod collectives;
mod cost;
mod graph;
mod kernels;
mod loops;
mod memory;
mod moe;
mod render;
mod report;
mod scope;
mod tensors;
#[cfg(test)]
mod tests;

pub use kernels::{Kernel, kernels};
pub use moe::{CheckOutcome, ExpectedShape, check_moe};
pub use render::{bytes as bytes_text, count as count_text, render};
pub use report::{
    AliasRow, AliasTable, CollectiveRow, Flops, LoopRow, Memory, Report, ScopeRow, StaticShapes, TensorRow,
};

use crate::hlo::{self, HloModuleProto, StructureError};
use graph::Graph;

/// How many of the largest tensors a report lists.
pub const LARGEST: usize = 12;

/// A module that cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Structure(#[from] StructureError),
}

/// Everything that can be said about a module from its proto.
///
/// Errors: [`InspectError`] if the module is not well formed. Faults that leave it readable (dynamic shapes,
/// wrong aliases) are part of the report.
pub fn inspect(module: &HloModuleProto) -> Result<Report, InspectError> {
    hlo::check(module)?;
    let graph = Graph::new(module);
    let loops = loops::loops(&graph);
    let weights = graph.weights(&loops);
    let (parameters, outputs) = (tensors::parameters(&graph), tensors::outputs(&graph));
    let total = |rows: &[TensorRow]| rows.iter().fold(0u64, |n, r| n.saturating_add(r.bytes));
    let costs = cost::costs(&graph, &weights);
    Ok(Report {
        name: module.name.clone(),
        computations: module.computations.len(),
        instructions: module.computations.iter().map(|c| c.instructions.len()).sum(),
        opcodes: tensors::opcodes(module),
        static_shapes: tensors::static_shapes(module),
        parameter_bytes: total(&parameters),
        output_bytes: total(&outputs),
        aliases: alias::table(&graph),
        largest: tensors::largest(&graph, &weights, LARGEST),
        flops: costs.flops,
        scopes: costs.scopes,
        loops: loops.rows(&weights),
        bytes_accessed: costs.bytes_accessed,
        collectives: collectives::rows(&graph, &weights),
        memory: memory::estimate(&graph, &loops),
        parameters,
        outputs,
    })
}
