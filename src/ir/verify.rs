//! Checks of a finished graph: every type is inferred again, every use has a definition before it.

use super::graph::{Graph, Node, Value};
use super::op::Op;
use super::types::TensorType;
use crate::infer::{self, ShapeError};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Everything that is wrong with a graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct VerifyError {
    /// In the order of nodes, never empty.
    pub faults: Vec<Fault>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "internal: the graph has {} faults", self.faults.len())?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Where the node is: empty for the graph itself, else such as `%7 scan body`.
    pub path: String,
    /// The printed results and the operation.
    pub node: String,
    /// Path of the layer.
    pub scope: Arc<str>,
    pub problem: Problem,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        write!(f, "{path}{}: {}", self.node, self.problem)?;
        if self.scope.is_empty() { Ok(()) } else { write!(f, ", in scope `{}`", self.scope) }
    }
}

/// What is wrong with one node, or with the signature of a graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("operand {0} is not defined before its use")]
    Undefined(Value),
    #[error("output {0} is not defined")]
    UndefinedOutput(Value),
    #[error("result {0} is defined twice or belongs to another node")]
    Redefined(Value),
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("{found} results, inference gives {expected}")]
    ResultCount { expected: usize, found: usize },
    #[error("result {result} has type {found}, inference gives {expected}")]
    ResultType { result: Value, expected: TensorType, found: TensorType },
    #[error("parameter has index {found}, is input {expected}")]
    ParameterIndex { expected: usize, found: usize },
    #[error("{names} axis names for {ty}")]
    AxisNames { names: usize, ty: TensorType },
}

/// Checks a graph and all graphs inside it. Errors: [`VerifyError`] lists every fault.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    let mut verifier = Verifier::default();
    verifier.graph(graph, "");
    if verifier.faults.is_empty() { Ok(()) } else { Err(VerifyError { faults: verifier.faults }) }
}

#[derive(Default)]
struct Verifier {
    faults: Vec<Fault>,
    /// Addresses of the subgraphs that were checked; the graph keeps them alive.
    seen: HashSet<*const Graph>,
}

impl Verifier {
    fn graph(&mut self, graph: &Graph, path: &str) {
        let mut defined = vec![false; graph.num_values()];
        let mut inputs = 0;
        for (index, node) in graph.nodes().iter().enumerate() {
            let problems = check(graph, index, node, &mut defined, &mut inputs);
            self.faults.extend(problems.into_iter().map(|problem| Fault {
                path: path.into(),
                node: describe(node),
                scope: node.scope.clone(),
                problem,
            }));
            for (role, subgraph) in node.op.subgraphs() {
                if self.seen.insert(Arc::as_ptr(subgraph)) {
                    let node = format!("{} {role}", describe(node));
                    let path = if path.is_empty() { node } else { format!("{path}: {node}") };
                    self.graph(subgraph, &path);
                }
            }
        }
        for &output in graph.outputs().iter().filter(|v| !is_defined(&defined, **v)) {
            let problem = Problem::UndefinedOutput(output);
            self.faults.push(Fault { path: path.into(), node: "outputs".into(), scope: "".into(), problem });
        }
    }
}

fn describe(node: &Node) -> String {
    let results: Vec<String> = node.results.iter().map(Value::to_string).collect();
    format!("{} {}", results.join(", "), node.op.name())
}

fn is_defined(defined: &[bool], value: Value) -> bool {
    defined.get(value.index()).copied().unwrap_or(false)
}

/// The faults of one node; marks its results as defined and counts inputs.
fn check(graph: &Graph, index: usize, node: &Node, defined: &mut [bool], inputs: &mut usize) -> Vec<Problem> {
    let undefined = node.operands.iter().filter(|v| !is_defined(defined, **v));
    let mut problems: Vec<Problem> = undefined.map(|&v| Problem::Undefined(v)).collect();
    if let Op::Parameter { index, .. } = node.op {
        if index != *inputs {
            problems.push(Problem::ParameterIndex { expected: *inputs, found: index });
        }
        *inputs += 1;
    }
    for &result in &node.results {
        match defined.get_mut(result.index()) {
            Some(seen) if !*seen && graph.node_index(result) == index => *seen = true,
            _ => problems.push(Problem::Redefined(result)),
        }
    }
    // Without its operands a node has no types to check.
    if problems.is_empty() {
        problems.extend(check_types(graph, node));
    }
    problems
}

fn check_types(graph: &Graph, node: &Node) -> Vec<Problem> {
    let expected = match infer::infer(&node.op, &graph.types(&node.operands)) {
        Ok(types) => types,
        Err(error) => return vec![Problem::Shape(error)],
    };
    let mut problems = vec![];
    if expected.len() != node.results.len() {
        problems.push(Problem::ResultCount { expected: expected.len(), found: node.results.len() });
    }
    for (&result, expected) in node.results.iter().zip(expected) {
        let found = graph.ty(result).clone();
        if found != expected {
            problems.push(Problem::ResultType { result, expected, found });
        } else if let Some(names) = graph.axes(result).map(<[_]>::len).filter(|&n| n != found.rank()) {
            problems.push(Problem::AxisNames { names, ty: found });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Builder;
    use crate::ir::{BinaryOp, DType, RematPolicy};

    fn ty(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    fn faults(graph: &Graph) -> Vec<String> {
        verify(graph).unwrap_err().faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn all_faults_are_listed_with_their_place() {
        let mut graph = Graph::default();
        let scope: Arc<str> = "encoder".into();
        let x = graph.push(Op::Parameter { index: 1, ty: ty(&[2]) }, vec![], vec![ty(&[2])], "".into())[0];
        graph.push(Op::Binary(BinaryOp::Add), vec![x, Value(9)], vec![ty(&[2])], scope.clone());
        graph.push(Op::Binary(BinaryOp::Add), vec![x, x], vec![ty(&[3])], scope.clone());
        graph.push(Op::Convert(DType::F32), vec![x, x], vec![ty(&[2])], scope);
        graph.set_outputs(vec![Value(7)]);
        assert_eq!(
            faults(&graph),
            [
                "%0 parameter: parameter has index 1, is input 0",
                "%1 add: operand %9 is not defined before its use, in scope `encoder`",
                "%2 add: result %2 has type f32[3], inference gives f32[2], in scope `encoder`",
                "%3 convert: convert: takes 1 operands, got 2 (operands f32[2], f32[2]), in scope `encoder`",
                "outputs: output %7 is not defined",
            ]
        );
    }

    #[test]
    fn faults_of_a_shared_subgraph_are_listed_once_with_the_path() {
        let mut inner = Graph::default();
        let x = inner.push(Op::Parameter { index: 0, ty: ty(&[2]) }, vec![], vec![ty(&[2])], "".into())[0];
        inner.set_axes(x, &["tokens", "model"]);
        inner.set_outputs(vec![x]);
        let inner = Arc::new(inner);
        let graph = Builder::graph(&[ty(&[2])], |b, x| {
            let y = b.call_graph("inner", inner.clone(), RematPolicy::SaveAll, x)?;
            b.call_graph("inner", inner.clone(), RematPolicy::SaveAll, &y)
        });
        assert_eq!(faults(&graph.unwrap()), ["%1 call body: %0 parameter: 2 axis names for f32[2]"]);
    }

    #[test]
    fn a_value_used_before_its_definition_is_a_fault() {
        let mut graph = Graph::default();
        graph.push(Op::Binary(BinaryOp::Add), vec![Value(1), Value(1)], vec![ty(&[2])], "".into());
        graph.push(Op::Parameter { index: 0, ty: ty(&[2]) }, vec![], vec![ty(&[2])], "".into());
        assert_eq!(faults(&graph).len(), 2);
    }
}
