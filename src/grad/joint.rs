//! A body and its backward pass in one graph, to be cut in two.

use super::extract::{extract, live, marks};
use super::partition;
use super::reverse::pull;
use super::rule::Cotangents;
use crate::build::{BuildError, Builder};
use crate::ir::scope::{REMAT, below};
use crate::ir::{Graph, Node, Op, RematPolicy, Value};

/// A body, followed by the nodes of its backward pass.
pub(super) struct Joint {
    pub graph: Graph,
    /// Nodes before this position are the body.
    pub boundary: usize,
    /// The inputs of the body.
    pub inputs: Vec<Value>,
    /// The outputs of the body.
    pub outputs: Vec<Value>,
    /// Inputs of the backward pass: cotangents of the outputs that have one.
    pub cotangents: Cotangents,
    /// The cotangents of the inputs, where they are wanted and not zero.
    pub gradients: Cotangents,
}

impl Joint {
    /// `wanted`: inputs to differentiate by; `seeds`: outputs with a cotangent.
    pub fn new(body: &Graph, wanted: &[bool], seeds: &[bool]) -> Result<Self, BuildError> {
        let mut b = Builder::new();
        let parameters =
            |b: &mut Builder, list: &[Value], chosen: &[bool]| -> Result<Cotangents, BuildError> {
                let parameter = |(v, &chosen): (&Value, &bool)| {
                    chosen.then(|| b.parameter(body.ty(*v).clone())).transpose()
                };
                list.iter().zip(chosen).map(parameter).collect()
            };
        let inputs = parameters(&mut b, body.inputs(), &vec![true; body.inputs().len()])?;
        let inputs: Vec<Value> = inputs.into_iter().flatten().collect();
        let cotangents = parameters(&mut b, body.outputs(), seeds)?;
        let outputs = b.inline(body, &inputs)?;
        let boundary = b.graph.nodes().len();
        let seeded: Vec<(Value, Value)> =
            outputs.iter().zip(&cotangents).filter_map(|(v, g)| g.map(|g| (*v, g))).collect();
        let chosen = |i: usize| wanted[i] && b.dtype(inputs[i]).is_float();
        let places: Vec<usize> = (0..inputs.len()).filter(|&i| chosen(i)).collect();
        let wrt: Vec<Value> = places.iter().map(|&i| inputs[i]).collect();
        let mut gradients = vec![None; inputs.len()];
        for (i, gradient) in places.into_iter().zip(pull(&mut b, &seeded, &wrt)?) {
            gradients[i] = gradient;
        }
        Ok(Self { graph: b.finish(&[]), boundary, inputs, outputs, cotangents, gradients })
    }

    /// What the forward pass keeps; `free` are the inputs that the backward pass has anyway.
    pub fn residuals(&self, policy: RematPolicy, free: &[bool]) -> Vec<Value> {
        partition::residuals(self, policy, free)
    }

    /// Which inputs the backward pass reads beside the residuals.
    pub fn reads(&self, saved: &[Value]) -> Vec<bool> {
        let live = self.live(saved);
        self.inputs.iter().map(|v| live[v.index()]).collect()
    }

    /// Whether the backward pass computes anything of the body again (other than from nothing).
    pub fn recomputes(&self, saved: &[Value]) -> bool {
        self.again(saved).any(|node| !node.operands.is_empty())
    }

    /// The values that the backward pass converts again to types of more bytes.
    pub fn widened(&self, saved: &[Value]) -> Vec<bool> {
        let bytes = |v: Value| self.graph.ty(v).dtype.size_bytes();
        let mut widened = vec![false; self.graph.num_values()];
        for node in self.again(saved).filter(|node| matches!(node.op, Op::Convert(_))) {
            widened[node.operands[0].index()] |= bytes(node.operands[0]) < bytes(node.results[0]);
        }
        widened
    }

    /// The nodes of the body that the backward pass runs again.
    fn again(&self, saved: &[Value]) -> impl Iterator<Item = &Node> {
        let (live, kept) = (self.live(saved), marks(&self.graph, saved));
        let again = move |v: &Value| live[v.index()] && !kept[v.index()];
        self.graph.nodes()[..self.boundary].iter().filter(move |node| node.results.iter().any(&again))
    }

    fn live(&self, saved: &[Value]) -> Vec<bool> {
        let cotangents: Vec<Value> = self.cotangents.iter().flatten().copied().collect();
        let gradients: Vec<Value> = self.gradients.iter().flatten().copied().collect();
        live(&self.graph, &[&self.inputs[..], saved, &cotangents].concat(), &gradients)
    }

    /// Where each residual is among the outputs of the forward pass from `first` on, and the outputs to append.
    pub fn places(&self, saved: &[Value], first: usize) -> (Vec<usize>, Vec<Value>) {
        let mut added = vec![];
        let mut place = |v: &Value| match self.outputs[first..].iter().position(|o| o == v) {
            Some(i) => first + i,
            None => {
                added.push(*v);
                self.outputs.len() + added.len() - 1
            }
        };
        (saved.iter().map(&mut place).collect(), added)
    }

    /// The body with more outputs.
    pub fn forward(&self, added: &[Value]) -> Result<Graph, BuildError> {
        let scope = |index: usize| self.graph.nodes()[index].scope.clone();
        extract(&self.graph, &self.inputs, &[&self.outputs, added].concat(), scope)
    }

    /// The backward pass from `inputs` (inputs of the body, residuals, cotangents) to `gradients`.
    pub fn backward(&self, inputs: &[Value], gradients: &[Value]) -> Result<Graph, BuildError> {
        let scope = |index: usize| {
            let scope = &self.graph.nodes()[index].scope;
            // What is computed again is work of the backward pass; names tell it from the first time.
            if index < self.boundary { below(REMAT, scope) } else { scope.clone() }
        };
        extract(&self.graph, inputs, gradients, scope)
    }
}
