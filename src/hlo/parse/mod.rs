//! Parses HLO text, ours and XLA's own dumps, into the proto messages.
//!
//! Attributes that are not known are skipped; so are the tables of source positions. Instructions stand after
//! their operands and computations before their callers, as XLA demands too.

mod attributes;
mod cursor;
mod header;
mod instruction;
mod literal;
mod shape;
mod sharding;
#[cfg(test)]
mod tests;

use super::proto::{HloComputationProto, HloInstructionProto, HloModuleProto, ProgramShapeProto, ShapeProto};
use super::shape::tuple_shape;
use cursor::Cursor;
use instruction::Scope;
use std::collections::{HashMap, HashSet};

/// The text is not HLO; the place counts lines and columns from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hlo text, line {line}, column {column}: expected {expected}, found {found}")]
pub struct TextError {
    pub line: usize,
    pub column: usize,
    pub expected: String,
    pub found: String,
}

/// Gives ids and names that are unique in the module, as XLA demands of protos.
#[derive(Default)]
struct Numbering {
    last_id: i64,
    names: HashSet<String>,
}

impl Numbering {
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn unique(&mut self, name: String, id: i64) -> String {
        let mut candidate = name.clone();
        let mut suffix = id;
        while !self.names.insert(candidate.clone()) {
            candidate = format!("{name}.{suffix}");
            suffix += 1;
        }
        candidate
    }
}

/// The module that this text describes. Ids are given in order from 1; an instruction whose name another
/// computation has too gets its id behind it.
///
/// Errors: [`TextError`] at the first place that cannot be understood.
pub fn parse(text: &str) -> Result<HloModuleProto, TextError> {
    let mut cursor = Cursor::new(text);
    let mut module = header::header(&mut cursor)?;
    let mut names: HashMap<&str, i64> = HashMap::new();
    let mut numbering = Numbering::default();
    let mut has_entry = false;
    loop {
        skip_tables(&mut cursor);
        if cursor.rest().is_empty() {
            break;
        }
        let is_entry = cursor.eat("ENTRY ");
        let start = cursor.clone();
        let name = cursor.name("the name of a computation")?;
        let computation = computation(&mut cursor, name, &names, &mut numbering, &module)?;
        if names.insert(name, computation.id).is_some() {
            return Err(start.error("a computation name that is not taken"));
        }
        if is_entry {
            has_entry = true;
            enter(&mut module, &computation);
        }
        module.computations.push(computation);
    }
    if !has_entry {
        return Err(cursor.error("an `ENTRY` computation"));
    }
    Ok(module)
}

/// Makes this the entry of the module; the shapes of a layout in the header are kept.
fn enter(module: &mut HloModuleProto, entry: &HloComputationProto) {
    module.entry_computation_id = entry.id;
    module.entry_computation_name = entry.name.clone();
    let own = entry.program_shape.clone().unwrap_or_default();
    match &mut module.host_program_shape {
        Some(shape) => shape.parameter_names = own.parameter_names,
        None => module.host_program_shape = Some(own),
    }
}

/// Skips tables such as `FileNames` with their numbered rows.
fn skip_tables(cursor: &mut Cursor) {
    cursor.space();
    while ["FileNames", "FunctionNames", "FileLocations", "StackFrames"].iter().any(|t| cursor.eat(t)) {
        cursor.space();
        while cursor.rest().starts_with(|c: char| c.is_ascii_digit()) {
            cursor.skip_line();
            cursor.space();
        }
    }
}

fn computation<'a>(
    cursor: &mut Cursor<'a>,
    name: &str,
    computations: &HashMap<&'a str, i64>,
    numbering: &mut Numbering,
    module: &HloModuleProto,
) -> Result<HloComputationProto, TextError> {
    if cursor.sees("(") {
        cursor.raw_value()?; // the parameters say it again
        cursor.expect("->")?;
        shape::shape(cursor)?;
    }
    cursor.expect("{")?;
    let mut scope = Scope::new(computations);
    let mut instructions = Vec::new();
    let mut root = None;
    while !cursor.eat("}") {
        let id = numbering.next_id();
        let (mut instruction, is_root) = instruction::instruction(cursor, &mut scope, id)?;
        instruction.name = numbering.unique(instruction.name, id);
        if is_root {
            root = Some(id);
        }
        instructions.push(instruction);
    }
    let root_id = match (root, instructions.last()) {
        (Some(id), _) => id,
        (None, Some(last)) => last.id,
        (None, None) => return Err(cursor.error("at least one instruction before the `}`")),
    };
    let id = module.computations.len() as i64 + 1;
    let program_shape = Some(signature(&instructions, root_id));
    let mut out = HloComputationProto {
        name: name.into(),
        instructions,
        id,
        root_id,
        program_shape,
        ..Default::default()
    };
    while cursor.eat(",") {
        let key = cursor.word("an attribute")?;
        cursor.expect("=")?;
        match key {
            "execution_thread" => out.execution_thread = cursor.string()?,
            _ => drop(cursor.raw_value()?),
        }
    }
    Ok(out)
}

/// Parameters in the order of their numbers, and the shape of the root.
fn signature(instructions: &[HloInstructionProto], root_id: i64) -> ProgramShapeProto {
    let mut parameters: Vec<&HloInstructionProto> =
        instructions.iter().filter(|i| i.opcode == "parameter").collect();
    parameters.sort_by_key(|p| p.parameter_number);
    let shape_of = |i: &HloInstructionProto| i.shape.clone().unwrap_or_default();
    let root: Option<ShapeProto> = instructions.iter().find(|i| i.id == root_id).map(shape_of);
    ProgramShapeProto {
        parameters: parameters.iter().map(|p| shape_of(p)).collect(),
        result: Some(root.unwrap_or_else(|| tuple_shape(vec![]))),
        parameter_names: parameters.iter().map(|p| p.name.clone()).collect(),
    }
}
