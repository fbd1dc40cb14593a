//! Shapes of named tensors against what the capacity arithmetic asks for.

use crate::hlo::{HloInstructionProto, HloModuleProto, primitive_of};
use crate::ir::scope::GRAD;
use crate::ir::{DType, TensorType};
use crate::step::TEACHER_SCOPE;
use serde::Serialize;

/// A tensor that has to be there: instructions whose `op_name` ends with `{scope}/{role}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedShape {
    /// Path of the layer, such as `encoder/block_1/moe`.
    pub scope: String,
    /// Name of the tensor, such as `dispatch_mask`.
    pub role: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

/// What was found for one [`ExpectedShape`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckOutcome {
    /// `encoder/block_1/moe/dispatch_mask`.
    pub path: String,
    /// `pred[2,16,4,5]`.
    pub expected: String,
    /// The different shapes that were found, in program order.
    pub found: Vec<String>,
    /// Instructions that were looked at.
    pub instructions: usize,
    pub ok: bool,
}

/// Compares the shapes of named tensors; each must be there, and all of one name must agree.
///
/// Gradients (paths with a `grad` part), tuples and parameters are not looked at.
pub fn check_moe(module: &HloModuleProto, expected: &[ExpectedShape]) -> Vec<CheckOutcome> {
    let instructions: Vec<&HloInstructionProto> =
        module.computations.iter().flat_map(|c| &c.instructions).filter(|i| is_candidate(i)).collect();
    expected.iter().map(|e| outcome(&instructions, e)).collect()
}

fn is_candidate(i: &HloInstructionProto) -> bool {
    let array = i.shape.as_ref().is_some_and(|s| !s.is_tuple());
    let forward = i.op_name().split('/').all(|part| part != GRAD);
    array && forward && !matches!(i.opcode.as_str(), "parameter" | "get-tuple-element")
}

fn outcome(instructions: &[&HloInstructionProto], e: &ExpectedShape) -> CheckOutcome {
    let path = match e.scope.is_empty() {
        true => e.role.clone(),
        false => format!("{}/{}", e.scope, e.role),
    };
    let dims: Vec<i64> = e.shape.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
    let mut out = CheckOutcome {
        expected: TensorType::new(e.dtype, e.shape.clone()).to_string(),
        found: vec![],
        instructions: 0,
        ok: true,
        path,
    };
    for i in instructions.iter().filter(|i| ends_with_path(i.op_name(), &out.path)) {
        let Some(shape) = &i.shape else { continue };
        out.instructions += 1;
        out.ok &=
            shape.element_type == primitive_of(e.dtype) && shape.dimensions == dims && shape.is_static();
        let text = shape.brief();
        if !out.found.contains(&text) {
            out.found.push(text);
        }
    }
    out.ok &= out.instructions > 0;
    out
}

/// Whether the path ends so, at the border of a part, and is of the same network: layers of a teacher have the names of the
/// student's.
fn ends_with_path(op_name: &str, path: &str) -> bool {
    let Some(before) = op_name.strip_suffix(path) else { return false };
    let mut parts = before.split('/');
    (before.is_empty() || before.ends_with('/')) && parts.all(|part| part != TEACHER_SCOPE)
}
