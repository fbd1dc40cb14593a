//! What the passes share: a copy of a graph with values renamed, and subgraphs visited once each.

use crate::ir::graph::{Graph, Node, Value};
use crate::ir::op::{Call, Derivative, Op, Scan};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

impl Op {
    /// The graphs inside this operation, with the part they play.
    pub fn subgraphs(&self) -> Vec<(&'static str, &Arc<Graph>)> {
        match self {
            Op::Sort { comparator, .. } => vec![("comparator", comparator)],
            Op::While { cond, body } => vec![("condition", cond), ("body", body)],
            Op::Scan(scan) => vec![("body", &scan.body)],
            Op::Conditional { branches } => branches.iter().map(|b| ("branch", b)).collect(),
            Op::Call(call) => match &call.derivative {
                Derivative::Body(_) => vec![("body", &call.body)],
                Derivative::Custom { vjp, .. } => vec![("body", &call.body), ("derivative", vjp)],
            },
            _ => vec![],
        }
    }

    /// The same operation with each of its graphs replaced.
    pub(crate) fn map_subgraphs(&self, f: &mut dyn FnMut(&Arc<Graph>) -> Arc<Graph>) -> Op {
        match self {
            Op::Sort { dim, comparator, stable } => {
                Op::Sort { dim: *dim, comparator: f(comparator), stable: *stable }
            }
            Op::While { cond, body } => Op::While { cond: f(cond), body: f(body) },
            Op::Scan(scan) => Op::Scan(Scan { body: f(&scan.body), ..scan.clone() }),
            Op::Conditional { branches } => Op::Conditional { branches: branches.iter().map(f).collect() },
            Op::Call(call) => {
                let body = f(&call.body);
                let derivative = match &call.derivative {
                    Derivative::Body(policy) => Derivative::Body(*policy),
                    Derivative::Custom { vjp, num_primals } => {
                        Derivative::Custom { vjp: f(vjp), num_primals: *num_primals }
                    }
                };
                Op::Call(Call { name: call.name.clone(), body, derivative })
            }
            _ => self.clone(),
        }
    }
}

/// A subgraph by its address, which it keeps alive.
#[derive(Clone)]
pub(crate) struct Address(pub Arc<Graph>);

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// The bodies that several calls of a graph have in common.
pub(crate) fn shared_bodies(graph: &Graph) -> HashSet<Address> {
    let (mut once, mut shared) = (HashSet::new(), HashSet::new());
    for node in graph.nodes() {
        if let Op::Call(Call { body, .. }) = &node.op {
            let body = Address(body.clone());
            if !once.insert(body.clone()) {
                shared.insert(body);
            }
        }
    }
    shared
}

/// What a pass made of each subgraph, also in an earlier round.
#[derive(Default)]
pub(super) struct Memo(HashMap<Address, Arc<Graph>>);

impl Memo {
    /// The rewritten subgraph: the same one again where nothing changed.
    pub fn visit(
        &mut self,
        graph: &Arc<Graph>,
        pass: &mut dyn FnMut(&Graph, &mut Memo) -> Graph,
    ) -> Arc<Graph> {
        let address = Address(graph.clone());
        if let Some(done) = self.0.get(&address) {
            return done.clone();
        }
        let next = changed(graph, pass(graph, self));
        self.0.insert(address, next.clone());
        next
    }
}

/// `next`, or the graph that it was made from where they are equal.
pub(super) fn changed(graph: &Arc<Graph>, next: Graph) -> Arc<Graph> {
    if next == **graph { graph.clone() } else { Arc::new(next) }
}

/// A graph under construction from another one.
pub(super) struct Rebuild<'a> {
    from: &'a Graph,
    pub out: Graph,
    /// New names of old values; values that were dropped have none and no user.
    map: Vec<Value>,
}

impl<'a> Rebuild<'a> {
    pub fn new(from: &'a Graph) -> Self {
        let out = Graph::with_capacity(from.nodes().len(), from.num_values());
        Self { from, out, map: vec![Value(u32::MAX); from.num_values()] }
    }

    pub fn get(&self, old: Value) -> Value {
        self.map[old.index()]
    }

    pub fn get_all(&self, old: &[Value]) -> Vec<Value> {
        old.iter().map(|&v| self.get(v)).collect()
    }

    /// Appends `op` in the place of `node`, with all results.
    pub fn put(&mut self, node: &Node, op: Op, operands: Vec<Value>) {
        self.put_as(op, operands, &node.results, node.scope.clone());
    }

    /// Appends `op`, whose results stand for the old values `results`.
    pub fn put_as(&mut self, op: Op, operands: Vec<Value>, results: &[Value], scope: Arc<str>) {
        let first = self.out.push_like(self.from, results, op, operands, scope);
        for (&old, new) in results.iter().zip(first..) {
            self.map[old.index()] = Value(new);
        }
    }

    /// Lets users of `old` use `new`. A name goes along unless `new` has one or is an input.
    pub fn alias(&mut self, old: Value, new: Value) {
        self.map[old.index()] = new;
        let Some(axes) = self.from.axes(old) else { return };
        let node = self.out.node(new);
        let nameable = node.results.len() == 1 && !matches!(node.op, Op::Parameter { .. });
        if nameable && self.out.axes(new).is_none() && self.out.ty(new) == self.from.ty(old) {
            self.out.set_axes(new, axes);
            self.out.set_scope(new, self.from.node(old).scope.clone());
        }
    }

    /// Closes the graph with the outputs of the old one.
    pub fn finish(self) -> Graph {
        let outputs = self.get_all(self.from.outputs());
        self.finish_with(outputs)
    }

    pub fn finish_with(mut self, outputs: Vec<Value>) -> Graph {
        self.out.set_outputs(outputs);
        self.out
    }
}
