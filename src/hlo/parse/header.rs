//! The first line: name, aliases, donors and layout of the entry.

use super::TextError;
use super::cursor::Cursor;
use super::shape::shape;
use crate::hlo::proto::*;

/// Reads `HloModule name, key=value, ..`; the keys that the messages have no place for are skipped.
pub fn header(c: &mut Cursor) -> Result<HloModuleProto, TextError> {
    c.expect("HloModule")?;
    let name = c.name("the name of the module")?;
    let mut module = HloModuleProto { name: name.into(), ..Default::default() };
    while c.eat(",") {
        let key = c.word("an attribute of the module")?;
        c.expect("=")?;
        match key {
            "input_output_alias" => {
                let entries = c.list(("{", "}"), alias)?;
                module.input_output_alias = Some(HloInputOutputAliasProto { entries });
            }
            "buffer_donor" => {
                let entries = c.list(("{", "}"), donor)?;
                module.buffer_donor = Some(HloBufferDonorProto { entries });
            }
            "entry_computation_layout" => module.host_program_shape = Some(layout(c)?),
            "frontend_attributes" => module.frontend_attributes = Some(frontend_attributes(c)?),
            _ => drop(c.raw_value()?),
        }
    }
    Ok(module)
}

/// `{0}: (1, {}, may-alias)`; the kind may be missing.
fn alias(c: &mut Cursor) -> Result<AliasEntryProto, TextError> {
    let output_shape_index = c.integers()?;
    c.expect(":")?;
    c.expect("(")?;
    let parameter_number = c.integer()?;
    c.expect(",")?;
    let parameter_shape_index = c.integers()?;
    let mut kind = 1;
    if c.eat(",") {
        let start = c.clone();
        kind = match c.word("`may-alias` or `must-alias`")? {
            "may-alias" => 1,
            "must-alias" => 2,
            _ => return Err(start.error("`may-alias` or `must-alias`")),
        };
    }
    c.expect(")")?;
    Ok(AliasEntryProto { output_shape_index, parameter_number, parameter_shape_index, kind })
}

/// `(1, {})`.
fn donor(c: &mut Cursor) -> Result<BufferDonorEntryProto, TextError> {
    c.expect("(")?;
    let parameter_number = c.integer()?;
    c.expect(",")?;
    let parameter_shape_index = c.integers()?;
    c.expect(")")?;
    Ok(BufferDonorEntryProto { parameter_number, parameter_shape_index })
}

/// `{(f32[2]{0}, s32[])->f32[2]{0}}`.
fn layout(c: &mut Cursor) -> Result<ProgramShapeProto, TextError> {
    c.expect("{")?;
    let parameters = c.list(("(", ")"), shape)?;
    c.expect("->")?;
    let result = Some(shape(c)?);
    c.expect("}")?;
    Ok(ProgramShapeProto { parameters, result, parameter_names: vec![] })
}

/// `{key="value",other={raw text}}`.
pub fn frontend_attributes(c: &mut Cursor) -> Result<FrontendAttributes, TextError> {
    let rows = c.list(("{", "}"), |c| {
        let key = c.word("a key")?.to_string();
        c.expect("=")?;
        let value = if c.sees("\"") { c.string()? } else { c.raw_value()?.to_string() };
        Ok((key, value))
    })?;
    Ok(FrontendAttributes { map: rows.into_iter().collect() })
}
