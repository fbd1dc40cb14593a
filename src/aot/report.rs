//! What is known about a program on a topology, each figure in the part that says where it comes from.

use super::chip::{Chip, Kind};
use super::model::{self, StepTime};
use super::topology::Topology;
use super::worker::Compiled;
use crate::artifact::{Manifest, PortSpec, ProgramSpec};
use crate::hlo::{self, HloModuleProto, ShapeProto};
use crate::inspect::{self, CollectiveRow, Flops, InspectError, Kernel, TensorRow};
use crate::runtime::pjrt::CompiledMemory;
use crate::step::Role;
use prost::Message;
use serde::Serialize;

/// Everything about one compilation.
#[derive(Clone, Debug, Serialize)]
pub struct AotReport {
    pub name: String,
    pub program: String,
    pub topology: String,
    pub chips: usize,
    /// Devices of the topology that run the program together.
    pub replicas: usize,
    pub fits: bool,
    /// Where it does not fit.
    pub shortage: Option<Shortage>,
    pub graph: FromGraph,
    /// `None` where the compiler gave up.
    pub compiler: Option<FromCompiler>,
    /// `None` where the program does not fit.
    pub model: Option<FromModel>,
}

/// How much is missing, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shortage {
    pub needed_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
    pub judge: Judge,
    pub message: String,
}

/// Who says that a program does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The compiler's message, which has the amounts.
    Compiler,
    /// We, who compare what the compiler says it takes with what the chip has.
    Comparison,
}

/// Counted in the module that was given to the compiler, loops times their trips, per device.
#[derive(Clone, Debug, Serialize)]
pub struct FromGraph {
    pub flops: Flops,
    pub state_bytes: u64,
    /// What a step of generation finds of earlier tokens.
    pub cache_bytes: u64,
    pub input_bytes: u64,
    /// Outputs that do not lie in the state.
    pub output_bytes: u64,
    /// Activations: what the forward pass makes and the backward pass reads, before the compiler computes any of it again.
    pub kept_bytes: u64,
    /// Of both sides, read by all devices together.
    pub tokens_per_step: u64,
    pub collectives: Vec<CollectiveRow>,
    /// The largest arrays that are computed, before any fusion.
    pub largest: Vec<TensorRow>,
    /// The largest tensors of the state.
    pub largest_state: Vec<TensorRow>,
}

/// What the compiler says, and what stands in its optimized module.
#[derive(Clone, Debug, Serialize)]
pub struct FromCompiler {
    #[serde(flatten)]
    pub said: Compiled,
    /// State, inputs and outputs with and without the padding of their tiles; `None` where memory has no tiles.
    pub padding: Option<Padding>,
    /// Without copies that run beside others.
    pub kernels: usize,
    /// Kernels for which it gives no cycles.
    pub kernels_without_cycles: usize,
    /// Kernels by time, as the model sees them.
    pub longest: Vec<KernelRow>,
}

/// Bytes of the arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Padding {
    pub dense_bytes: u64,
    pub padded_bytes: u64,
}

impl Padding {
    /// The share of memory that holds nothing, 0 to 1.
    pub fn waste(&self) -> f64 {
        1.0 - self.dense_bytes as f64 / (self.padded_bytes as f64).max(1.0)
    }
}

/// One kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    pub name: String,
    pub op_name: String,
    /// The model's time of all runs.
    pub seconds: f64,
    pub runs: u64,
    pub cycles: Option<u64>,
    /// Matrix products of one run.
    pub dot_flops: u64,
    pub memory_bytes: u64,
}

/// What follows from the two and the peak figures of the chip.
#[derive(Clone, Debug, Serialize)]
pub struct FromModel {
    #[serde(flatten)]
    pub time: StepTime,
    /// Of all devices together.
    pub tokens_per_second: f64,
    /// Matrix products of the step (those computed twice included) against the peak of bfloat16, 0 to 1.
    pub share_of_peak: f64,
}

/// The estimate for a compiled module.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledTime {
    #[serde(flatten)]
    pub time: StepTime,
    /// All but the copies that run beside others, longest first.
    pub kernels: Vec<KernelRow>,
}

/// Rows in the lists of a report.
const ROWS: usize = 8;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("the compiler's module cannot be read: {0}")]
    Optimized(String),
}

/// The part of the report that needs no compiler.
pub fn from_graph(
    manifest: &Manifest,
    spec: &ProgramSpec,
    module: &HloModuleProto,
) -> Result<FromGraph, ReportError> {
    let found = inspect::inspect(module)?;
    let bytes = |role: Role| {
        let ports = spec.inputs.iter().filter(|port| port.role == role);
        ports.filter_map(|port| port.ty()).fold(0u64, |n, ty| n.saturating_add(ty.size_bytes() as u64))
    };
    let state: Vec<TensorRow> =
        found.parameters.iter().filter(|row| is_state(spec, row.index)).cloned().collect();
    Ok(FromGraph {
        flops: found.flops,
        state_bytes: bytes(Role::State),
        cache_bytes: bytes(Role::Cache),
        input_bytes: bytes(Role::Input),
        output_bytes: found.output_bytes.saturating_sub(found.aliases.bytes),
        kept_bytes: found.memory.kept_bytes,
        tokens_per_step: tokens_per_step(manifest, spec),
        collectives: found.collectives,
        largest: found.largest.into_iter().take(ROWS).collect(),
        largest_state: largest(state),
    })
}

fn is_state(spec: &ProgramSpec, index: usize) -> bool {
    spec.inputs.get(index).is_some_and(|port| port.role == Role::State)
}

fn largest(mut rows: Vec<TensorRow>) -> Vec<TensorRow> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows.truncate(ROWS);
    rows
}

/// The inputs that hold tokens; others say what those are.
const TOKENS: [&str; 4] = ["inputs", "targets", "prompt", "token"];

fn tokens_per_step(manifest: &Manifest, spec: &ProgramSpec) -> u64 {
    let read = spec.inputs.iter().filter(|p| p.role == Role::Input && TOKENS.contains(&p.name.as_str()));
    let count = |port: &PortSpec| port.whole(&manifest.config.mesh).map_or(0, |ty| ty.elements() as u64);
    read.map(count).sum()
}

/// The part that the compiler knows, and what follows from it.
pub fn from_compiler(
    topology: &Topology,
    graph: &FromGraph,
    mut said: Compiled,
    optimized: &HloModuleProto,
) -> Result<(FromCompiler, FromModel), ReportError> {
    said.memory_limit_bytes.get_or_insert(topology.chip.memory_bytes);
    let (time, kernels) = timed(topology, graph.flops.dot, &graph.collectives, optimized)?;
    let compiler = FromCompiler {
        said,
        padding: matches!(topology.chip.kind, Kind::Tpu(_)).then(|| padding(optimized)),
        kernels: kernels.len(),
        kernels_without_cycles: kernels.iter().filter(|k| k.cycles.is_none()).count(),
        longest: longest(topology, kernels, ROWS),
    };
    let peak = topology.chip.peak().bf16_flops;
    let model = FromModel {
        time,
        tokens_per_second: graph.tokens_per_step as f64 / time.step_seconds.max(f64::MIN_POSITIVE),
        share_of_peak: graph.flops.dot as f64 / (time.step_seconds * peak).max(f64::MIN_POSITIVE),
    };
    Ok((compiler, model))
}

/// What follows from a module that the compiler of these devices has optimized, whoever wrote it. TPUs have no matrix products in such a
/// module, they are convolutions there; their time is in the compiler's cycles.
pub fn compiled_time(topology: &Topology, optimized: &HloModuleProto) -> Result<CompiledTime, InspectError> {
    let found = inspect::inspect(optimized)?;
    let (time, kernels) = timed(topology, found.flops.dot, &found.collectives, optimized)?;
    let rows = kernels.len();
    Ok(CompiledTime { time, kernels: longest(topology, kernels, rows) })
}

/// The model's time, and the kernels that add up to it.
fn timed(
    topology: &Topology,
    dot_flops: u64,
    collectives: &[CollectiveRow],
    optimized: &HloModuleProto,
) -> Result<(StepTime, Vec<Kernel>), InspectError> {
    let mut kernels = inspect::kernels(optimized)?;
    let time = model::step_time(topology, dot_flops, &kernels, collectives);
    kernels.retain(|kernel| !kernel.beside);
    Ok((time, kernels))
}

/// The kernels in which most of the time goes, by all their runs.
fn longest(topology: &Topology, mut kernels: Vec<Kernel>, rows: usize) -> Vec<KernelRow> {
    let seconds = |k: &Kernel| k.runs as f64 * model::kernel_seconds(topology.chip, k);
    kernels.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
    let row = |k: Kernel| KernelRow {
        seconds: seconds(&k),
        name: k.name,
        op_name: k.op_name,
        runs: k.runs,
        cycles: k.cycles,
        dot_flops: k.dot_flops,
        memory_bytes: k.memory_bytes,
    };
    kernels.into_iter().take(rows).map(row).collect()
}

/// Parameters of the entry, whose layouts the compiler has chosen.
fn padding(optimized: &HloModuleProto) -> Padding {
    let entry = optimized.entry().map_or(&[][..], |c| &c.instructions);
    let parameters = entry.iter().filter(|i| i.opcode == "parameter").filter_map(|i| i.shape.as_ref());
    parameters.fold(Padding::default(), |sum, shape: &ShapeProto| Padding {
        dense_bytes: sum.dense_bytes.saturating_add(shape.bytes()),
        padded_bytes: sum.padded_bytes.saturating_add(shape.padded_bytes()),
    })
}

/// The module in an `HloModuleProtoWithConfig`.
pub fn optimized_module(bytes: &[u8]) -> Result<HloModuleProto, ReportError> {
    /// Its first field is the module.
    #[derive(Clone, PartialEq, Message)]
    struct WithConfig {
        #[prost(message, optional, tag = "1")]
        hlo_module: Option<HloModuleProto>,
    }
    let read = WithConfig::decode(bytes).map_err(|e| ReportError::Optimized(e.to_string()))?;
    let module = read.hlo_module.ok_or_else(|| ReportError::Optimized("it is empty".into()))?;
    hlo::check(&module).map_err(|e| ReportError::Optimized(e.to_string()))?;
    Ok(module)
}

impl Shortage {
    /// Reads the two amounts in `(48.00G) exceeds available HBM (15.75G)`.
    pub fn read(message: &str) -> Self {
        let amounts: Vec<u64> = message.split(['(', ')']).filter_map(amount).collect();
        let [needed_bytes, available_bytes] = [0, 1].map(|n| amounts.get(n).copied());
        Self { needed_bytes, available_bytes, judge: Judge::Compiler, message: message.into() }
    }

    /// What a program lacks on a GPU, whose compiler does not look. That of TPUs has looked.
    pub fn compare(chip: &Chip, memory: &CompiledMemory) -> Option<Self> {
        let (needed, available) = (memory.total(), chip.memory_bytes);
        if matches!(chip.kind, Kind::Tpu(_)) || needed <= available {
            return None;
        }
        Some(Self {
            needed_bytes: Some(needed),
            available_bytes: Some(available),
            judge: Judge::Comparison,
            message: format!(
                "arguments, other outputs and temporaries are {needed} bytes, {available} are there"
            ),
        })
    }

    /// What is missing.
    pub fn missing_bytes(&self) -> Option<u64> {
        self.needed_bytes?.checked_sub(self.available_bytes?)
    }
}

/// `15.75G` in bytes.
fn amount(text: &str) -> Option<u64> {
    let (number, shift) = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("B", 0)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    let value: f64 = number.parse().ok()?;
    Some((value * (1u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_amounts_of_a_shortage_are_read_from_the_message() {
        let message = "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO \
                       temporaries (48.00G) exceeds available HBM (15.75G). HLO module: m.";
        let shortage = Shortage::read(message);
        assert_eq!(shortage.needed_bytes, Some(48 << 30));
        assert_eq!(shortage.available_bytes, Some((15 << 30) + (768 << 20)));
        assert_eq!(shortage.missing_bytes(), Some((32 << 30) + (256 << 20)));
        assert_eq!(Shortage::read("no numbers (here)").missing_bytes(), None);
    }

    #[test]
    fn what_a_program_takes_is_compared_with_the_memory_of_a_gpu() {
        let memory = CompiledMemory {
            code_bytes: 0,
            argument_bytes: 80_000_000_000,
            output_bytes: 81_000_000_000,
            alias_bytes: 79_000_000_000,
            temporary_bytes: 3_000_000_000,
        };
        // 80 + (81 - 79) + 3 = 85 GB.
        let shortage = |name| Shortage::compare(Chip::by_name(name).unwrap(), &memory);
        let found = shortage("h100").unwrap();
        assert_eq!(found.judge, Judge::Comparison);
        assert_eq!(found.needed_bytes, Some(85_000_000_000));
        assert_eq!(found.missing_bytes(), Some(60_000_000));
        assert_eq!(shortage("h200"), None);
        assert_eq!(shortage("v5e"), None, "its compiler compares");
    }

    #[test]
    fn a_module_that_is_none_is_refused() {
        assert!(optimized_module(b"").is_err());
        assert!(optimized_module(&[0xff; 20]).is_err());
    }
}
