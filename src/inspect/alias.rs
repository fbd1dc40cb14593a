//! The alias table and its checks.

use super::graph::Graph;
use super::report::{AliasRow, AliasTable};
use crate::hlo::{AliasEntryProto, HloInstructionProto, ShapeProto};
use std::collections::HashSet;

/// All aliases with what is wrong with them: indices out of range, shapes that differ, buffers used twice.
pub fn table(graph: &Graph) -> AliasTable {
    let mut out = AliasTable::default();
    let mut used = HashSet::new();
    let entries = graph.module.input_output_alias.as_ref().map(|a| a.entries.as_slice());
    let parameters = parameters(graph);
    for entry in entries.unwrap_or_default() {
        let parameter = usize::try_from(entry.parameter_number).ok().and_then(|n| parameters.get(n)).copied();
        let shape = shape_of_output(graph, &entry.output_shape_index);
        if let Err(fault) = judge(entry, parameter, shape, &mut used) {
            out.faults.push(fault);
        } else {
            out.bytes = out.bytes.saturating_add(shape.map_or(0, ShapeProto::bytes));
        }
        out.rows.push(AliasRow {
            output_index: entry.output_shape_index.clone(),
            parameter: entry.parameter_number,
            parameter_name: parameter.map_or("", |p| &p.name).to_string(),
            parameter_index: entry.parameter_shape_index.clone(),
            shape: shape.map_or("?".into(), ShapeProto::brief),
            must: entry.kind == 2,
        });
    }
    out
}

/// The parameters of the entry in the order of their numbers.
pub fn parameters<'a>(graph: &Graph<'a>) -> Vec<&'a HloInstructionProto> {
    let instructions = graph.module.computations.get(graph.entry()).map(|c| c.instructions.as_slice());
    let mut out: Vec<_> =
        instructions.unwrap_or_default().iter().filter(|i| i.opcode == "parameter").collect();
    out.sort_by_key(|p| p.parameter_number);
    out
}

fn shape_of_output<'a>(graph: &Graph<'a>, index: &[i64]) -> Option<&'a ShapeProto> {
    graph.root(graph.entry())?.shape.as_ref()?.at(index)
}

fn judge(
    entry: &AliasEntryProto,
    parameter: Option<&HloInstructionProto>,
    output: Option<&ShapeProto>,
    used: &mut HashSet<(bool, i64, Vec<i64>)>,
) -> Result<(), String> {
    let (number, index) = (entry.parameter_number, &entry.parameter_shape_index);
    let named = format!("output {:?} and parameter {number} {index:?}", entry.output_shape_index);
    let output = output.ok_or_else(|| format!("{named}: the result has no such output"))?;
    let parameter = parameter.ok_or_else(|| format!("{named}: there is no such parameter"))?;
    let input = parameter.shape.as_ref().and_then(|s| s.at(index));
    let input = input.ok_or_else(|| format!("{named}: parameter `{}` has no such part", parameter.name))?;
    if !input.same_dimensions(output) {
        let (input, output) = (input.brief(), output.brief());
        return Err(format!("{named}: the parameter `{}` is {input}, the output {output}", parameter.name));
    }
    if !used.insert((true, number, index.clone())) {
        return Err(format!("{named}: the parameter `{}` is aliased twice", parameter.name));
    }
    if !used.insert((false, 0, entry.output_shape_index.clone())) {
        return Err(format!("{named}: the output is aliased twice"));
    }
    Ok(())
}
