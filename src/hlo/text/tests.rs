use super::*;
use crate::hlo::parse;
use crate::hlo::shape::{array_shape, program_shape, shape_of, tuple_shape};
use crate::hlo::{HloComputationProto, literal_of};
use crate::ir::{DType, Literal, TensorType};

/// A module with one instruction of every family that prints attributes of its own.
pub const EVERY_FAMILY: &str = include_str!("../testdata/every_family.hlo.txt");

#[test]
fn every_family_prints_as_it_was_parsed() {
    assert_eq!(print(&parse(EVERY_FAMILY).unwrap()), EVERY_FAMILY);
}

#[test]
fn a_module_made_by_hand_prints_in_xla_syntax() {
    let shape = shape_of(&TensorType::new(DType::F32, [2]));
    let parameter = HloInstructionProto {
        name: "x".into(),
        opcode: "parameter".into(),
        id: 1,
        shape: Some(shape.clone()),
        ..Default::default()
    };
    let negate = HloInstructionProto {
        name: "y".into(),
        opcode: "negate".into(),
        id: 2,
        operand_ids: vec![1],
        shape: Some(shape.clone()),
        ..Default::default()
    };
    let module = HloModuleProto {
        name: "m".into(),
        entry_computation_id: 1,
        computations: vec![HloComputationProto {
            name: "main".into(),
            id: 1,
            root_id: 2,
            instructions: vec![parameter, negate],
            ..Default::default()
        }],
        host_program_shape: Some(program_shape(vec![("x".into(), shape.clone())], shape)),
        ..Default::default()
    };
    let expected = "HloModule m, entry_computation_layout={(f32[2]{0})->f32[2]{0}}\n\nENTRY %main {\n  \
                    %x = f32[2]{0} parameter(0)\n  ROOT %y = f32[2]{0} negate(%x)\n}\n";
    assert_eq!(print(&module), expected);
}

fn constant_text(value: &Literal) -> String {
    let mut out = String::new();
    literal::push_literal(&mut out, Some(&literal_of(value)));
    out
}

#[test]
fn constants_print_in_full_with_special_values() {
    let floats = [0.1f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-9];
    let value = Literal::new([6], &floats).unwrap();
    assert_eq!(constant_text(&value), "{0.1, -0.0, inf, -inf, nan, 1e-09}");
    assert_eq!(constant_text(&Literal::new([2, 2], &[1i32, 2, 3, 4]).unwrap()), "{ { 1, 2 }, { 3, 4 } }");
    assert_eq!(constant_text(&Literal::pred([], &[true]).unwrap()), "true");
    assert_eq!(constant_text(&Literal::pred([2], &[true, false]).unwrap()), "{1, 0}");
    assert_eq!(constant_text(&Literal::new::<f32>([2, 0], &[]).unwrap()), "{ {}, {} }");
    let long = constant_text(&Literal::new([1000], &[7u8; 1000]).unwrap());
    assert_eq!(long.matches('7').count(), 1000);
}

#[test]
fn data_in_column_major_order_prints_in_logical_order() {
    let mut literal = literal_of(&Literal::new([2, 3], &[1i32, 4, 2, 5, 3, 6]).unwrap());
    literal.shape.as_mut().unwrap().layout.as_mut().unwrap().minor_to_major = vec![0, 1];
    let mut out = String::new();
    literal::push_literal(&mut out, Some(&literal));
    assert_eq!(out, "{ { 1, 2, 3 }, { 4, 5, 6 } }");
}

#[test]
fn constants_whose_data_does_not_fit_their_shape_are_elided() {
    let mut literal = literal_of(&Literal::scalar(1.0f32));
    literal.shape = Some(array_shape(11, vec![i64::MAX, i64::MAX]));
    let mut out = String::new();
    literal::push_literal(&mut out, Some(&literal));
    literal.shape = Some(array_shape(11, vec![1 << 40, 0])); // no values, a million million braces
    literal.f32s.clear();
    literal::push_literal(&mut out, Some(&literal));
    assert_eq!(out, "{...}{...}");
}

#[test]
fn names_become_lexable_and_unique() {
    let instruction = |id, name: &str| HloInstructionProto {
        id,
        name: name.into(),
        opcode: "add".into(),
        operand_ids: vec![1, 99],
        shape: Some(tuple_shape(vec![])),
        ..Default::default()
    };
    let computation = HloComputationProto {
        instructions: vec![
            instruction(1, "a b"),
            instruction(2, "a_b"),
            instruction(3, ""),
            instruction(4, "7"),
        ],
        ..Default::default()
    };
    let text = print(&HloModuleProto { computations: vec![computation], ..Default::default() });
    for part in ["%a_b = () add(%a_b, %missing.99)", "%a_b.2 =", "%add =", "%_7 ="] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}
