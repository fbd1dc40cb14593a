//! Which forward values a backward pass is given, and which it computes again.
//!
//! A value of the body that a backward node reads is *needed*. A policy says of which needed values the result may be kept;
//! the others are computed again from what is needed for them, down to kept values and inputs. Under `SaveAll`, what costs
//! next to nothing to compute again from values at hand is not kept either: it would cost memory and its traffic.

use super::extract::{live, marks};
use super::joint::Joint;
use crate::ir::{BinaryOp, Call, Derivative, Graph, Op, RematPolicy, UnaryOp, Value};
use std::collections::BTreeSet;

/// The longest chain of cheap operations that is computed again rather than kept.
const LONGEST_CHAIN: usize = 3;

/// The values of the body to keep, in ascending order.
pub(super) fn residuals(joint: &Joint, policy: RematPolicy, free: &[bool]) -> Vec<Value> {
    let forward = Forward::new(joint, free);
    let mut needed = vec![false; joint.graph.num_values()];
    let mut saved = BTreeSet::new();
    let mut open = frontier(joint);
    while let Some(v) = open.pop() {
        if std::mem::replace(&mut needed[v.index()], true) || forward.at_hand[v.index()] {
            continue;
        }
        let node = joint.graph.node(v);
        if matches!(node.op, Op::Parameter { .. }) || keeps(policy, &joint.graph, v) {
            saved.insert(v);
        } else {
            open.extend(&node.operands);
        }
    }
    if policy == RematPolicy::SaveAll {
        let chains = forward.chains(&joint.graph, joint.boundary, &needed);
        saved.retain(|&v| chains.through_operation(&joint.graph, v).is_none());
    }
    saved.into_iter().collect()
}

/// The values of the body that the backward nodes read.
fn frontier(joint: &Joint) -> Vec<Value> {
    let graph = &joint.graph;
    let in_body: Vec<Value> =
        graph.nodes()[..joint.boundary].iter().flat_map(|node| node.results.iter().copied()).collect();
    let gradients: Vec<Value> = joint.gradients.iter().flatten().copied().collect();
    let live = live(graph, &in_body, &gradients);
    let cotangents: Vec<Value> = joint.cotangents.iter().flatten().copied().collect();
    let is_cotangent = marks(graph, &cotangents);
    in_body.into_iter().filter(|v| live[v.index()] && !is_cotangent[v.index()]).collect()
}

/// Whether the policy keeps this value if it is needed.
fn keeps(policy: RematPolicy, graph: &Graph, v: Value) -> bool {
    let op = &graph.node(v).op;
    match policy {
        RematPolicy::SaveAll => !is_view(graph, v),
        RematPolicy::SaveDots => {
            matches!(op, Op::DotGeneral { .. } | Op::Call(Call { derivative: Derivative::Custom { .. }, .. }))
        }
        RematPolicy::SaveNothing => false,
    }
}

/// Whether the operand tells the same in no more bytes: it is kept instead. A gathered weight is gathered again.
fn is_view(graph: &Graph, v: Value) -> bool {
    let node = graph.node(v);
    match node.op {
        Op::BroadcastInDim { .. } | Op::Reshape { .. } | Op::StopGradient | Op::AllGather { .. } => true,
        Op::Convert(dtype) => graph.ty(node.operands[0]).dtype.size_bytes() < dtype.size_bytes(),
        _ => false,
    }
}

/// Whether computing it again takes no longer than reading it from memory.
fn is_cheap(op: &Op) -> bool {
    match op {
        Op::Unary(op) => matches!(op, UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sign | UnaryOp::Not),
        Op::Binary(op) => matches!(
            op,
            BinaryOp::Add
                | BinaryOp::Sub
                | BinaryOp::Mul
                | BinaryOp::Max
                | BinaryOp::Min
                | BinaryOp::And
                | BinaryOp::Or
        ),
        Op::Compare(_) | Op::Select | Op::Convert(_) | Op::StopGradient | Op::Slice { .. } => true,
        Op::BroadcastInDim { .. } | Op::Reshape { .. } | Op::Transpose { .. } => true,
        _ => false,
    }
}

/// What the backward pass has without anything being kept: free inputs, and values that depend on no input.
struct Forward {
    at_hand: Vec<bool>,
}

impl Forward {
    fn new(joint: &Joint, free: &[bool]) -> Self {
        let mut at_hand = vec![false; joint.graph.num_values()];
        let mut closed = at_hand.clone();
        for node in &joint.graph.nodes()[..joint.boundary] {
            if !matches!(node.op, Op::Parameter { .. }) && node.operands.iter().all(|v| closed[v.index()]) {
                node.results.iter().for_each(|v| (closed[v.index()], at_hand[v.index()]) = (true, true));
            }
        }
        for (input, &free) in joint.inputs.iter().zip(free) {
            at_hand[input.index()] = free;
        }
        Self { at_hand }
    }

    fn chains(&self, graph: &Graph, boundary: usize, needed: &[bool]) -> Chains {
        let mut chains = Chains { lengths: vec![None; graph.num_values()] };
        for node in &graph.nodes()[..boundary] {
            for &v in &node.results {
                let at_hand = self.at_hand[v.index()] || needed[v.index()];
                let length = if at_hand { Some(0) } else { chains.through_operation(graph, v) };
                chains.lengths[v.index()] = length;
            }
        }
        chains
    }
}

/// How many cheap operations lead to each value from values at hand.
struct Chains {
    lengths: Vec<Option<usize>>,
}

impl Chains {
    /// The length of the chain that ends with the operation of `v`, if it is short and of cheap operations only.
    fn through_operation(&self, graph: &Graph, v: Value) -> Option<usize> {
        let node = graph.node(v);
        if !is_cheap(&node.op) {
            return None;
        }
        let longest = node.operands.iter().try_fold(0, |n, v| Some(n.max(self.lengths[v.index()]?)))?;
        (longest < LONGEST_CHAIN).then_some(longest + 1)
    }
}
