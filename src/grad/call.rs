//! Calls: by the derivative that they bring, or through their bodies.

use super::joint::Joint;
use super::reverse::or_zeros;
use super::rule::{Pulled, Site};
use crate::build::{BuildError, Builder};
use crate::ir::{Address, Call, Derivative, Graph, Op, RematPolicy, TensorType, Value, shared_bodies};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The bodies that calls of a graph have in common, each differentiated once.
pub(super) struct Bodies {
    shared: HashSet<Address>,
    pairs: HashMap<(Address, RematPolicy, Marks, Marks), Arc<Pair>>,
}

type Marks = Vec<bool>;

impl Bodies {
    pub fn new(graph: &Graph) -> Self {
        Self { shared: shared_bodies(graph), pairs: HashMap::new() }
    }

    fn is_shared(&self, body: &Arc<Graph>) -> bool {
        self.shared.contains(&Address(body.clone()))
    }

    /// The two halves of a body: `wanted` and `seeds` as in [`Joint::new`].
    fn pair(
        &mut self,
        body: &Arc<Graph>,
        policy: RematPolicy,
        wanted: &[bool],
        seeds: Marks,
    ) -> Result<Arc<Pair>, BuildError> {
        let key = (Address(body.clone()), policy, wanted.to_vec(), seeds);
        if let Some(pair) = self.pairs.get(&key) {
            return Ok(pair.clone());
        }
        let joint = Joint::new(body, wanted, &key.3)?;
        let saved = joint.residuals(policy, &vec![true; wanted.len()]);
        // Without a barrier the compiler would find that it has what is computed again, and keep it.
        let walls = match policy {
            RematPolicy::SaveAll => joint.widened(&saved),
            _ => vec![joint.recomputes(&saved); joint.graph.num_values()],
        };
        let pair = Arc::new(Pair::new(&joint, &saved, &walls)?);
        self.pairs.insert(key, pair.clone());
        Ok(pair)
    }
}

pub(super) fn call(site: &mut Site, call: &Call) -> Pulled {
    match &call.derivative {
        Derivative::Body(policy) => {
            let seeds = site.cotangents.iter().map(Option::is_some).collect();
            let pair = site.bodies.pair(&call.body, *policy, &site.active, seeds)?;
            pair.pull(site, call)
        }
        Derivative::Custom { vjp, num_primals } => custom(site, call, vjp, *num_primals),
    }
}

/// A body that returns what its backward pass needs, and that pass.
struct Pair {
    /// The body with more results, and their types; `None` where it returns all anyway.
    forward: Option<(Arc<Graph>, Vec<TensorType>)>,
    backward: Arc<Graph>,
    /// What the backward pass takes: these operands of the call, then these of its results, then the cotangents of these.
    operands: Vec<usize>,
    saved: Vec<usize>,
    cotangents: Vec<usize>,
    /// Which operands get a gradient.
    gradients: Marks,
    /// Which of what the backward pass takes a barrier comes before.
    walls: Marks,
}

impl Pair {
    /// `walls`: the values of the joint graph that need a barrier.
    fn new(joint: &Joint, saved: &[Value], walls: &[bool]) -> Result<Self, BuildError> {
        let (places, added) = joint.places(saved, 0);
        let forward = match added.is_empty() {
            true => None,
            false => Some((Arc::new(joint.forward(&added)?), joint.graph.types(&added))),
        };
        let reads = joint.reads(saved);
        let cotangents = (0..joint.outputs.len()).filter(|&i| joint.cotangents[i].is_some()).collect();
        let takes = |&i: &usize| reads[i] && !saved.contains(&joint.inputs[i]);
        let operands: Vec<usize> = (0..reads.len()).filter(takes).collect();
        let mut inputs: Vec<Value> = operands.iter().map(|&i| joint.inputs[i]).collect();
        inputs.extend(saved);
        inputs.extend(joint.cotangents.iter().flatten());
        let walls = inputs.iter().map(|v| walls[v.index()]).collect();
        let gradients: Vec<Value> = joint.gradients.iter().flatten().copied().collect();
        let backward = Arc::new(joint.backward(&inputs, &gradients)?);
        let gradients = joint.gradients.iter().map(Option::is_some).collect();
        Ok(Self { forward, backward, operands, saved: places, cotangents, gradients, walls })
    }

    /// Lets the call return what the backward pass needs, and inserts that pass: a call again where the body has others.
    fn pull(&self, site: &mut Site, call: &Call) -> Pulled {
        if let Some((body, more)) = &self.forward {
            let op = Op::Call(Call { body: body.clone(), ..call.clone() });
            let more = site.b.graph.extend_results(site.index, op, more.clone());
            site.results.extend(more);
        }
        let mut operands: Vec<Value> = self.operands.iter().map(|&i| site.operands[i]).collect();
        operands.extend(self.saved.iter().map(|&i| site.results[i]));
        operands.extend(self.cotangents.iter().filter_map(|&i| site.cotangents[i]));
        self.wall_off(site.b, &mut operands)?;
        let pulled = match site.bodies.is_shared(&call.body) {
            true => site.b.call_graph(&call.name, self.backward.clone(), RematPolicy::SaveAll, &operands)?,
            false => site.b.inline(&self.backward, &operands)?,
        };
        let mut pulled = pulled.into_iter();
        Ok(self.gradients.iter().map(|&wanted| if wanted { pulled.next() } else { None }).collect())
    }

    /// Puts a barrier before what needs one.
    fn wall_off(&self, b: &mut Builder, operands: &mut [Value]) -> Result<(), BuildError> {
        let mut behind: Vec<&mut Value> =
            operands.iter_mut().zip(&self.walls).filter_map(|(v, &wall)| wall.then_some(v)).collect();
        let values: Vec<Value> = behind.iter().map(|v| **v).collect();
        if !values.is_empty() {
            let walled = b.optimization_barrier(&values)?;
            behind.iter_mut().zip(walled).for_each(|(v, walled)| **v = walled);
        }
        Ok(())
    }
}

/// The derivative that the call brings. Residuals get a cotangent only where that derivative is differentiated
/// again; they then take the way through the body.
fn custom(site: &mut Site, call: &Call, vjp: &Graph, num_primals: usize) -> Pulled {
    let residual_seeds: Vec<bool> =
        site.cotangents.iter().enumerate().map(|(i, g)| i >= num_primals && g.is_some()).collect();
    let through_body = if residual_seeds.contains(&true) {
        let joint = Joint::new(&call.body, &site.active, &residual_seeds)?;
        Pair::new(&joint, &[], &vec![false; joint.graph.num_values()])?.pull(site, call)?
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
