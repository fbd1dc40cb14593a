//! A graph: an arena of nodes in execution order, with typed values.

use super::op::Op;
use super::types::TensorType;
use std::fmt;
use std::sync::Arc;

/// A value of one graph; printed as `%12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) u32);

impl Value {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// One operation with its operands and results.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub op: Op,
    pub operands: Vec<Value>,
    pub results: Vec<Value>,
    /// The path of the layer, such as `encoder/block_1/moe/router`; becomes `op_name` in HLO.
    pub scope: Arc<str>,
}

/// What is known of a value beside its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ValueInfo {
    ty: TensorType,
    /// Index of the defining node.
    node: u32,
    /// Names of the axes, for readers.
    axes: Option<&'static [&'static str]>,
}

/// A function over tensors. Operands of a node are results of earlier nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Graph {
    nodes: Vec<Node>,
    values: Vec<ValueInfo>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
}

impl Graph {
    /// An empty graph with room for so many nodes and values.
    pub(crate) fn with_capacity(nodes: usize, values: usize) -> Self {
        Self { nodes: Vec::with_capacity(nodes), values: Vec::with_capacity(values), ..Self::default() }
    }

    /// The nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Number of values; every [`Value`] of this graph is below it.
    pub fn num_values(&self) -> usize {
        self.values.len()
    }

    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// The type of a value of this graph.
    pub fn ty(&self, value: Value) -> &TensorType {
        &self.values[value.index()].ty
    }

    /// The types of several values.
    pub fn types(&self, values: &[Value]) -> Vec<TensorType> {
        values.iter().map(|&v| self.ty(v).clone()).collect()
    }

    pub fn input_types(&self) -> Vec<TensorType> {
        self.types(&self.inputs)
    }

    pub fn output_types(&self) -> Vec<TensorType> {
        self.types(&self.outputs)
    }

    /// The node that defines a value.
    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[self.node_index(value)]
    }

    /// The position of the node that defines a value.
    pub fn node_index(&self, value: Value) -> usize {
        self.values[value.index()].node as usize
    }

    /// Names of the axes, where the builder gave them.
    pub fn axes(&self, value: Value) -> Option<&'static [&'static str]> {
        self.values[value.index()].axes
    }

    pub(crate) fn set_axes(&mut self, value: Value, axes: &'static [&'static str]) {
        self.values[value.index()].axes = Some(axes);
    }

    pub(crate) fn set_scope(&mut self, value: Value, scope: Arc<str>) {
        let node = self.node_index(value);
        self.nodes[node].scope = scope;
    }

    pub(crate) fn set_outputs(&mut self, outputs: Vec<Value>) {
        self.outputs = outputs;
    }

    /// Appends a node whose result types are already inferred.
    pub(crate) fn push(
        &mut self,
        op: Op,
        operands: Vec<Value>,
        types: Vec<TensorType>,
        scope: Arc<str>,
    ) -> Vec<Value> {
        let node = self.nodes.len() as u32;
        let results: Vec<Value> = types.into_iter().map(|ty| self.new_value(ty, node)).collect();
        if matches!(op, Op::Parameter { .. }) {
            self.inputs.extend(&results);
        }
        self.nodes.push(Node { op, operands, results: results.clone(), scope });
        results
    }

    /// Appends a node with results like these of another graph, with their types and names of axes; returns the number of the first.
    pub(crate) fn push_like(
        &mut self,
        from: &Graph,
        results: &[Value],
        op: Op,
        operands: Vec<Value>,
        scope: Arc<str>,
    ) -> u32 {
        let (node, first) = (self.nodes.len() as u32, self.values.len() as u32);
        self.values.extend(results.iter().map(|v| ValueInfo { node, ..from.values[v.index()].clone() }));
        let results: Vec<Value> = (first..self.values.len() as u32).map(Value).collect();
        if matches!(op, Op::Parameter { .. }) {
            self.inputs.extend(&results);
        }
        self.nodes.push(Node { op, operands, results, scope });
        first
    }

    /// Appends copies of the nodes of `body`, with these values for its inputs; returns its outputs. There are as many values as
    /// inputs, and nodes of `body` follow those that they use.
    pub(crate) fn append(&mut self, body: &Graph, inputs: &[Value]) -> Vec<Value> {
        self.append_renamed(body, inputs, &mut Arc::clone)
    }

    /// The same; `scope` says what becomes of each scope.
    pub(crate) fn append_renamed(
        &mut self,
        body: &Graph,
        inputs: &[Value],
        scope: &mut dyn FnMut(&Arc<str>) -> Arc<str>,
    ) -> Vec<Value> {
        let mut map = vec![Value(u32::MAX); body.num_values()];
        for (&input, &given) in body.inputs.iter().zip(inputs) {
            map[input.index()] = given;
        }
        for node in body.nodes.iter().filter(|n| !matches!(n.op, Op::Parameter { .. })) {
            let operands = node.operands.iter().map(|v| map[v.index()]).collect();
            let first = self.push_like(body, &node.results, node.op.clone(), operands, scope(&node.scope));
            for (&old, new) in node.results.iter().zip(first..) {
                map[old.index()] = Value(new);
            }
        }
        body.outputs.iter().map(|v| map[v.index()]).collect()
    }

    /// Replaces the operation of a node by one with more results (residuals for a backward pass); returns the new ones.
    pub(crate) fn extend_results(&mut self, node: usize, op: Op, more: Vec<TensorType>) -> Vec<Value> {
        let added: Vec<Value> = more.into_iter().map(|ty| self.new_value(ty, node as u32)).collect();
        self.nodes[node].op = op;
        self.nodes[node].results.extend(&added);
        added
    }

    fn new_value(&mut self, ty: TensorType, node: u32) -> Value {
        let value = Value(self.values.len() as u32);
        self.values.push(ValueInfo { ty, node, axes: None });
        value
    }
}
