//! Structural checks of modules from files: what every later analysis relies on.

use super::proto::{HloComputationProto, HloInstructionProto, HloModuleProto, ShapeProto};
use std::collections::HashSet;

/// A module that is not well formed. Names are those of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StructureError {
    #[error("hlo module: entry computation id {id} does not exist among {computations} computations")]
    NoEntry { id: i64, computations: usize },
    #[error("hlo module: computation id {id} (`{name}`) is given twice")]
    DuplicateComputation { id: i64, name: String },
    #[error("computation `{computation}`: instruction id {id} (`{name}`) is given twice")]
    DuplicateInstruction { computation: String, id: i64, name: String },
    #[error("computation `{computation}`: root id {id} does not exist")]
    NoRoot { computation: String, id: i64 },
    #[error("computation `{computation}`: instruction `{name}` has no shape")]
    NoShape { computation: String, name: String },
    #[error("computation `{computation}`: instruction `{name}`: shape {shape}: {fault}")]
    BadShape { computation: String, name: String, shape: String, fault: &'static str },
    #[error(
        "computation `{computation}`: `{name}` uses instruction id {operand}, which does not exist before it \
         (operands come before their users, without cycles)"
    )]
    Operand { computation: String, name: String, operand: i64 },
    #[error(
        "computation `{computation}`: `{name}` calls computation id {called}, which does not exist before it \
         (computations come before their callers, without recursion)"
    )]
    Called { computation: String, name: String, called: i64 },
    #[error(
        "computation `{computation}`: {found} parameters, but number {number} is missing, twice or out of range"
    )]
    Parameters { computation: String, found: usize, number: i64 },
}

/// Checks that ids, operands, calls, roots, shapes and parameter numbers are consistent and free of cycles.
///
/// Errors: the first fault as [`StructureError`].
pub fn check(module: &HloModuleProto) -> Result<(), StructureError> {
    let mut known = HashSet::new();
    for computation in &module.computations {
        check_computation(computation, &known)?;
        if !known.insert(computation.id) {
            let (id, name) = (computation.id, computation.name.clone());
            return Err(StructureError::DuplicateComputation { id, name });
        }
    }
    if !known.contains(&module.entry_computation_id) {
        let (id, computations) = (module.entry_computation_id, module.computations.len());
        return Err(StructureError::NoEntry { id, computations });
    }
    Ok(())
}

fn check_computation(c: &HloComputationProto, computations: &HashSet<i64>) -> Result<(), StructureError> {
    let mut known = HashSet::with_capacity(c.instructions.len());
    for i in &c.instructions {
        let (computation, name) = (|| c.name.clone(), || i.name.clone());
        let used = i.operand_ids.iter().chain(&i.control_predecessor_ids);
        if let Some(&operand) = used.into_iter().find(|id| !known.contains(*id)) {
            return Err(StructureError::Operand { computation: computation(), name: name(), operand });
        }
        if let Some(&called) = i.called_computation_ids.iter().find(|id| !computations.contains(*id)) {
            return Err(StructureError::Called { computation: computation(), name: name(), called });
        }
        if !known.insert(i.id) {
            return Err(StructureError::DuplicateInstruction {
                computation: computation(),
                id: i.id,
                name: name(),
            });
        }
        check_instruction_shape(c, i)?;
    }
    if !known.contains(&c.root_id) {
        return Err(StructureError::NoRoot { computation: c.name.clone(), id: c.root_id });
    }
    check_parameters(c)
}

fn check_instruction_shape(c: &HloComputationProto, i: &HloInstructionProto) -> Result<(), StructureError> {
    let Some(shape) = &i.shape else {
        return Err(StructureError::NoShape { computation: c.name.clone(), name: i.name.clone() });
    };
    match shape_fault(shape) {
        None => Ok(()),
        Some(fault) => Err(StructureError::BadShape {
            computation: c.name.clone(),
            name: i.name.clone(),
            shape: shape.brief(),
            fault,
        }),
    }
}

/// What is wrong with a shape. Negative dimensions are unbounded ones, which XLA marks dynamic.
fn shape_fault(shape: &ShapeProto) -> Option<&'static str> {
    if let Some(fault) = shape.tuple_shapes.iter().find_map(shape_fault) {
        return Some(fault);
    }
    if !shape.is_tuple() && super::primitive::primitive(shape.element_type).is_none_or(|p| p.number == 0) {
        return Some("unknown element type");
    }
    if shape.is_tuple() && !shape.dimensions.is_empty() {
        return Some("a tuple has no dimensions");
    }
    let dynamic = |n: usize| shape.is_dynamic_dimension.get(n) == Some(&true);
    if shape.dimensions.iter().enumerate().any(|(n, &d)| d < 0 && !dynamic(n)) {
        return Some("a dimension is negative");
    }
    let mut order = shape.layout.as_ref()?.minor_to_major.clone();
    order.sort_unstable();
    let fits = order.iter().copied().eq(0..shape.dimensions.len() as i64);
    (!fits).then_some("the layout does not order its dimensions")
}

fn check_parameters(c: &HloComputationProto) -> Result<(), StructureError> {
    let mut numbers: Vec<i64> =
        c.instructions.iter().filter(|i| i.opcode == "parameter").map(|i| i.parameter_number).collect();
    numbers.sort_unstable();
    let wrong = numbers.iter().enumerate().find(|&(at, &n)| n != at as i64);
    match wrong {
        None => Ok(()),
        Some((_, &number)) => {
            Err(StructureError::Parameters { computation: c.name.clone(), found: numbers.len(), number })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn module() -> HloModuleProto {
        parse("HloModule m\nadd {\n a = f32[] parameter(0)\n b = f32[] parameter(1)\n ROOT c = f32[] add(a, b)\n}\nENTRY e {\n x = f32[4]{0} parameter(0)\n z = f32[] constant(0)\n ROOT r = f32[] reduce(x, z), dimensions={0}, to_apply=add\n}\n")
            .unwrap()
    }

    fn fault(edit: impl FnOnce(&mut HloModuleProto)) -> StructureError {
        let mut m = module();
        edit(&mut m);
        check(&m).unwrap_err()
    }

    #[test]
    fn a_sound_module_passes() {
        assert_eq!(check(&module()), Ok(()));
    }

    #[test]
    fn every_fault_is_named() {
        use StructureError::*;
        assert!(matches!(fault(|m| m.entry_computation_id = 9), NoEntry { id: 9, computations: 2 }));
        assert!(matches!(fault(|m| m.computations[1].id = 1), Called { .. } | DuplicateComputation { .. }));
        assert!(matches!(fault(|m| m.computations[1].root_id = 77), NoRoot { id: 77, .. }));
        assert!(matches!(
            fault(|m| m.computations[0].instructions[1].id = 1),
            DuplicateInstruction { id: 1, .. }
        ));
        assert!(matches!(fault(|m| m.computations[0].instructions[2].shape = None), NoShape { .. }));
        assert!(matches!(
            fault(|m| m.computations[0].instructions[1].parameter_number = 0),
            Parameters { .. }
        ));
        let own = |m: &mut HloModuleProto| m.computations[0].instructions[2].operand_ids = vec![1, 3];
        assert!(matches!(fault(own), Operand { operand: 3, .. }));
        let recursive =
            |m: &mut HloModuleProto| m.computations[1].instructions[2].called_computation_ids = vec![2];
        assert!(matches!(fault(recursive), Called { called: 2, .. }));
    }

    #[test]
    fn shapes_with_negative_sizes_bad_layouts_or_unknown_types_are_refused() {
        let shape = |edit: fn(&mut ShapeProto)| {
            fault(|m| edit(m.computations[1].instructions[0].shape.as_mut().unwrap())).to_string()
        };
        assert!(shape(|s| s.dimensions[0] = -4).contains("negative"));
        assert!(shape(|s| s.element_type = 99).contains("unknown element type"));
        assert!(shape(|s| s.layout.as_mut().unwrap().minor_to_major = vec![1]).contains("layout"));
    }
}
