//! The report as tables for people: every figure with its source.

use super::model::StepTime;
use super::report::{AotReport, CompiledTime, FromCompiler, FromModel, Judge, KernelRow, Shortage};
use super::topology::Topology;
use crate::inspect::{CollectiveRow, TensorRow, bytes_text, count_text};
use comfy_table::{CellAlignment, Table, presets};

const GRAPH: &str = "graph";
const COMPILER: &str = "compiler";
const MODEL: &str = "model";
/// Kernels that are shown of a compiled module.
const KERNELS: usize = 16;

/// The report as text.
pub fn render(report: &AotReport) -> String {
    let mut out = format!(
        "{} {} on {} ({} chips, {} used together)\n",
        report.name, report.program, report.topology, report.chips, report.replicas
    );
    if let Some(shortage) = &report.shortage {
        out.push_str(&misfit(shortage));
    }
    out.push_str(&figures(report));
    if let Some(compiler) = &report.compiler {
        section(&mut out, "longest kernels", kernels(&compiler.longest));
    }
    if !report.graph.collectives.is_empty() {
        section(
            &mut out,
            "collectives, bytes per device and step (graph)",
            collectives(&report.graph.collectives),
        );
    }
    if !report.fits {
        section(&mut out, "largest tensors of the state (graph)", tensors(&report.graph.largest_state));
        section(&mut out, "largest arrays computed, before fusion (graph)", tensors(&report.graph.largest));
    }
    out
}

/// The estimate for a compiled module as text.
pub fn render_compiled(topology: &Topology, compiled: &CompiledTime) -> String {
    let mut rows = Figures(plain(&["", "per device", "source"]));
    rows.time(&compiled.time);
    let mut out = format!("on {topology}\n{}\n", rows.0);
    let shown = &compiled.kernels[..compiled.kernels.len().min(KERNELS)];
    section(&mut out, &format!("longest of {} kernels", compiled.kernels.len()), kernels(shown));
    out
}

fn section(out: &mut String, title: &str, table: Table) {
    out.push_str(&format!("\n{title}\n{table}\n"));
}

fn misfit(shortage: &Shortage) -> String {
    let judge = match shortage.judge {
        Judge::Compiler => COMPILER,
        Judge::Comparison => "what the compiler says, compared by us",
    };
    match (shortage.needed_bytes, shortage.available_bytes, shortage.missing_bytes()) {
        (Some(needed), Some(available), Some(missing)) => format!(
            "DOES NOT FIT: {} needed, {} there, {} missing ({judge})\n",
            bytes_text(needed),
            bytes_text(available),
            bytes_text(missing)
        ),
        _ => format!("DOES NOT FIT: {} ({judge})\n", shortage.message),
    }
}

fn figures(report: &AotReport) -> String {
    let graph = &report.graph;
    let mut rows = Figures(plain(&["", "per device", "source"]));
    rows.add("state", bytes_text(graph.state_bytes), GRAPH);
    if graph.cache_bytes > 0 {
        rows.add("cache", bytes_text(graph.cache_bytes), GRAPH);
    }
    rows.add("inputs", bytes_text(graph.input_bytes), GRAPH);
    rows.add("activations for the backward pass", bytes_text(graph.kept_bytes), GRAPH);
    rows.add("FLOPs, matrix products", count_text(graph.flops.dot), GRAPH);
    rows.add("FLOPs, all", count_text(graph.flops.total()), GRAPH);
    if let Some(compiler) = &report.compiler {
        rows.compiler(compiler);
    }
    if let Some(model) = &report.model {
        rows.model(model);
    }
    format!("\n{}\n", rows.0)
}

struct Figures(Table);

impl Figures {
    fn add(&mut self, name: &str, value: String, source: &str) {
        self.0.add_row([name.to_owned(), value, source.to_owned()]);
    }

    fn compiler(&mut self, compiler: &FromCompiler) {
        let (said, memory) = (&compiler.said, &compiler.said.memory);
        let limit = said.memory_limit_bytes.map_or(String::new(), |n| format!(" of {}", bytes_text(n)));
        self.add("memory", format!("{}{limit}", bytes_text(memory.total())), COMPILER);
        let padded = if compiler.padding.is_some() { ", padded" } else { "" };
        self.add(&format!("  state and inputs{padded}"), bytes_text(memory.argument_bytes), COMPILER);
        let outputs = memory.output_bytes.saturating_sub(memory.alias_bytes);
        self.add("  other outputs", bytes_text(outputs), COMPILER);
        self.add("  activations and temporaries", bytes_text(memory.temporary_bytes), COMPILER);
        self.add("  code", bytes_text(memory.code_bytes), COMPILER);
        if let Some(padding) = compiler.padding {
            self.add("  lost to tiles", format!("{:.1} %", 100.0 * padding.waste()), COMPILER);
        }
        if let Some(flops) = said.flops {
            self.add("FLOPs, loop bodies once", count_text(flops.max(0.0) as u64), COMPILER);
        }
        if let Some(bytes) = said.bytes_accessed {
            self.add("bytes accessed, loop bodies once", bytes_text(bytes.max(0.0) as u64), COMPILER);
        }
        if let Some(seconds) = said.optimal_seconds.filter(|s| *s >= 0.0) {
            self.add("time, loop bodies once", seconds_text(seconds), COMPILER);
        }
        self.add("compile time", seconds_text(said.compile_seconds), "measured");
        self.add("executable", bytes_text(said.executable_bytes), COMPILER);
    }

    fn model(&mut self, model: &FromModel) {
        self.add("time of the matrix products", seconds_text(model.time.compute_seconds), MODEL);
        self.time(&model.time);
        self.add("tokens/s, all devices", count_text(model.tokens_per_second as u64), MODEL);
        self.add("share of the bf16 peak", format!("{:.1} %", 100.0 * model.share_of_peak), MODEL);
    }

    fn time(&mut self, time: &StepTime) {
        self.add("bytes to and from memory", bytes_text(time.memory_bytes), MODEL);
        self.add("time of the memory", seconds_text(time.memory_seconds), MODEL);
        self.add("time of the collectives", seconds_text(time.interconnect_seconds), MODEL);
        self.add("step, at least", seconds_text(time.roofline_seconds), MODEL);
        let source = match time.covered_by_cycles {
            0.0 => MODEL.to_owned(),
            covered => format!("{MODEL}, {:.0} % compiler's cycles", 100.0 * covered),
        };
        self.add("step", seconds_text(time.step_seconds), &source);
    }
}

/// Kernels with the compiler's cycles, or with their matrix products where it gives none.
fn kernels(rows: &[KernelRow]) -> Table {
    let counted = rows.iter().any(|row| row.cycles.is_some());
    let mut table = plain(&["runs", "time", if counted { "cycles" } else { "FLOPs" }, "bytes", "layer"]);
    for row in rows {
        let arithmetic = match row.cycles {
            Some(cycles) => count_text(cycles),
            None if counted => "unknown".into(),
            None => count_text(row.dot_flops),
        };
        let layer = if row.op_name.is_empty() { row.name.clone() } else { row.op_name.clone() };
        let (runs, bytes) = (row.runs.to_string(), bytes_text(row.memory_bytes));
        table.add_row([runs, seconds_text(row.seconds), arithmetic, bytes, layer]);
    }
    left(table, 4)
}

fn collectives(rows: &[CollectiveRow]) -> Table {
    let mut table = plain(&["kind", "devices", "apart", "runs", "in", "out"]);
    for row in rows {
        let devices = row.group_size.map_or("all".into(), |n| n.to_string());
        let apart = row.stride.map_or(String::new(), |n| n.to_string());
        let (input, output) = (bytes_text(row.input_bytes), bytes_text(row.output_bytes));
        table.add_row([row.opcode.clone(), devices, apart, row.executions.to_string(), input, output]);
    }
    table
}

fn tensors(rows: &[TensorRow]) -> Table {
    let mut table = plain(&["bytes", "shape", "layer"]);
    for row in rows {
        let layer = if row.op_name.is_empty() { &row.name } else { &row.op_name };
        table.add_row([bytes_text(row.bytes), row.shape.clone(), layer.clone()]);
    }
    left(table, 2)
}

/// A table without borders: names to the left, figures to the right.
fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    left(table, header.len() - 1)
}

fn left(mut table: Table, column: usize) -> Table {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

/// `12.3 ms`.
fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.2} us", s * 1e6),
    }
}
