//! Calls, conditionals and barriers.

use super::extract::with_body;
use super::joint::Joint;
use super::reverse::or_zeros;
use super::rule::{Cotangents, Pulled, Site};
use crate::build::BuildError;
use crate::ir::{Call, Derivative, Graph, Op, RematPolicy, Value};
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

pub(super) fn call(site: &mut Site, call: &Call) -> Pulled {
    match &call.derivative {
        Derivative::Body(policy) => {
            let seeds: Vec<bool> = site.cotangents.iter().map(Option::is_some).collect();
            let joint = Joint::new(&call.body, &site.active, &seeds)?;
            let saved = joint.residuals(*policy, &vec![true; site.operands.len()]);
            let values = save(site, call, &joint, &saved)?;
            // Without a barrier the compiler would find that it has these values already, and keep them.
            let wall = *policy != RematPolicy::SaveAll && joint.recomputes(&saved);
            inline_backward(site, &joint, (&saved, values), wall)
        }
        Derivative::Custom { vjp, num_primals } => custom(site, call, vjp, *num_primals),
    }
}

/// Lets the call return the residuals too; returns them in the order of `saved`.
fn save(site: &mut Site, call: &Call, joint: &Joint, saved: &[Value]) -> Result<Vec<Value>, BuildError> {
    let (places, added) = joint.places(saved, 0);
    if !added.is_empty() {
        let op = with_body(&Op::Call(call.clone()), Arc::new(joint.forward(&added)?));
        let more = site.b.graph.extend_results(site.index, op, joint.graph.types(&added));
        site.results.extend(more);
    }
    Ok(places.into_iter().map(|i| site.results[i]).collect())
}

/// Inserts the backward pass of a joint graph whose inputs are the operands of the node.
fn inline_backward(
    site: &mut Site,
    joint: &Joint,
    (saved, values): (&[Value], Vec<Value>),
    wall: bool,
) -> Pulled {
    let mut inputs = vec![];
    let mut operands = vec![];
    for (i, read) in joint.reads(saved).into_iter().enumerate() {
        if read && !saved.contains(&joint.inputs[i]) {
            inputs.push(joint.inputs[i]);
            operands.push(site.operands[i]);
        }
    }
    inputs.extend(saved);
    operands.extend(values);
    inputs.extend(joint.cotangents.iter().flatten());
    operands.extend(site.cotangents.iter().zip(&joint.cotangents).filter_map(|(g, used)| used.and(*g)));
    if wall {
        operands = site.b.optimization_barrier(&operands)?;
    }
    let gradients: Vec<Value> = joint.gradients.iter().flatten().copied().collect();
    let backward = joint.backward(&inputs, &gradients)?;
    let mut pulled = site.b.inline(&backward, &operands)?.into_iter();
    Ok(joint.gradients.iter().map(|g| g.and_then(|_| pulled.next())).collect())
}

/// The derivative that the call brings. Residuals get a cotangent only where that derivative is differentiated
/// again; they then take the way through the body.
fn custom(site: &mut Site, call: &Call, vjp: &Graph, num_primals: usize) -> Pulled {
    let residual_seeds: Vec<bool> =
        site.cotangents.iter().enumerate().map(|(i, g)| i >= num_primals && g.is_some()).collect();
    let through_body = if residual_seeds.contains(&true) {
        let joint = Joint::new(&call.body, &site.active, &residual_seeds)?;
        inline_backward(site, &joint, (&[], vec![]), false)?
    } else {
        vec![None; site.operands.len()]
    };
    if site.cotangents[..num_primals].iter().all(Option::is_none) {
        return Ok(through_body);
    }
    let through_rule = custom_rule(site, vjp, num_primals)?;
    let pairs = through_body.into_iter().zip(through_rule);
    pairs
        .map(|pair| match pair {
            (Some(a), Some(b)) => site.b.add(a, b).map(Some),
            (a, b) => Ok(a.or(b)),
        })
        .collect()
}

fn custom_rule(site: &mut Site, vjp: &Graph, num_primals: usize) -> Pulled {
    let mut operands = [&site.operands[..], &site.results].concat();
    for i in 0..num_primals {
        if site.b.dtype(site.results[i]).is_float() {
            operands.push(or_zeros(site.b, site.cotangents[i], site.results[i])?);
        }
    }
    let mut pulled = site.b.inline(vjp, &operands)?.into_iter();
    let floats = |v: &Value| site.b.dtype(*v).is_float();
    Ok(site.operands.iter().map(|v| if floats(v) { pulled.next() } else { None }).collect())
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
