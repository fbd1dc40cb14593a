//! The report as tables for people.

use super::report::*;
use comfy_table::{CellAlignment, Table, presets};

/// How many rows the longer tables show.
const ROWS: usize = 16;

/// The report as text; the longest lists are cut and say so.
pub fn render(report: &Report) -> String {
    let mut out = format!(
        "module {}: {} computations, {} instructions\n",
        report.name, report.computations, report.instructions
    );
    let opcodes: Vec<String> = report.opcodes.iter().map(|(k, n)| format!("{k} {n}")).collect();
    out.push_str(&format!("opcodes: {}\n", opcodes.join(", ")));
    out.push_str(&statics(&report.static_shapes));
    out.push_str(&summary(report));
    section(&mut out, "parameters", tensors(&report.parameters), report.parameters.len());
    section(&mut out, "outputs", tensors(&report.outputs), report.outputs.len());
    section(&mut out, "aliases", aliases(&report.aliases), report.aliases.rows.len());
    for fault in &report.aliases.faults {
        out.push_str(&format!("alias fault: {fault}\n"));
    }
    section(&mut out, "largest tensors", tensors(&report.largest), report.largest.len());
    section(&mut out, "FLOPs by layer kind", scopes(&report.scopes), report.scopes.len());
    section(&mut out, "loops", loops(&report.loops), report.loops.len());
    section(&mut out, "collectives", collectives(&report.collectives), report.collectives.len());
    out
}

fn section(out: &mut String, title: &str, table: Table, rows: usize) {
    if rows == 0 {
        return;
    }
    out.push_str(&format!("\n{title} ({rows})\n{table}\n"));
    if rows > ROWS {
        out.push_str(&format!("  .. and {} more (all of them with --json)\n", rows - ROWS));
    }
}

fn statics(s: &StaticShapes) -> String {
    match s.all_static {
        true => format!("static shapes: all {} tensors\n", s.tensors),
        false => format!("static shapes: NO, of {} tensors: {}\n", s.tensors, s.dynamic.join(", ")),
    }
}

fn summary(r: &Report) -> String {
    let mut table = table(&["", "total", "part"]);
    let flops = [
        ("dot", r.flops.dot),
        ("elementwise", r.flops.elementwise),
        ("transcendental", r.flops.transcendental),
    ];
    let share = |n: u64| format!("{:.1} %", 100.0 * n as f64 / (r.flops.total() as f64).max(1.0));
    table.add_row(["FLOPs".to_string(), count(r.flops.total()), String::new()]);
    for (name, n) in flops {
        table.add_row([format!("  {name}"), count(n), share(n)]);
    }
    let rows = [
        ("parameters", r.parameter_bytes),
        ("outputs", r.output_bytes),
        ("  aliased", r.aliases.bytes),
        ("accessed, unfused", r.bytes_accessed),
        ("peak estimate, unfused", r.memory.peak_bytes),
        ("  temporaries", r.memory.peak_temporary_bytes),
        ("  kept for the backward pass", r.memory.kept_bytes),
        ("    by one iteration of a loop, at most", r.memory.kept_per_iteration_bytes),
    ];
    for (name, n) in rows {
        table.add_row([name.to_string(), bytes(n), String::new()]);
    }
    format!("\n{table}\n")
}

fn tensors(rows: &[TensorRow]) -> Table {
    let mut table = table(&["#", "bytes", "shape", "name", "op_name"]);
    for r in rows.iter().take(ROWS) {
        table.add_row([
            r.index.to_string(),
            bytes(r.bytes),
            r.shape.clone(),
            r.name.clone(),
            r.op_name.clone(),
        ]);
    }
    left(table, &[2, 3, 4])
}

fn aliases(a: &AliasTable) -> Table {
    let mut table = table(&["output", "parameter", "shape", "name", "kind"]);
    for r in a.rows.iter().take(ROWS) {
        let kind = if r.must { "must" } else { "may" };
        let parameter = match r.parameter_index.is_empty() {
            true => r.parameter.to_string(),
            false => format!("{} {:?}", r.parameter, r.parameter_index),
        };
        let output = format!("{:?}", r.output_index);
        table.add_row([output, parameter, r.shape.clone(), r.parameter_name.clone(), kind.to_string()]);
    }
    left(table, &[2, 3, 4])
}

fn scopes(rows: &[ScopeRow]) -> Table {
    let mut table = table(&["dot forward", "dot backward", "share", "other", "layer kind"]);
    for r in rows.iter().take(ROWS) {
        let other = |f: &Flops| f.elementwise.saturating_add(f.transcendental);
        table.add_row([
            count(r.forward.dot),
            count(r.backward.dot),
            format!("{:.1} %", 100.0 * r.dot_share),
            count(other(&r.forward).saturating_add(other(&r.backward))),
            r.scope.clone(),
        ]);
    }
    left(table, &[4])
}

fn loops(rows: &[LoopRow]) -> Table {
    let mut table = table(&["trips", "runs", "name", "op_name"]);
    for r in rows.iter().take(ROWS) {
        let trips = r.trip_count.map_or("unknown, counted once".into(), |n| n.to_string());
        table.add_row([trips, r.executions.to_string(), r.name.clone(), r.op_name.clone()]);
    }
    left(table, &[2, 3])
}

fn collectives(rows: &[CollectiveRow]) -> Table {
    let mut table = table(&["kind", "devices", "apart", "written", "runs", "in", "out", "sent in a ring"]);
    for r in rows.iter().take(ROWS) {
        table.add_row([
            r.opcode.clone(),
            r.group_size.map_or("all".into(), |n| n.to_string()),
            r.stride.map_or(String::new(), |n| n.to_string()),
            r.instructions.to_string(),
            r.executions.to_string(),
            bytes(r.input_bytes),
            bytes(r.output_bytes),
            r.ring_bytes.map_or("unknown".into(), bytes),
        ]);
    }
    left(table, &[0])
}

/// A table without borders, numbers to the right.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table.column_iter_mut().for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    left(table, &[0])
}

fn left(mut table: Table, columns: &[usize]) -> Table {
    for (n, column) in table.column_iter_mut().enumerate() {
        if columns.contains(&n) {
            column.set_cell_alignment(CellAlignment::Left);
        }
    }
    table
}

/// Bytes for people: `1.50 MiB`.
pub fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A count for people: `1.50 G`.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

fn scaled(n: u64, base: f64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let unit_name = units.get(unit).copied().unwrap_or("");
    let digits = if unit == 0 { 0 } else { 2 };
    format!("{value:.digits$} {unit_name}").trim_end().to_string()
}
