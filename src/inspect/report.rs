//! The report: plain data, ready for JSON. Bytes are bytes, FLOPs are single operations; numbers saturate.

use serde::Serialize;
use std::collections::BTreeMap;

/// All findings about a module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub name: String,
    pub computations: usize,
    /// Instructions as written, loop bodies once.
    pub instructions: usize,
    /// Instructions as written, by opcode.
    pub opcodes: BTreeMap<String, usize>,
    pub static_shapes: StaticShapes,
    pub parameters: Vec<TensorRow>,
    pub parameter_bytes: u64,
    pub outputs: Vec<TensorRow>,
    pub output_bytes: u64,
    pub aliases: AliasTable,
    /// The largest values that are computed, largest first.
    pub largest: Vec<TensorRow>,
    pub flops: Flops,
    /// FLOPs by layer kind, most first.
    pub scopes: Vec<ScopeRow>,
    pub loops: Vec<LoopRow>,
    /// Operands read plus results written, as if nothing were fused.
    pub bytes_accessed: u64,
    pub collectives: Vec<CollectiveRow>,
    pub memory: Memory,
}

impl Report {
    /// The checks that fail, in words; empty for a sound module.
    pub fn failures(&self) -> Vec<String> {
        let dynamic = self.static_shapes.dynamic.iter().map(|name| format!("{name} has a dynamic shape"));
        dynamic.chain(self.aliases.faults.iter().cloned()).collect()
    }
}

/// Whether every tensor has a static shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StaticShapes {
    pub all_static: bool,
    /// Arrays looked at, elements of tuples included.
    pub tensors: usize,
    /// Instructions with a dynamic or unbounded dimension (the first few).
    pub dynamic: Vec<String>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorRow {
    /// Parameter or output number; for others their place in the list.
    pub index: usize,
    pub name: String,
    pub opcode: String,
    /// Path of the layer, where the metadata names it.
    pub op_name: String,
    /// `f32[8,128]`.
    pub shape: String,
    pub bytes: u64,
}

/// Outputs that share the buffer of a parameter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AliasTable {
    pub rows: Vec<AliasRow>,
    /// Bytes that need no second buffer.
    pub bytes: u64,
    /// What is wrong with the table; empty for a sound one.
    pub faults: Vec<String>,
}

/// One alias.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AliasRow {
    pub output_index: Vec<i64>,
    pub parameter: i64,
    pub parameter_name: String,
    pub parameter_index: Vec<i64>,
    pub shape: String,
    pub must: bool,
}

/// Operations of one execution, loop bodies times their trip counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Matrix products: two per multiply-add.
    pub dot: u64,
    /// One per element and operation, reductions included.
    pub elementwise: u64,
    /// Exponentials, logarithms, roots and the like, counted apart.
    pub transcendental: u64,
}

impl Flops {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.dot.saturating_add(self.elementwise).saturating_add(self.transcendental)
    }
}

/// Operations of one layer kind: block numbers are replaced by `*`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScopeRow {
    pub scope: String,
    pub forward: Flops,
    /// Operations under `grad/`.
    pub backward: Flops,
    /// Share of all dot FLOPs, 0 to 1.
    pub dot_share: f64,
}

/// One loop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoopRow {
    pub name: String,
    pub op_name: String,
    /// Trips, or `None` where they do not follow from the text; then the body is counted once.
    pub trip_count: Option<u64>,
    /// How often the loop itself is run.
    pub executions: u64,
}

/// Collectives of one kind among the same groups, per device and execution of the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectiveRow {
    pub opcode: String,
    /// Devices in a group; `None` where the module leaves it to the run (all devices).
    pub group_size: Option<u64>,
    /// How far apart in number the first two devices of a group are, where they are listed.
    pub stride: Option<u64>,
    /// The devices of the first group, where they are listed.
    #[serde(skip)]
    pub group: Vec<u64>,
    /// Instructions as written.
    pub instructions: u64,
    /// Times run.
    pub executions: u64,
    /// Operand bytes.
    pub input_bytes: u64,
    /// Result bytes.
    pub output_bytes: u64,
    /// Bytes that each device sends in a ring, where the group size is known.
    pub ring_bytes: Option<u64>,
}

/// Memory in program order, without fusion: an estimate from above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub parameter_bytes: u64,
    /// Outputs that do not share a parameter's buffer.
    pub unaliased_output_bytes: u64,
    /// Most bytes of values alive at once besides the parameters.
    pub peak_temporary_bytes: u64,
    /// Bytes that the forward pass makes and the backward pass reads: activations, and weights in another type.
    pub kept_bytes: u64,
    /// What one iteration adds to them, of the loop where that is most.
    pub kept_per_iteration_bytes: u64,
    /// Parameters plus the peak.
    pub peak_bytes: u64,
}
