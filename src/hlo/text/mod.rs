//! Prints modules in XLA's own text syntax, complete enough that XLA and [`super::parse()`] read them back.
//!
//! Constants are never elided. Attributes of opcodes that this package does not emit and that its messages
//! do not carry (convolution labels, triangular solves, FFTs, infeeds) are left out.

mod attributes;
mod calls;
mod literal;
mod names;
mod number;
mod quote;
mod shape;
mod sharding;

use super::proto::{FrontendAttributes, HloComputationProto, HloInstructionProto, HloModuleProto};
use names::Names;
pub(super) use quote::unquoted;
pub(super) use shape::shape_text;

/// The names of the `dot` algorithms in HLO text, by their numbers.
pub(super) const DOT_ALGORITHMS: [&str; 14] = [
    "unset",
    "dot_any_f8_any_f8_f32",
    "dot_any_f8_any_f8_f32_fast_accum",
    "dot_f16_f16_f16",
    "dot_f16_f16_f32",
    "dot_bf16_bf16_bf16",
    "dot_bf16_bf16_f32",
    "dot_bf16_bf16_f32_x3",
    "dot_bf16_bf16_f32_x6",
    "dot_tf32_tf32_f32",
    "dot_tf32_tf32_f32_x3",
    "dot_f32_f32_f32",
    "dot_f64_f64_f64",
    "dot_bf16_bf16_f32_x9",
];

/// The names of the precisions in HLO text, by their numbers.
pub(super) const PRECISIONS: [&str; 3] = ["default", "high", "highest"];

/// The HLO text of a module: equal modules give equal text.
pub fn print(module: &HloModuleProto) -> String {
    let names = Names::of(module);
    let mut out = header(module);
    for computation in &module.computations {
        out.push_str("\n\n");
        print_computation(&mut out, module, computation, &names);
    }
    out.push('\n');
    out
}

fn header(module: &HloModuleProto) -> String {
    let mut out = format!("HloModule {}", names::clean(&module.name, "module"));
    if let Some(alias) = module.input_output_alias.as_ref().filter(|a| !a.entries.is_empty()) {
        let entries = alias.entries.iter().map(|e| {
            let kind = if e.kind == 2 { "must-alias" } else { "may-alias" };
            let (output, index) = (braces(&e.output_shape_index), braces(&e.parameter_shape_index));
            format!("{output}: ({}, {index}, {kind})", e.parameter_number)
        });
        out.push_str(&format!(", input_output_alias={{ {} }}", join(entries)));
    }
    if let Some(donor) = module.buffer_donor.as_ref().filter(|d| !d.entries.is_empty()) {
        let entries = donor
            .entries
            .iter()
            .map(|e| format!("({}, {})", e.parameter_number, braces(&e.parameter_shape_index)));
        out.push_str(&format!(", buffer_donor={{ {} }}", join(entries)));
    }
    if let Some(program) = &module.host_program_shape {
        let parameters = join(program.parameters.iter().map(|s| shape_text(s, true)));
        let result = program.result.as_ref().map_or("()".into(), |s| shape_text(s, true));
        out.push_str(&format!(", entry_computation_layout={{({parameters})->{result}}}"));
    }
    if let Some(attributes) = &module.frontend_attributes {
        out.push_str(&format!(", {}", frontend_attributes(attributes)));
    }
    out
}

fn print_computation(
    out: &mut String,
    module: &HloModuleProto,
    computation: &HloComputationProto,
    names: &Names,
) {
    if computation.id == module.entry_computation_id {
        out.push_str("ENTRY ");
    }
    out.push_str(&format!("%{} {{\n", names.computation(computation.id)));
    let root = computation.instructions.iter().rposition(|i| i.id == computation.root_id);
    let names = names.inside(computation);
    for (position, instruction) in computation.instructions.iter().enumerate() {
        out.push_str(if root == Some(position) { "  ROOT " } else { "  " });
        print_instruction(out, instruction, position, &names);
        out.push('\n');
    }
    out.push('}');
}

fn print_instruction(out: &mut String, i: &HloInstructionProto, position: usize, names: &names::Inside) {
    let shape = i.shape.as_ref().map_or("()".into(), |s| shape_text(s, true));
    out.push_str(&format!("%{} = {shape} {}(", names.at(position), names::clean(&i.opcode, "unknown")));
    match i.opcode.as_str() {
        "parameter" => out.push_str(&i.parameter_number.to_string()),
        "constant" => literal::push_literal(out, i.literal.as_deref()),
        _ => out.push_str(&join(i.operand_ids.iter().map(|&id| names.operand(id)))),
    }
    out.push(')');
    for attribute in attributes::of(i, names) {
        out.push_str(", ");
        out.push_str(&attribute);
    }
}

/// `frontend_attributes={key="value",..}`.
fn frontend_attributes(attributes: &FrontendAttributes) -> String {
    let rows =
        attributes.map.iter().map(|(k, v)| format!("{}={}", names::clean(k, "key"), quote::raw_or_quoted(v)));
    format!("frontend_attributes={{{}}}", rows.collect::<Vec<_>>().join(","))
}

/// `{0,1}`.
fn braces(values: &[i64]) -> String {
    let values: Vec<String> = values.iter().map(i64::to_string).collect();
    format!("{{{}}}", values.join(","))
}

fn join(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
