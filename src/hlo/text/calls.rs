//! Attributes that name called computations.

use super::names::Inside;
use crate::hlo::proto::HloInstructionProto;

/// `to_apply=`, `condition=`, `body=`, `calls=` and their like, by opcode.
pub fn calls(i: &HloInstructionProto, names: &Inside) -> Vec<String> {
    let called: Vec<String> = i.called_computation_ids.iter().map(|&id| names.computation(id)).collect();
    let list = called.join(", ");
    match (i.opcode.as_str(), called.as_slice()) {
        (_, []) => vec![],
        ("while", [body, condition]) => vec![format!("condition={condition}"), format!("body={body}")],
        ("conditional", _) => vec![format!("branch_computations={{{list}}}")],
        ("custom-call", _) => vec![format!("called_computations={{{list}}}")],
        ("select-and-scatter", [select, scatter]) => {
            vec![format!("select={select}"), format!("scatter={scatter}")]
        }
        ("fusion" | "async-start" | "async-update" | "async-done", [one]) => vec![format!("calls={one}")],
        (_, [one]) => vec![format!("to_apply={one}")],
        (_, _) => vec![format!("called_computations={{{list}}}")],
    }
}
