//! The step taken apart: what each kind of layer costs when its operations run alone.
//!
//! The operations of a kind are cut out of the graph of the step, forward and backward halves and optimizer alike, compiled as
//! programs of their own and timed. What the compiler fuses across kinds is not fused here, and what passes between kinds is written
//! down, so the parts add up to about the step, not exactly.

use super::{MeasureError, Spread};
use crate::artifact;
use crate::config::RunConfig;
use crate::grad;
use crate::ir::{Graph, Literal, Op, TensorType, Value};
use crate::runtime::{Argument, Backend, CompileOptions, DeviceBuffer, RuntimeError};
use crate::{hlo, lower};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Kinds, and the scopes of their operations: of a path the innermost that is in the table counts. Norms belong to the layer
/// that they feed, so that of a sparse layer to its router.
const KINDS: [(&str, &[&str]); 9] = [
    ("router", &["moe"]),
    ("dispatch", &["dispatch"]),
    ("expert products", &["experts", "shared_experts"]),
    ("combine", &["combine"]),
    ("attention", &["attention", "cross_attention"]),
    ("feed-forward", &["mlp"]),
    ("embedding", &["shared"]),
    ("vocabulary loss", &["vocabulary"]),
    ("optimizer", &["optimizer"]),
];
/// Runs that are timed, of which the median counts, after one that is not.
const RUNS: usize = 3;

/// One kind of layer in one step.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    pub kind: &'static str,
    /// Of all layers of the kind.
    pub seconds: f64,
}

/// The operations of a kind in one body of the step.
struct Piece {
    kind: &'static str,
    graph: Graph,
    /// How often the body runs in a step.
    runs: usize,
}

/// Times the kinds of layers of a training step, in the order of the table; those that it does not have are left out.
///
/// The mesh has one device. Errors: [`MeasureError`] if the step cannot be built, or a part cannot be compiled or run.
pub fn parts(backend: &dyn Backend, config: &RunConfig) -> Result<Vec<Part>, MeasureError> {
    let (program, _) = artifact::compile_program(config, super::ready::PROGRAM)?;
    let mut pieces = vec![];
    cut(&artifact::optimized(&program, config.target), 1, &mut pieces)?;
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    for piece in &pieces {
        let once = time(backend, &piece.graph).map_err(MeasureError::Part)?;
        *seconds.entry(piece.kind).or_default() += once * piece.runs as f64;
    }
    let part = |(kind, _): &(&'static str, _)| Some(Part { kind, seconds: *seconds.get(kind)? });
    Ok(KINDS.iter().filter_map(part).collect())
}

/// The kind of an operation, by its path.
fn kind_of(scope: &str) -> Option<&'static str> {
    let of = |part: &str| KINDS.iter().find(|(_, scopes)| scopes.contains(&part)).map(|(kind, _)| *kind);
    let first = scope.split('/').next().and_then(of).filter(|kind| *kind == "optimizer");
    first.or_else(|| scope.rsplit('/').find_map(of))
}

/// Cuts a body that runs `runs` times into pieces, and the bodies of its loops.
fn cut(graph: &Graph, runs: usize, pieces: &mut Vec<Piece>) -> Result<(), MeasureError> {
    let kinds: Vec<Option<&str>> = graph
        .nodes()
        .iter()
        .map(|node| if is_free(&node.op) { None } else { kind_of(&node.scope) })
        .collect();
    for (node, kind) in graph.nodes().iter().zip(&kinds) {
        if let (Op::Scan(scan), None) = (&node.op, kind) {
            cut(&scan.body, runs * scan.length, pieces)?;
        }
    }
    for (kind, _) in KINDS {
        let own: Vec<bool> = kinds.iter().map(|found| *found == Some(kind)).collect();
        if own.contains(&true) {
            pieces.push(Piece { kind, graph: piece(graph, &own)?, runs });
        }
    }
    Ok(())
}

/// What costs nothing where it is used, and so is no part of any kind.
fn is_free(op: &Op) -> bool {
    matches!(op, Op::Parameter { .. } | Op::Constant(_) | Op::Iota { .. } | Op::BroadcastInDim { .. })
}

/// The nodes `own` as a graph: from what they take from others to what others take from them.
fn piece(graph: &Graph, own: &[bool]) -> Result<Graph, MeasureError> {
    let is_own = |v: Value| own[graph.node_index(v)];
    let mut given = vec![false; graph.num_values()];
    let mut taken = vec![false; graph.num_values()];
    graph.outputs().iter().for_each(|&v| taken[v.index()] = is_own(v));
    for (node, &own) in graph.nodes().iter().zip(own) {
        for &v in &node.operands {
            match own {
                true => given_by_others(graph, v, &is_own, &mut given),
                false => taken[v.index()] |= is_own(v),
            }
        }
    }
    let marked = |marks: &[bool]| -> Vec<Value> {
        let results = graph.nodes().iter().flat_map(|node| &node.results);
        results.copied().filter(|v| marks[v.index()]).collect()
    };
    let scope = |node: usize| graph.nodes()[node].scope.clone();
    Ok(grad::extract(graph, &marked(&given), &marked(&taken), scope)?)
}

/// Marks `v` if others make it, or, where it costs nothing, what it is made from.
fn given_by_others(graph: &Graph, v: Value, is_own: &impl Fn(Value) -> bool, given: &mut [bool]) {
    let node = graph.node(v);
    match &node.op {
        _ if is_own(v) => (),
        op if is_free(op) && !matches!(op, Op::Parameter { .. }) => {
            node.operands.iter().for_each(|&v| given_by_others(graph, v, is_own, given));
        }
        _ => given[v.index()] = true,
    }
}

/// Seconds of one run, on ones.
fn time(backend: &dyn Backend, graph: &Graph) -> Result<f64, RuntimeError> {
    let module = hlo::encode(&lower::lower("part", graph, &[], &[]));
    let program = backend.compile(&module, &CompileOptions::default())?;
    let inputs: Vec<DeviceBuffer> =
        graph.input_types().iter().map(|ty| backend.upload(&ones(ty)?, 0)).collect::<Result<_, _>>()?;
    let mut times = vec![];
    for _ in 0..=RUNS {
        let start = Instant::now();
        let results = program.run(inputs.iter().map(Argument::from).collect())?;
        // A backend may run ahead: the smallest result is there when the others are.
        if let Some(result) = results.iter().min_by_key(|result| result.ty().size_bytes()) {
            result.download()?;
        }
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Spread::new(times.split_off(1)).median)
}

fn ones(ty: &TensorType) -> Result<Literal, RuntimeError> {
    let bytes = Literal::scalar_of(ty.dtype, 1.0).bytes().repeat(ty.elements());
    Literal::from_bytes(ty.clone(), bytes).map_err(|e| RuntimeError::Module(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Builder;
    use crate::ir::DType;

    #[test]
    fn the_innermost_known_scope_is_the_kind() {
        assert_eq!(kind_of("grad/encoder/block_1/moe/experts"), Some("expert products"));
        assert_eq!(kind_of("encoder/block_1/moe/router_probs"), Some("router"));
        assert_eq!(kind_of("optimizer/encoder/block_1/moe/experts/wi"), Some("optimizer"));
        assert_eq!(kind_of("encoder/final_norm"), None);
    }

    #[test]
    fn a_piece_takes_what_others_make_and_gives_what_others_take() {
        let ty = TensorType::new(DType::F32, [2]);
        let graph = Builder::graph(&[ty], |b, x| {
            let a = b.scoped("attention", |b| b.exp(x[0]))?;
            let a = b.scoped("mlp", |b| b.log(a))?;
            let half = b.full_like(a, 0.5)?;
            let a = b.scoped("attention", |b| b.mul(a, half))?;
            Ok(vec![a])
        });
        let mut pieces = vec![];
        cut(&graph.unwrap(), 3, &mut pieces).unwrap();
        let names = |graph: &Graph| graph.nodes().iter().map(|n| n.op.name()).collect::<Vec<_>>();
        let found: Vec<_> = pieces.iter().map(|p| (p.kind, p.runs, names(&p.graph))).collect();
        let attention =
            vec!["parameter", "parameter", "exponential", "constant", "broadcast_in_dim", "multiply"];
        let mlp = vec!["parameter", "log"];
        assert_eq!(found, [("attention", 3, attention), ("feed-forward", 3, mlp)]);
    }
}
