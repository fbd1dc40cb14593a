//! Conditionals and barriers.

use super::joint::Joint;
use super::rule::{Cotangents, Pulled, Site};
use crate::build::BuildError;
use crate::ir::{Graph, Value};
use std::sync::Arc;

/// The cotangents wait for each other, as the values did.
pub(super) fn barrier(site: &mut Site) -> Pulled {
    let wanted = |i: &usize| site.active[*i] && site.cotangents[*i].is_some();
    let places: Vec<usize> = (0..site.operands.len()).filter(wanted).collect();
    let cotangents: Vec<Value> = places.iter().filter_map(|&i| site.cotangents[i]).collect();
    let mut pulled = vec![None; site.operands.len()];
    for (i, v) in places.into_iter().zip(site.b.optimization_barrier(&cotangents)?) {
        pulled[i] = Some(v);
    }
    Ok(pulled)
}

/// A conditional between the backward passes of the branches; each computes its forward pass again.
pub(super) fn conditional(site: &mut Site, branches: &[Arc<Graph>]) -> Pulled {
    let seeds: Vec<bool> = site.cotangents.iter().map(Option::is_some).collect();
    let joints: Vec<Joint> =
        branches.iter().map(|body| Joint::new(body, &site.active[1..], &seeds)).collect::<Result<_, _>>()?;
    let read: Vec<Vec<bool>> = joints.iter().map(|joint| joint.reads(&[])).collect();
    let count = site.operands.len() - 1;
    let inputs: Vec<usize> = (0..count).filter(|&i| read.iter().any(|r| r[i])).collect();
    let gradients: Vec<usize> =
        (0..count).filter(|&i| joints.iter().any(|joint| joint.gradients[i].is_some())).collect();
    let bodies = joints
        .iter()
        .map(|joint| backward_branch(site, joint, &inputs, &gradients).map(Arc::new))
        .collect::<Result<_, _>>()?;
    let mut operands: Vec<Value> = inputs.iter().map(|i| site.operands[i + 1]).collect();
    operands.extend(site.cotangents.iter().flatten());
    let results = site.b.conditional(site.operands[0], bodies, &operands)?;
    let mut pulled: Cotangents = vec![None; count + 1];
    gradients.iter().zip(results).for_each(|(i, v)| pulled[i + 1] = Some(v));
    Ok(pulled)
}

/// From the read operands and the cotangents of the results to the cotangents of the operands, zeros where a branch has none.
fn backward_branch(
    site: &Site,
    joint: &Joint,
    inputs: &[usize],
    gradients: &[usize],
) -> Result<Graph, BuildError> {
    let mut from: Vec<Value> = inputs.iter().map(|&i| joint.inputs[i]).collect();
    from.extend(joint.cotangents.iter().flatten());
    let to: Vec<Value> = gradients.iter().filter_map(|&i| joint.gradients[i]).collect();
    let backward = joint.backward(&from, &to)?;
    site.b.subgraph(&backward.input_types(), |b, v| {
        let mut pulled = b.inline(&backward, v)?.into_iter();
        let mut outputs = vec![];
        for &i in gradients {
            let cotangent = joint.gradients[i].and_then(|_| pulled.next());
            outputs.push(match cotangent {
                Some(cotangent) => cotangent,
                None => b.zeros(joint.graph.ty(joint.inputs[i]))?,
            });
        }
        Ok(outputs)
    })
}
