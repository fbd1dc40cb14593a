//! The backward pass of a scan is a scan from the other end.
//!
//! Its consts are the consts of the forward scan; its carry the cotangents of the forward carry and sums for the cotangents of
//! the consts; its xs the forward xs, the residuals that the forward scan stacked, and the cotangents of the ys; its ys
//! the cotangents of the xs.

use super::active;
use super::extract::with_body;
use super::joint::Joint;
use super::reverse::or_zeros;
use super::rule::{Cotangents, Pulled, Site};
use crate::build::BuildError;
use crate::ir::{Graph, Op, Scan, TensorType, Value};
use std::sync::Arc;

pub(super) fn scan(site: &mut Site, scan: &Scan) -> Pulled {
    let fixed = scan.num_consts + scan.num_carry;
    if scan.length == 0 {
        let mut pulled = vec![None; site.operands.len()];
        pulled[scan.num_consts..fixed].copy_from_slice(&site.cotangents[..scan.num_carry]);
        return Ok(pulled);
    }
    let inputs = active::scan_inputs(scan, &site.active);
    let joint = Joint::new(&scan.body, &inputs, &seeds(site, scan, &inputs))?;
    // A carry of one iteration is gone in the next, unless the forward scan stacks it.
    let free: Vec<bool> = (0..inputs.len()).map(|i| i < scan.num_consts || i >= fixed).collect();
    let saved = joint.residuals(scan.remat, &free);
    let stacked = save(site, scan, &joint, &saved)?;
    let plan = Plan::new(scan, &joint, &saved);
    let results = plan.insert(site, scan, &joint, (&saved, &stacked))?;
    Ok(plan.pulled(site, results))
}

/// The outputs of the body with a cotangent, in some iteration.
fn seeds(site: &Site, scan: &Scan, inputs: &[bool]) -> Vec<bool> {
    let active = active::from_inputs(&scan.body, inputs);
    let outputs = scan.body.outputs();
    let mut seeds: Vec<bool> = site.cotangents.iter().map(Option::is_some).collect();
    loop {
        let seeded: Vec<Value> = outputs.iter().zip(&seeds).filter(|(_, s)| **s).map(|(v, _)| *v).collect();
        let reached = active::reached(&scan.body, &active, &seeded);
        let before = seeds.clone();
        for (i, v) in scan.body.inputs()[scan.num_consts..].iter().take(scan.num_carry).enumerate() {
            seeds[i] |= reached[v.index()];
        }
        if seeds == before {
            return seeds;
        }
    }
}

/// Lets the forward scan stack the residuals; returns them in the order of `saved`.
fn save(site: &mut Site, scan: &Scan, joint: &Joint, saved: &[Value]) -> Result<Vec<Value>, BuildError> {
    let (places, added) = joint.places(saved, scan.num_carry);
    if !added.is_empty() {
        let stack = |ty: &TensorType| TensorType::new(ty.dtype, [&[scan.length][..], &ty.shape].concat());
        let types = joint.graph.types(&added).iter().map(stack).collect();
        let body = Arc::new(joint.forward(&added)?);
        let op = with_body(&Op::Scan(scan.clone()), body);
        let more = site.b.graph.extend_results(site.index, op, types);
        site.results.extend(more);
    }
    Ok(places.into_iter().map(|i| site.results[i]).collect())
}

/// Who takes part in the backward scan, by position among the inputs or outputs of the forward body.
struct Plan {
    consts: Vec<usize>,
    xs: Vec<usize>,
    /// Carries with a cotangent.
    carry: Vec<usize>,
    ys: Vec<usize>,
    /// Consts and xs that get a cotangent.
    const_gradients: Vec<usize>,
    xs_gradients: Vec<usize>,
    num_consts: usize,
}

impl Plan {
    fn new(scan: &Scan, joint: &Joint, saved: &[Value]) -> Self {
        let (consts, end) = (scan.num_consts, joint.inputs.len());
        let fixed = consts + scan.num_carry;
        let reads = joint.reads(saved);
        let seeded = |i: &usize| joint.cotangents[*i].is_some();
        let pulled = |i: &usize| joint.gradients[*i].is_some();
        Self {
            consts: (0..consts).filter(|&i| reads[i]).collect(),
            xs: (fixed..end).filter(|&i| reads[i]).collect(),
            carry: (0..scan.num_carry).filter(seeded).collect(),
            ys: (scan.num_carry..joint.outputs.len()).filter(seeded).collect(),
            const_gradients: (0..consts).filter(pulled).collect(),
            xs_gradients: (fixed..end).filter(pulled).collect(),
            num_consts: consts,
        }
    }

    /// Inserts the backward scan; results: cotangents of the carry, sums for consts, cotangents of xs.
    fn insert(
        &self,
        site: &mut Site,
        scan: &Scan,
        joint: &Joint,
        (saved, stacked): (&[Value], &[Value]),
    ) -> Result<Vec<Value>, BuildError> {
        let pick = |list: &[Value], at: &[usize]| -> Vec<Value> { at.iter().map(|&i| list[i]).collect() };
        let some =
            |list: &Cotangents, at: &[usize]| -> Vec<Value> { at.iter().filter_map(|&i| list[i]).collect() };
        let mut operands = pick(&site.operands, &self.consts);
        for &i in &self.carry {
            operands.push(or_zeros(site.b, site.cotangents[i], site.results[i])?);
        }
        for &i in &self.const_gradients {
            operands.push(or_zeros(site.b, None, site.operands[i])?);
        }
        operands.extend(pick(&site.operands, &self.xs));
        operands.extend(stacked);
        operands.extend(some(&site.cotangents, &self.ys));

        let inputs = [
            pick(&joint.inputs, &self.consts),
            some(&joint.cotangents, &self.carry),
            pick(&joint.inputs, &self.xs),
            saved.to_vec(),
            some(&joint.cotangents, &self.ys),
        ];
        let carried: Vec<usize> = self.carry.iter().map(|i| self.num_consts + i).collect();
        let places = [&carried[..], &self.const_gradients, &self.xs_gradients].concat();
        let step = joint.backward(&inputs.concat(), &some(&joint.gradients, &places))?;
        let body = self.body(site, joint, &step)?;
        let backward = Scan {
            body: Arc::new(body),
            length: scan.length,
            num_consts: self.consts.len(),
            num_carry: self.carry.len() + self.const_gradients.len(),
            reverse: !scan.reverse,
            remat: scan.remat,
        };
        site.b.insert(Op::Scan(backward), &operands)
    }

    /// `step` with sums over the iterations for the consts, and zeros where a carry gets nothing.
    fn body(&self, site: &Site, joint: &Joint, step: &Graph) -> Result<Graph, BuildError> {
        let start = self.consts.len() + self.carry.len();
        let end = start + self.const_gradients.len();
        let sums: Vec<Value> = self.const_gradients.iter().map(|&i| joint.inputs[i]).collect();
        let mut types = step.input_types();
        types.splice(start..start, joint.graph.types(&sums));
        site.b.subgraph(&types, |b, v| {
            let mut pulled = b.inline(step, &[&v[..start], &v[end..]].concat())?.into_iter();
            let mut outputs = vec![];
            for (slot, &i) in self.carry.iter().enumerate() {
                let flows = joint.gradients[self.num_consts + i].is_some();
                let cotangent = if flows { pulled.next() } else { None };
                outputs.push(or_zeros(b, cotangent, v[self.consts.len() + slot])?);
            }
            for &sum in &v[start..end] {
                let cotangent = or_zeros(b, pulled.next(), sum)?;
                outputs.push(b.add(sum, cotangent)?);
            }
            outputs.extend(pulled);
            Ok(outputs)
        })
    }

    fn pulled(&self, site: &Site, results: Vec<Value>) -> Cotangents {
        let carried = self.carry.iter().map(|i| self.num_consts + i);
        let places =
            carried.chain(self.const_gradients.iter().copied()).chain(self.xs_gradients.iter().copied());
        let mut pulled = vec![None; site.operands.len()];
        places.zip(results).for_each(|(i, v)| pulled[i] = Some(v));
        pulled
    }
}
