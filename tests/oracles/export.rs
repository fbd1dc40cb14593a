//! Graphs as JSON: one object per node, attributes under the names they have in the IR.

use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;
use switchyard::ir::*;

/// The names of all operations in a graph and its bodies.
pub fn operations(graph: &Graph, seen: &mut BTreeSet<&'static str>) {
    for node in graph.nodes() {
        seen.insert(node.op.name());
        for (_, body) in node.op.subgraphs() {
            operations(body, seen);
        }
    }
}

/// `{"inputs": [..], "outputs": [..], "nodes": [{"op", "operands", "results", "attrs"}]}`; values are their printed names.
pub fn graph(graph: &Graph) -> Json {
    let names = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
    let node = |node: &Node| {
        let dtypes: Vec<&str> = node.results.iter().map(|&v| graph.ty(v).dtype.name()).collect();
        json!({
            "op": node.op.name(),
            "operands": names(&node.operands),
            "results": names(&node.results),
            "dtypes": dtypes,
            "attrs": attributes(&node.op),
        })
    };
    json!({
        "inputs": names(graph.inputs()),
        "outputs": names(graph.outputs()),
        "nodes": graph.nodes().iter().map(node).collect::<Vec<_>>(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn reducer(reducer: Reducer) -> &'static str {
    reducer.binary().opcode()
}

fn groups(groups: &ReplicaGroups) -> Json {
    json!(groups)
}

fn attributes(op: &Op) -> Json {
    match op {
        Op::Parameter { index, .. } => json!({ "index": index }),
        Op::Constant(value) => {
            json!({ "dtype": value.ty().dtype.name(), "shape": value.ty().shape, "hex": hex(value.bytes()) })
        }
        Op::Iota { ty, dim } => json!({ "dtype": ty.dtype.name(), "shape": ty.shape, "dim": dim }),
        Op::Compare(direction) => json!({ "direction": direction.name() }),
        Op::Convert(dtype) | Op::BitcastConvert(dtype) => json!({ "dtype": dtype.name() }),
        Op::BroadcastInDim { shape, dims } => json!({ "shape": shape, "dims": dims }),
        Op::Reshape { shape } => json!({ "shape": shape }),
        Op::Transpose { permutation } => json!({ "permutation": permutation }),
        Op::Reverse { dims } => json!({ "dims": dims }),
        Op::Slice { starts, limits, strides } => {
            json!({ "starts": starts, "limits": limits, "strides": strides })
        }
        Op::Pad { low, high, interior } => json!({ "low": low, "high": high, "interior": interior }),
        Op::Concatenate { dim } => json!({ "dim": dim }),
        Op::DotGeneral { dims, result, .. } => json!({
            "lhs_batch": dims.lhs_batch, "rhs_batch": dims.rhs_batch,
            "lhs_contracting": dims.lhs_contracting, "rhs_contracting": dims.rhs_contracting,
            "result": result.name(),
        }),
        Op::Reduce { dims, reducer: r } => json!({ "dims": dims, "reducer": reducer(*r) }),
        Op::CumSum { dim, exclusive, reverse } => {
            json!({ "dim": dim, "exclusive": exclusive, "reverse": reverse })
        }
        Op::Gather(dims) => json!({
            "offset_dims": dims.offset_dims, "collapsed_slice_dims": dims.collapsed_slice_dims,
            "start_index_map": dims.start_index_map, "operand_batching_dims": dims.operand_batching_dims,
            "start_indices_batching_dims": dims.start_indices_batching_dims,
            "index_vector_dim": dims.index_vector_dim, "slice_sizes": dims.slice_sizes,
        }),
        Op::Scatter { dims, combiner, unique } => json!({
            "update_window_dims": dims.update_window_dims, "inserted_window_dims": dims.inserted_window_dims,
            "scatter_dims_to_operand_dims": dims.scatter_dims_to_operand_dims,
            "operand_batching_dims": dims.input_batching_dims,
            "scatter_indices_batching_dims": dims.scatter_indices_batching_dims,
            "index_vector_dim": dims.index_vector_dim, "unique": unique,
            "combiner": match combiner {
                Combiner::Assign => "assign",
                Combiner::Reduce(r) => reducer(*r),
            },
        }),
        Op::DynamicSlice { sizes } => json!({ "sizes": sizes }),
        Op::Scan(scan) => json!({
            "length": scan.length, "num_consts": scan.num_consts, "num_carry": scan.num_carry,
            "reverse": scan.reverse, "body": graph(&scan.body),
        }),
        Op::Sort { dim, stable, comparator } => {
            json!({ "dim": dim, "stable": stable, "comparator": graph(comparator) })
        }
        Op::While { cond, body } => json!({ "cond": graph(cond), "body": graph(body) }),
        Op::Conditional { branches } => {
            json!({ "branches": branches.iter().map(|b| graph(b)).collect::<Vec<_>>() })
        }
        // The derivative that a call brings is left out: JAX differentiates the body.
        Op::Call(call) => json!({ "body": graph(&call.body) }),
        Op::AllReduce { reducer: r, groups: g } => json!({ "reducer": reducer(*r), "groups": groups(g) }),
        Op::AllGather { dim, groups: g } => json!({ "dim": dim, "groups": groups(g) }),
        Op::ReduceScatter { dim, reducer: r, groups: g } => {
            json!({ "dim": dim, "reducer": reducer(*r), "groups": groups(g) })
        }
        Op::AllToAll { split_dim, concat_dim, groups: g } => {
            json!({ "split_dim": split_dim, "concat_dim": concat_dim, "groups": groups(g) })
        }
        Op::CollectivePermute { pairs } => json!({ "pairs": pairs }),
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Clamp
        | Op::StopGradient
        | Op::DynamicUpdateSlice
        | Op::RngBitGenerator { .. }
        | Op::OptimizationBarrier
        | Op::ReplicaId
        | Op::PartitionId => Json::Object(Map::new()),
    }
}
