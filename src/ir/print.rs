//! The graph as text: one line per node, subgraphs indented below it.

use super::graph::{Graph, Node, Value};
use super::literal::Literal;
use super::op::*;
use super::types::TensorType;
use std::fmt::{self, Debug, Display, Write};

/// Elements of a constant that are printed.
const SHOWN_ELEMENTS: usize = 8;

impl Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("graph {\n")?;
        write_body(f, self, 1)?;
        f.write_str("}\n")
    }
}

fn write_body(f: &mut fmt::Formatter<'_>, graph: &Graph, depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for node in graph.nodes() {
        writeln!(f, "{indent}{}", line(graph, node))?;
        for (role, subgraph) in node.op.subgraphs() {
            writeln!(f, "{indent}  {role} {{")?;
            write_body(f, subgraph, depth + 2)?;
            writeln!(f, "{indent}  }}")?;
        }
    }
    writeln!(f, "{indent}return {}", list(graph.outputs()))
}

/// `%3: f32[8,128] = dot_general(%1, %2) {lhs_contracting=[1]}  // encoder/wi [tokens, ff]`
fn line(graph: &Graph, node: &Node) -> String {
    let result = |&v: &Value| format!("{v}: {}", graph.ty(v));
    let results: Vec<String> = node.results.iter().map(result).collect();
    let mut line = format!("{} = {}({})", results.join(", "), node.op.name(), list(&node.operands));
    let attributes = attributes(&node.op).0;
    if !attributes.is_empty() {
        line += &format!(" {{{}}}", attributes.join(", "));
    }
    let axes = node.results.iter().find_map(|&v| graph.axes(v));
    let axes = axes.map(|names| format!("[{}]", names.join(", ")));
    let comment: Vec<&str> =
        [&*node.scope, axes.as_deref().unwrap_or("")].into_iter().filter(|s| !s.is_empty()).collect();
    if !comment.is_empty() {
        line += &format!("  // {}", comment.join(" "));
    }
    line
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// The static attributes as `name=value`.
#[derive(Default)]
struct Attributes(Vec<String>);

impl Attributes {
    fn with(mut self, name: &str, value: impl Debug) -> Self {
        let mut text = format!("{name}={value:?}");
        text.retain(|c| c != ' ' && c != '"');
        self.0.push(text);
        self
    }

    fn shown(mut self, name: &str, value: impl Display) -> Self {
        self.0.push(format!("{name}={value}"));
        self
    }

    fn flag(mut self, name: &str, on: bool) -> Self {
        if on {
            self.0.push(name.into());
        }
        self
    }

    /// A list of dimensions, left out where empty.
    fn dims(self, name: &str, dims: &[usize]) -> Self {
        if dims.is_empty() { self } else { self.with(name, dims) }
    }
}

fn attributes(op: &Op) -> Attributes {
    let none = Attributes::default();
    match op {
        Op::Parameter { index, .. } => none.with("index", index),
        Op::Constant(literal) => none.shown("value", value(literal)),
        Op::Iota { dim, .. } => none.with("dim", dim),
        Op::Compare(direction) => none.shown("direction", direction.name()),
        Op::Convert(dtype) | Op::BitcastConvert(dtype) => none.shown("dtype", dtype),
        Op::BroadcastInDim { dims, .. } => none.with("dims", dims),
        Op::Transpose { permutation } => none.with("permutation", permutation),
        Op::Reverse { dims } => none.with("dims", dims),
        Op::Slice { starts, limits, strides } => {
            none.with("starts", starts).with("limits", limits).with("strides", strides)
        }
        Op::Pad { low, high, interior } => {
            none.with("low", low).with("high", high).with("interior", interior)
        }
        Op::Concatenate { dim } => none.with("dim", dim),
        Op::DotGeneral { dims, precision, .. } => dot(none, dims, *precision),
        Op::Reduce { dims, reducer } => none.with("dims", dims).shown("reducer", reducer.binary().opcode()),
        Op::CumSum { dim, exclusive, reverse } => {
            none.with("dim", dim).flag("exclusive", *exclusive).flag("reverse", *reverse)
        }
        Op::Gather(dims) => gather(none, dims),
        Op::Scatter { dims, combiner, unique } => scatter(none, dims, *combiner, *unique),
        Op::DynamicSlice { sizes } => none.with("sizes", sizes),
        Op::Sort { dim, stable, .. } => none.with("dim", dim).flag("stable", *stable),
        Op::RngBitGenerator { algorithm, .. } => none.with("algorithm", algorithm),
        Op::Scan(scan) => none
            .with("length", scan.length)
            .with("consts", scan.num_consts)
            .with("carry", scan.num_carry)
            .flag("reverse", scan.reverse)
            .remat(scan.remat),
        Op::Call(call) => match &call.derivative {
            Derivative::Body(policy) => none.shown("name", &call.name).remat(*policy),
            Derivative::Custom { num_primals, .. } => {
                none.shown("name", &call.name).with("primals", num_primals)
            }
        },
        Op::AllReduce { reducer, groups } => {
            none.shown("reducer", reducer.binary().opcode()).with("groups", groups)
        }
        Op::AllGather { dim, groups } => none.with("dim", dim).with("groups", groups),
        Op::ReduceScatter { dim, reducer, groups } => {
            none.with("dim", dim).shown("reducer", reducer.binary().opcode()).with("groups", groups)
        }
        Op::AllToAll { split_dim, concat_dim, groups } => {
            none.with("split_dim", split_dim).with("concat_dim", concat_dim).with("groups", groups)
        }
        Op::CollectivePermute { pairs } => none.with("pairs", pairs),
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Clamp
        | Op::StopGradient
        | Op::Reshape { .. }
        | Op::DynamicUpdateSlice
        | Op::OptimizationBarrier
        | Op::While { .. }
        | Op::Conditional { .. }
        | Op::ReplicaId
        | Op::PartitionId => none,
    }
}

impl Attributes {
    fn remat(self, policy: RematPolicy) -> Self {
        match policy {
            RematPolicy::SaveAll => self,
            RematPolicy::SaveDots => self.shown("remat", "save_dots"),
            RematPolicy::SaveNothing => self.shown("remat", "save_nothing"),
        }
    }
}

fn dot(to: Attributes, dims: &DotDims, precision: Precision) -> Attributes {
    let to = to
        .dims("lhs_batch", &dims.lhs_batch)
        .dims("rhs_batch", &dims.rhs_batch)
        .dims("lhs_contracting", &dims.lhs_contracting)
        .dims("rhs_contracting", &dims.rhs_contracting);
    match precision {
        Precision::Default => to,
        Precision::High => to.shown("precision", "high"),
        Precision::Highest => to.shown("precision", "highest"),
    }
}

fn gather(to: Attributes, dims: &GatherDims) -> Attributes {
    to.dims("offset_dims", &dims.offset_dims)
        .dims("collapsed_slice_dims", &dims.collapsed_slice_dims)
        .dims("start_index_map", &dims.start_index_map)
        .dims("operand_batching_dims", &dims.operand_batching_dims)
        .dims("start_indices_batching_dims", &dims.start_indices_batching_dims)
        .with("index_vector_dim", dims.index_vector_dim)
        .with("slice_sizes", &dims.slice_sizes)
}

fn scatter(to: Attributes, dims: &ScatterDims, combiner: Combiner, unique: bool) -> Attributes {
    let combiner = match combiner {
        Combiner::Assign => "assign",
        Combiner::Reduce(reducer) => reducer.binary().opcode(),
    };
    to.dims("update_window_dims", &dims.update_window_dims)
        .dims("inserted_window_dims", &dims.inserted_window_dims)
        .dims("scatter_dims_to_operand_dims", &dims.scatter_dims_to_operand_dims)
        .dims("input_batching_dims", &dims.input_batching_dims)
        .dims("scatter_indices_batching_dims", &dims.scatter_indices_batching_dims)
        .with("index_vector_dim", dims.index_vector_dim)
        .shown("combiner", combiner)
        .flag("unique", unique)
}

/// The first elements; a scalar without brackets.
fn value(literal: &Literal) -> String {
    let ty = literal.ty();
    let shown = ty.elements().min(SHOWN_ELEMENTS);
    let bytes = literal.bytes()[..shown * ty.dtype.size_bytes()].to_vec();
    let head = Literal::from_bytes(TensorType::new(ty.dtype, [shown]), bytes);
    let elements = head.map(|head| head.to_f64()).unwrap_or_default();
    if ty.rank() == 0 {
        return list(&elements);
    }
    let mut text = format!("[{}", list(&elements));
    if shown < ty.elements() {
        let _ = write!(text, ", ..");
    }
    text + "]"
}

#[cfg(test)]
mod tests {
    use crate::build::{Builder, ScanInputs};
    use crate::ir::{DType, Literal, Reducer, TensorType};

    #[test]
    fn a_graph_prints_as_assignments_with_names_and_indented_bodies() {
        let inputs = [TensorType::new(DType::F32, [8, 16]), TensorType::new(DType::F32, [3, 16, 4])];
        let graph = Builder::graph(&inputs, |b, x| {
            let inputs = ScanInputs { consts: &x[..1], xs: &x[1..], ..Default::default() };
            let (_, ys) = b.scoped("encoder", |b| {
                b.scan(inputs, |b, consts, _, xs| {
                    let y = b.einsum("tm,mf->tf", consts[0], xs[0])?;
                    let y = b.name(y, "wi", &["tokens", "ff"]);
                    Ok((vec![], vec![y]))
                })
            })?;
            let table = b.constant(Literal::new([9], &[1i32; 9])?)?;
            let half = b.mul_scalar(ys[0], 0.5)?;
            Ok(vec![b.reduce(half, &[0, 2], Reducer::Max)?, table])
        });
        let expected = "\
graph {
  %0: f32[8,16] = parameter() {index=0}
  %1: f32[3,16,4] = parameter() {index=1}
  %2: f32[3,8,4] = scan(%0, %1) {length=3, consts=1, carry=0}  // encoder
    body {
      %0: f32[8,16] = parameter() {index=0}  // encoder
      %1: f32[16,4] = parameter() {index=1}  // encoder
      %2: f32[8,4] = dot_general(%0, %1) {lhs_contracting=[1], rhs_contracting=[0]}  // encoder/wi [tokens, ff]
      return %2
    }
  %3: s32[9] = constant() {value=[1, 1, 1, 1, 1, 1, 1, 1, ..]}
  %4: f32[] = constant() {value=0.5}
  %5: f32[3,8,4] = broadcast_in_dim(%4) {dims=[]}
  %6: f32[3,8,4] = multiply(%2, %5)
  %7: f32[8] = reduce(%6) {dims=[0,2], reducer=maximum}
  return %7, %3
}
";
        assert_eq!(graph.unwrap().to_string(), expected);
    }
}
