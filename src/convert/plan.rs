//! Which part of which tensor holds the same numbers on either side.

use super::copy::Float;
use super::error::Problem;
use super::weights::Weights;
use crate::config::{ModelConfig, Side};
use crate::ir::TensorType;
use crate::layers::ParamDef;
use crate::model;
use std::collections::HashSet;

/// A tensor there, and how its numbers lie in the tensor here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub name: String,
    /// The shape there.
    pub shape: Vec<usize>,
    /// Whether it is a matrix that is transposed here: linear layers there are `[out, in]`.
    pub transposed: bool,
}

impl Plan {
    /// A problem for each parameter that would get lost, or stay empty.
    pub fn unmapped(&self, model: &'static str) -> impl Iterator<Item = Problem> {
        self.unmapped.iter().map(move |name| Problem::Unmapped { name: name.clone(), model })
    }
}

impl Piece {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns there; the last axis is the columns.
    pub fn matrix(&self) -> (usize, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        (self.elements().checked_div(columns).unwrap_or(0), columns)
    }
}

/// A tensor here and the pieces that fill it, in row-major order.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub ty: TensorType,
    pub pieces: Vec<Piece>,
}

/// Everything of a model, on both sides.
#[derive(Clone, Debug)]
pub struct Plan {
    pub targets: Vec<Target>,
    /// Parameters here that nothing there holds: none for a configuration that the family can express.
    pub unmapped: Vec<String>,
    /// Names there that hold the same numbers. A target takes the first; at least one must be there.
    pub copies: Vec<&'static str>,
    /// Names that can be absent, since others hold the same numbers.
    pub optional: &'static [&'static str],
    /// Beginnings of names that may be there and mean nothing.
    pub ignored: Vec<String>,
}

/// How a parameter is named there.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Below stack and block, such as `attention/q`; of a parameter outside of blocks the whole name.
    pub ours: &'static str,
    /// With `{layer}`, `{expert}` and the table's own words in place of what varies.
    pub theirs: &'static str,
    pub transposed: bool,
}

/// A row whose tensor has the same layout on both sides.
pub const fn same(ours: &'static str, theirs: &'static str) -> Row {
    Row { ours, theirs, transposed: false }
}

/// A row of a linear layer, `[out, in]` there.
pub const fn linear(ours: &'static str, theirs: &'static str) -> Row {
    Row { ours, theirs, transposed: true }
}

/// The names of one stack.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The stack here.
    pub side: Side,
    /// What stands for the words in braces.
    pub words: &'a [(&'a str, &'a str)],
    pub rows: &'a [Row],
}

/// The parameters of a model as targets: those in blocks by the table of their stack, others by `rest`; and the names of those
/// that have no row.
pub fn targets(model: &ModelConfig, tables: &[Table], rest: &[Row]) -> (Vec<Target>, Vec<String>) {
    let target = |def: &ParamDef| {
        let stack = def.name.split('/').next();
        let table = tables.iter().find(|table| stack == Some(table.side.name()));
        let pieces = table.and_then(|table| stacked(model, table, def)).or_else(|| {
            let row = rest.iter().find(|row| row.ours == def.name)?;
            Some(vec![piece(row, &[], &def.shape)])
        })?;
        Some(Target { name: def.name.clone(), ty: def.ty(), pieces })
    };
    let (mut targets, mut unmapped) = (vec![], vec![]);
    for def in model::declare(model) {
        match target(&def) {
            Some(target) => targets.push(target),
            None => unmapped.push(def.name),
        }
    }
    (targets, unmapped)
}

/// Number of tensors there that [`targets`] would name, without making the names.
pub fn count(model: &ModelConfig) -> usize {
    let stacked = |def: &ParamDef| def.shape.iter().take(def.batch_axes).product::<usize>();
    model::declare(model).iter().map(stacked).fold(0, usize::saturating_add)
}

/// The pieces of a parameter that is stacked over the blocks of a scope, and over experts.
fn stacked(model: &ModelConfig, table: &Table, def: &ParamDef) -> Option<Vec<Piece>> {
    let mut path = def.name.splitn(3, '/').skip(1);
    let (scope, name) = (path.next()?, path.next()?);
    let row = table.rows.iter().find(|row| row.ours == name)?;
    let inner = def.shape.get(def.batch_axes..)?;
    let experts = if row.theirs.contains("{expert}") { model.moe.num_experts } else { 1 };
    let mut pieces = vec![];
    let places = model.places(table.side).into_iter().enumerate();
    // Blocks of one scope are stacked in their order.
    for (layer, _) in places.filter(|(_, place)| place.scope == scope) {
        for expert in 0..experts {
            let numbers = [("{layer}", layer.to_string()), ("{expert}", expert.to_string())];
            let words = table.words.iter().map(|(word, text)| (*word, text.to_string()));
            let words: Vec<_> = words.chain(numbers).collect();
            pieces.push(piece(row, &words, inner));
        }
    }
    Some(pieces)
}

fn piece(row: &Row, words: &[(&str, String)], shape: &[usize]) -> Piece {
    let name = words.iter().fold(row.theirs.to_string(), |name, (word, text)| name.replace(word, text));
    let mut shape = shape.to_vec();
    if row.transposed {
        shape.reverse();
    }
    Piece { name, shape, transposed: row.transposed }
}

impl Plan {
    /// Compares names, shapes and element types with those of the files; what does not fit goes to `problems`.
    ///
    /// Of the copies, the first that is there is taken.
    pub fn check(&mut self, weights: &Weights, problems: &mut Vec<Problem>) {
        self.pick_copy(weights, problems);
        let mut known: HashSet<&str> = HashSet::new();
        for piece in self.pieces() {
            known.insert(&piece.name);
            problems.extend(misfit(piece, weights));
        }
        let means_something = |name: &&str| {
            let ignored = self.ignored.iter().any(|start| name.starts_with(start));
            !known.contains(name) && !self.copies.contains(name) && !ignored
        };
        problems.extend(weights.names().filter(means_something).map(|name| Problem::Unknown {
            name: name.into(),
            shape: weights.ty(name).map(|ty| ty.shape.clone()).unwrap_or_default(),
        }));
    }

    /// Every tensor there.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.targets.iter().flat_map(|target| &target.pieces)
    }

    fn pick_copy(&mut self, weights: &Weights, problems: &mut Vec<Problem>) {
        let there: Vec<_> = self.copies.iter().copied().filter(|name| weights.ty(name).is_some()).collect();
        let [first, rest @ ..] = &there[..] else { return };
        let differs = |name: &&&str| weights.bytes(name).ok() != weights.bytes(first).ok();
        problems.extend(
            rest.iter()
                .filter(differs)
                .map(|name| Problem::Differs { name: name.to_string(), other: first.to_string() }),
        );
        let taken = self.copies.first().copied();
        let pieces = self.targets.iter_mut().flat_map(|target| &mut target.pieces);
        for piece in pieces.filter(|piece| Some(piece.name.as_str()) == taken) {
            piece.name = first.to_string();
        }
    }
}

/// What is wrong with the tensor of a piece.
fn misfit(piece: &Piece, weights: &Weights) -> Option<Problem> {
    let name = piece.name.clone();
    let Some(ty) = weights.ty(&piece.name) else {
        return Some(Problem::Missing { name, shape: piece.shape.clone() });
    };
    if ty.shape != piece.shape {
        let (found, expected) = (ty.shape.clone(), piece.shape.clone());
        return Some(Problem::Shape { name, found, expected });
    }
    let unknown = Float::of(ty.dtype).is_none();
    unknown.then(|| Problem::ElementType { name, found: ty.dtype.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_without_a_row_are_named_and_not_dropped() {
        let model = ModelConfig { num_encoder_layers: 0, ..ModelConfig::default() };
        let rows = [same("attention/norm", "layer.{layer}.norm")];
        let table = Table { side: Side::Decoder, words: &[], rows: &rows };
        let (found, unmapped) = targets(&model, &[table], &[]);
        assert!(found.iter().all(|target| target.name.ends_with("/attention/norm")) && !found.is_empty());
        assert_eq!(found.len() + unmapped.len(), model::declare(&model).len());
        assert!(unmapped.iter().any(|name| name == "shared/embedding"), "{unmapped:?}");
    }
}
