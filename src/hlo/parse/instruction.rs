//! One instruction: `ROOT %name = shape opcode(operands), attributes`.

use super::TextError;
use super::attributes::{Calls, attribute};
use super::cursor::Cursor;
use super::literal::literal;
use super::shape::shape;
use crate::hlo::proto::HloInstructionProto;
use std::collections::HashMap;

/// The names that an instruction may use.
pub struct Scope<'a, 'm> {
    computations: &'m HashMap<&'a str, i64>,
    instructions: HashMap<&'a str, i64>,
}

impl<'a, 'm> Scope<'a, 'm> {
    pub fn new(computations: &'m HashMap<&'a str, i64>) -> Self {
        Self { computations, instructions: HashMap::new() }
    }

    /// Reads the name of an instruction above.
    pub fn instruction(&self, c: &mut Cursor<'a>) -> Result<i64, TextError> {
        let start = c.clone();
        let name = c.name("the name of an instruction")?;
        let found = self.instructions.get(name).copied();
        found.ok_or_else(|| start.error("the name of an instruction above in this computation"))
    }

    /// Reads the name of a computation above.
    pub fn computation(&self, c: &mut Cursor<'a>) -> Result<i64, TextError> {
        let start = c.clone();
        let name = c.name("the name of a computation")?;
        let found = self.computations.get(name).copied();
        found.ok_or_else(|| start.error("the name of a computation above"))
    }
}

/// Reads an instruction and whether it is marked as the root.
pub fn instruction<'a>(
    c: &mut Cursor<'a>,
    scope: &mut Scope<'a, '_>,
    id: i64,
) -> Result<(HloInstructionProto, bool), TextError> {
    let is_root = c.eat("ROOT ");
    let start = c.clone();
    let name = c.name("an instruction or `}`")?;
    c.expect("=")?;
    let of = shape(c)?;
    let opcode = c.word("an opcode")?;
    let mut out = HloInstructionProto { name: name.into(), opcode: opcode.into(), id, ..Default::default() };
    if opcode == "custom-call" {
        out.custom_call_api_version = 1; // the original, where the text says nothing
    }
    c.expect("(")?;
    match opcode {
        "parameter" => {
            let start = c.clone();
            out.parameter_number = c.integer()?;
            if out.parameter_number < 0 {
                return Err(start.error("a parameter number of at least 0"));
            }
        }
        "constant" => out.literal = literal(c, &of)?.map(Box::new),
        _ => operands(c, scope, &mut out)?,
    }
    c.expect(")")?;
    out.shape = Some(of);
    let mut calls = Calls::default();
    while c.eat(",") {
        let key = c.word("an attribute")?;
        c.expect("=")?;
        attribute(c, key, scope, &mut out, &mut calls)?;
    }
    out.called_computation_ids = calls.into_ids();
    if scope.instructions.insert(name, id).is_some() {
        return Err(start.error("an instruction name that is not taken"));
    }
    Ok((out, is_root))
}

/// Names, each with its shape before it or without.
fn operands<'a>(
    c: &mut Cursor<'a>,
    scope: &Scope<'a, '_>,
    out: &mut HloInstructionProto,
) -> Result<(), TextError> {
    while !c.sees(")") {
        if !out.operand_ids.is_empty() {
            c.expect(",")?;
        }
        let mut ahead = c.clone();
        let has_shape = ahead.sees("(") || (ahead.word("").is_ok() && ahead.rest().starts_with('['));
        if has_shape {
            shape(c)?;
        }
        out.operand_ids.push(scope.instruction(c)?);
    }
    Ok(())
}
