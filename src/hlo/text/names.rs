//! Names that XLA's lexer accepts, unique where they have to be.

use crate::hlo::proto::{HloComputationProto, HloModuleProto};
use std::collections::{HashMap, HashSet};

/// Printed names of the computations of a module.
pub struct Names {
    computations: HashMap<i64, String>,
}

/// Printed names inside one computation.
pub struct Inside<'a> {
    module: &'a Names,
    by_position: Vec<String>,
    by_id: HashMap<i64, usize>,
}

impl Names {
    pub fn of(module: &HloModuleProto) -> Self {
        let mut taken = HashSet::new();
        let mut computations = HashMap::new();
        for c in &module.computations {
            let name = unique(clean(&c.name, "computation"), c.id, &mut taken);
            computations.entry(c.id).or_insert(name);
        }
        Self { computations }
    }

    /// The name without `%`; a computation that is not there prints as `missing.7`.
    pub fn computation(&self, id: i64) -> String {
        self.computations.get(&id).cloned().unwrap_or_else(|| format!("missing.{}", id.unsigned_abs()))
    }

    pub fn inside(&self, computation: &HloComputationProto) -> Inside<'_> {
        let mut taken = HashSet::new();
        let mut by_id = HashMap::new();
        let mut by_position = Vec::with_capacity(computation.instructions.len());
        for (position, i) in computation.instructions.iter().enumerate() {
            by_position.push(unique(clean(&i.name, &i.opcode), i.id, &mut taken));
            by_id.entry(i.id).or_insert(position);
        }
        Inside { module: self, by_position, by_id }
    }
}

impl Inside<'_> {
    /// The name of the instruction at this position, without `%`.
    pub fn at(&self, position: usize) -> &str {
        self.by_position.get(position).map_or("missing", String::as_str)
    }

    /// The name of an operand, with `%`.
    pub fn operand(&self, id: i64) -> String {
        match self.by_id.get(&id) {
            Some(&position) => format!("%{}", self.at(position)),
            None => format!("%missing.{}", id.unsigned_abs()),
        }
    }

    /// The name of a called computation, with `%`.
    pub fn computation(&self, id: i64) -> String {
        format!("%{}", self.module.computation(id))
    }
}

/// The name with every character that the lexer refuses replaced by `_`; `fallback` where it is empty.
pub fn clean(name: &str, fallback: &str) -> String {
    let name = if name.is_empty() { fallback } else { name };
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut out: String = name.chars().map(|c| if ok(c) { c } else { '_' }).collect();
    if !out.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        out.insert(0, '_');
    }
    out
}

fn unique(name: String, id: i64, taken: &mut HashSet<String>) -> String {
    let mut candidate = name.clone();
    let mut suffix = id.unsigned_abs();
    while !taken.insert(candidate.clone()) {
        candidate = format!("{name}.{suffix}");
        suffix = suffix.wrapping_add(1);
    }
    candidate
}
