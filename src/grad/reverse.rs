//! The walk from the last node to the first.

use super::call::Bodies;
use super::rule::{Cotangents, Site, apply};
use super::{GradError, active};
use crate::build::{BuildError, Builder};
use crate::ir::Value;
use crate::ir::scope::{GRAD, below};

/// The cotangents of `wrt`; `None` where nothing flows.
pub(super) fn pull(
    b: &mut Builder,
    outputs: &[(Value, Value)],
    wrt: &[Value],
) -> Result<Cotangents, BuildError> {
    let end = b.graph.nodes().len();
    let mut seeds = vec![false; b.graph.num_values()];
    wrt.iter().for_each(|v| seeds[v.index()] = true);
    let active = active::values(&b.graph, seeds);
    let bodies = Bodies::new(&b.graph);
    let mut table = Table { cotangents: vec![None; active.len()], active, bodies };
    for &(output, cotangent) in outputs {
        table.add(b, output, cotangent)?;
    }
    let outer = b.scope();
    let done = (0..end).rev().try_for_each(|index| table.visit(b, index));
    b.set_scope(outer);
    done?;
    Ok(wrt.iter().map(|v| table.cotangents[v.index()]).collect())
}

/// The cotangent, or zeros of the type of `value`.
pub(super) fn or_zeros(b: &mut Builder, cotangent: Option<Value>, value: Value) -> Result<Value, BuildError> {
    match cotangent {
        Some(cotangent) => Ok(cotangent),
        None => {
            let ty = b.ty(value).clone();
            b.zeros(&ty)
        }
    }
}

/// What has flown so far, by value.
struct Table {
    cotangents: Cotangents,
    /// On a path of floats from `wrt`.
    active: Vec<bool>,
    bodies: Bodies,
}

impl Table {
    fn visit(&mut self, b: &mut Builder, index: usize) -> Result<(), BuildError> {
        let node = &b.graph.nodes()[index];
        let flows = |v: &Value| self.cotangents[v.index()].is_some();
        let wanted = |v: &Value| self.active[v.index()];
        if !node.results.iter().any(flows) || !node.operands.iter().any(wanted) {
            return Ok(());
        }
        let node = node.clone();
        b.set_scope(below(GRAD, &node.scope));
        let mut site = Site {
            index,
            operands: node.operands.clone(),
            cotangents: node.results.iter().map(|v| self.cotangents[v.index()]).collect(),
            active: node.operands.iter().map(wanted).collect(),
            results: node.results,
            scope: node.scope,
            b,
            bodies: &mut self.bodies,
        };
        let contributions = apply(&mut site, &node.op)?;
        for (operand, cotangent) in node.operands.into_iter().zip(contributions) {
            if let Some(cotangent) = cotangent {
                self.add(b, operand, cotangent)?;
            }
        }
        Ok(())
    }

    /// Adds to the cotangent of `value`, if anybody wants it.
    fn add(&mut self, b: &mut Builder, value: Value, cotangent: Value) -> Result<(), BuildError> {
        let (expected, found) = (b.ty(value).clone(), b.ty(cotangent).clone());
        if expected != found {
            let scope = b.scope().to_string();
            return Err(GradError::Cotangent { value, expected, found, scope }.into());
        }
        if self.active[value.index()] {
            let sum = match self.cotangents[value.index()] {
                Some(earlier) => b.add(earlier, cotangent)?,
                None => cotangent,
            };
            self.cotangents[value.index()] = Some(sum);
        }
        Ok(())
    }
}
