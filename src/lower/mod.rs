//! From the IR to an HLO module: one instruction or a short sequence per operation.
//!
//! Outputs are always one tuple. Instruction ids count up in order of emission, so equal graphs give equal bytes.

mod collective;
mod control;
mod function;
mod node;
mod prefix_sum;
#[cfg(test)]
mod tests;

use crate::hlo::{AliasEntryProto, HloInputOutputAliasProto, HloModuleProto, program_shape, shape_of};
use crate::ir::Graph;
use function::Module;

/// Which outputs take over the buffer of which input.
pub type Alias = (usize, usize);

/// The HLO module of `graph`, whose entry takes its inputs and returns a tuple of its outputs.
///
/// `graph` comes from [`crate::ir::optimize`], which leaves no calls. `aliases` are pairs of output and input (donation); the
/// caller has checked that their types agree. `names` are those of the inputs, for people who read profiles and reports.
pub fn lower(name: &str, graph: &Graph, names: &[String], aliases: &[Alias]) -> HloModuleProto {
    let mut module = Module::default();
    let (entry, shape) = control::entry(&mut module, graph, names, aliases);
    let parameters = graph
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, &input)| (format!("p{i}"), shape_of(graph.ty(input))))
        .collect();
    HloModuleProto {
        name: name.into(),
        entry_computation_name: "main".into(),
        entry_computation_id: entry,
        id: 0,
        host_program_shape: Some(program_shape(parameters, shape)),
        computations: module.finish(),
        input_output_alias: (!aliases.is_empty()).then(|| alias_table(aliases)),
        ..Default::default()
    }
}

fn alias_table(aliases: &[Alias]) -> HloInputOutputAliasProto {
    const MAY_ALIAS: i32 = 1;
    let entry = |&(output, input): &Alias| AliasEntryProto {
        output_shape_index: vec![output as i64],
        parameter_number: input as i64,
        parameter_shape_index: vec![],
        kind: MAY_ALIAS,
    };
    HloInputOutputAliasProto { entries: aliases.iter().map(entry).collect() }
}
