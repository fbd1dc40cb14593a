//! The instructions of a compiled module that run by themselves: how often, how long, and what they move.

use super::InspectError;
use super::cost;
use super::graph::{Graph, Use};
use super::loops;
use crate::hlo::{self, HloInstructionProto, HloModuleProto, ShapeProto};
use std::collections::BTreeSet;

/// One instruction that the compiler makes a kernel, or a copy, of.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub name: String,
    pub opcode: String,
    /// Path of the layer, where the metadata names it.
    pub op_name: String,
    /// Times that one execution of the module runs it.
    pub runs: u64,
    /// The compiler's own estimate of one run.
    pub cycles: Option<u64>,
    /// Matrix products of one run: two per multiply-add.
    pub dot_flops: u64,
    /// Bytes that one run reads from and writes to main memory, padding included.
    pub memory_bytes: u64,
    /// Whether it is a copy that starts early and is awaited late, so that other kernels run beside it.
    pub beside: bool,
}

/// The kernels of an optimized module, in its order.
///
/// Errors: [`InspectError`] if the module is not well formed.
pub fn kernels(module: &HloModuleProto) -> Result<Vec<Kernel>, InspectError> {
    hlo::check(module)?;
    let graph = Graph::new(module);
    let weights = graph.weights(&loops::loops(&graph));
    let started = started(&graph);
    let mut out = vec![];
    for ((c, computation), weight) in graph.all().zip(weights) {
        for i in computation.instructions.iter().filter(|i| weight.in_memory > 0 && is_kernel(i)) {
            out.push(Kernel {
                name: i.name.clone(),
                opcode: i.opcode.clone(),
                op_name: i.op_name().into(),
                runs: weight.in_memory,
                cycles: estimated_cycles(i),
                dot_flops: dot_flops(&graph, c, i),
                memory_bytes: memory_bytes(&graph, c, i),
                beside: i.opcode == "copy-start" || started.contains(&c),
            });
        }
    }
    Ok(out)
}

/// The computations that run beside the one that starts them.
fn started(graph: &Graph) -> BTreeSet<usize> {
    let all = graph.all().flat_map(|(_, computation)| &computation.instructions);
    let starts = all.filter(|i| i.opcode == "async-start");
    starts.flat_map(|i| graph.calls(i)).map(|(called, _)| called).collect()
}

/// Whether an instruction does something itself; the ends of asynchronous work were counted at its start.
fn is_kernel(i: &HloInstructionProto) -> bool {
    let free = [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "call",
        "conditional",
        "opt-barrier",
        "after-all",
        "add-dependency",
        "partition-id",
        "replica-id",
        "async-start",
        "async-update",
    ];
    !free.contains(&i.opcode.as_str()) && !i.opcode.ends_with("-done")
}

/// `"estimated_cycles":"1234"`, wherever the compiler's notes hold it.
fn estimated_cycles(i: &HloInstructionProto) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_slice(&i.backend_config).ok()?;
    let cycles = find(&config, "estimated_cycles")?;
    cycles.as_u64().or_else(|| cycles.as_str()?.parse().ok()).filter(|&n| n > 0)
}

fn find<'v>(value: &'v serde_json::Value, key: &str) -> Option<&'v serde_json::Value> {
    let fields = value.as_object()?;
    fields.get(key).or_else(|| fields.values().find_map(|inner| find(inner, key)))
}

/// The matrix products of an instruction, of those in a fusion, and of fusions in it.
fn dot_flops(graph: &Graph, c: usize, i: &HloInstructionProto) -> u64 {
    let fused = graph.calls(i).into_iter().filter(|(_, kind)| *kind == Use::Fused);
    let inner = fused.filter_map(|(inner, _)| Some((inner, graph.module.computations.get(inner)?)));
    let inner =
        inner.flat_map(|(inner, computation)| computation.instructions.iter().map(move |i| (inner, i)));
    let own = if i.opcode == "dot" { cost::dot_flops(graph, c, i) } else { 0 };
    inner.fold(own, |n, (inner, i)| n.saturating_add(dot_flops(graph, inner, i)))
}

/// Operands read and results written in main memory. Of an array that is sliced inside a fusion, or updated in
/// place, the slice counts.
fn memory_bytes(graph: &Graph, c: usize, i: &HloInstructionProto) -> u64 {
    let operands =
        (0..i.operand_ids.len()).fold(0u64, |n, o| n.saturating_add(operand_bytes(graph, c, i, o)));
    operands.saturating_add(result_bytes(graph, c, i))
}

fn operand_bytes(graph: &Graph, c: usize, i: &HloInstructionProto, n: usize) -> u64 {
    let whole = in_main_memory(graph.operand_shape(c, i, n));
    let sliced = |bytes: u64| bytes.min(whole);
    match i.opcode.as_str() {
        "dynamic-slice" | "slice" | "gather" if n == 0 => sliced(graph.shape(i).padded_bytes()),
        "dynamic-update-slice" if n == 0 => 0,
        "scatter" if n == 0 => 0,
        "fusion" => sliced(read_in_fusion(graph, i, n).unwrap_or(whole)),
        // The start of a copy holds source and target in its result; see there.
        "copy-start" => 0,
        _ => whole,
    }
}

fn result_bytes(graph: &Graph, c: usize, i: &HloInstructionProto) -> u64 {
    let whole = in_main_memory(graph.shape(i));
    match i.opcode.as_str() {
        "dynamic-update-slice" => in_main_memory(graph.operand_shape(c, i, 1)),
        "scatter" => in_main_memory(graph.operand_shape(c, i, i.operand_ids.len().saturating_sub(1))),
        "fusion" => written_in_fusion(graph, i).unwrap_or(whole),
        _ => whole,
    }
}

/// What a fusion reads of an operand of which it only takes slices, or writes parts; `None` if it reads all of it.
fn read_in_fusion(graph: &Graph, i: &HloInstructionProto, n: usize) -> Option<u64> {
    let inner = fused(graph, i)?;
    let computation = graph.module.computations.get(inner)?;
    let is_it = |p: &&HloInstructionProto| p.opcode == "parameter" && p.parameter_number == n as i64;
    read_by_users(graph, inner, computation.instructions.iter().find(is_it)?.id)
}

/// The same of a value in a fused computation.
fn read_by_users(graph: &Graph, c: usize, id: i64) -> Option<u64> {
    let computation = graph.module.computations.get(c)?;
    let mut bytes = 0u64;
    for user in &computation.instructions {
        for (place, _) in user.operand_ids.iter().enumerate().filter(|(_, operand)| **operand == id) {
            bytes = bytes.saturating_add(match user.opcode.as_str() {
                "dynamic-slice" | "slice" | "gather" if place == 0 => graph.shape(user).bytes(),
                "dynamic-update-slice" if place == 0 => 0,
                "bitcast" if user.id != computation.root_id => read_by_users(graph, c, user.id)?,
                "fusion" => read_in_fusion(graph, user, place)?,
                _ => return None,
            });
        }
    }
    Some(bytes)
}

/// What a fusion writes to main memory: of results that only update slices of operands, the slices. `None` if it is not well formed.
fn written_in_fusion(graph: &Graph, i: &HloInstructionProto) -> Option<u64> {
    let inner = fused(graph, i)?;
    let root = graph.root(inner)?;
    let parts: Vec<&HloInstructionProto> = match root.opcode.as_str() {
        "tuple" => root.operand_ids.iter().filter_map(|&id| graph.instruction(inner, id)).collect(),
        _ => vec![root],
    };
    // Only the shapes of the fusion itself say where its results lie.
    let results = graph.shape(i).leaves();
    let written = |(result, part): (&ShapeProto, _)| {
        let whole = in_main_memory(result);
        updated(graph, inner, part).map_or(whole, |slice| slice.min(whole))
    };
    let all = results.iter().copied().zip(parts.iter().copied());
    (results.len() == parts.len()).then(|| all.map(written).fold(0, u64::saturating_add))
}

/// The slice of which a value in a fused computation is an update in place.
fn updated(graph: &Graph, c: usize, i: &HloInstructionProto) -> Option<u64> {
    match i.opcode.as_str() {
        "dynamic-update-slice" => Some(graph.operand_shape(c, i, 1).bytes()),
        "bitcast" => updated(graph, c, graph.operand(c, i, 0)?),
        "fusion" => {
            let inner = fused(graph, i)?;
            updated(graph, inner, graph.root(inner)?)
        }
        _ => None,
    }
}

/// The computation in a fusion.
fn fused(graph: &Graph, i: &HloInstructionProto) -> Option<usize> {
    graph.calls(i).into_iter().find_map(|(inner, kind)| (kind == Use::Fused).then_some(inner))
}

/// Padded bytes of the arrays of a shape that lie in main memory, not in a memory beside the arithmetic.
fn in_main_memory(shape: &ShapeProto) -> u64 {
    let main = |s: &&ShapeProto| s.layout.as_ref().is_none_or(|layout| layout.memory_space == 0);
    shape.leaves().into_iter().filter(main).fold(0, |n, s| n.saturating_add(s.padded_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, u64, Option<u64>, u64)> {
        let kernels = kernels(&hlo::parse(text).unwrap()).unwrap();
        kernels.into_iter().map(|k| (k.name, k.runs, k.cycles, k.memory_bytes)).collect()
    }

    #[test]
    fn a_kernel_in_a_loop_counts_its_trips_and_its_slice() {
        // Eight rows of 128 floats; each trip adds one row (512 bytes read) to the sum (512 read and written).
        let text = r#"HloModule m
            fused { x = f32[8,128]{1,0} parameter(0)
              s = f32[128]{0} parameter(1)
              n = s32[] parameter(2)
              z = s32[] constant(0)
              row = f32[1,128]{1,0} dynamic-slice(x, n, z), dynamic_slice_sizes={1,128}
              flat = f32[128]{0} reshape(row)
              ROOT sum = f32[128]{0} add(s, flat) }
            body { p = (s32[], f32[128]{0}, f32[8,128]{1,0}) parameter(0)
              i = s32[] get-tuple-element(p), index=0
              s = f32[128]{0} get-tuple-element(p), index=1
              x = f32[8,128]{1,0} get-tuple-element(p), index=2
              f = f32[128]{0} fusion(x, s, i), kind=kLoop, calls=fused, backend_config={"window_config":{"estimated_cycles":"70"}}
              one = s32[] constant(1)
              j = s32[] add(i, one)
              ROOT t = (s32[], f32[128]{0}, f32[8,128]{1,0}) tuple(j, f, x) }
            condition { p = (s32[], f32[128]{0}, f32[8,128]{1,0}) parameter(0)
              i = s32[] get-tuple-element(p), index=0
              n = s32[] constant(8)
              ROOT c = pred[] compare(i, n), direction=LT }
            ENTRY e { x = f32[8,128]{1,0} parameter(0)
              s = f32[128]{0} parameter(1)
              z = s32[] constant(0)
              t = (s32[], f32[128]{0}, f32[8,128]{1,0}) tuple(z, s, x)
              w = (s32[], f32[128]{0}, f32[8,128]{1,0}) while(t), condition=condition, body=body
              ROOT r = f32[128]{0} get-tuple-element(w), index=1 }"#;
        let all = found(text);
        let fusion = all.iter().find(|k| k.0 == "f").unwrap();
        // The index adds 4 bytes.
        assert_eq!(fusion, &("f".to_owned(), 8, Some(70), 512 + 512 + 512 + 4));
        assert!(all.iter().all(|k| k.0 != "w" && k.0 != "t"), "{all:?}");
    }

    #[test]
    fn a_slice_that_is_copied_beside_the_arithmetic_is_read_from_main_memory() {
        let text = r#"HloModule m
            start { x = f32[8,1024]{1,0:T(8,128)} parameter(0)
              ROOT s = f32[8,256]{1,0:T(8,128)S(1)} slice(x), slice={[0:8], [0:256]} }
            ENTRY e { x = f32[8,1024]{1,0:T(8,128)} parameter(0)
              a = ((f32[8,1024]{1,0:T(8,128)}), f32[8,256]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) async-start(x), calls=start
              ROOT d = f32[8,256]{1,0:T(8,128)S(1)} async-done(a) }"#;
        assert_eq!(found(text), [("s".to_owned(), 1, None, 8 * 256 * 4)]);
        assert!(kernels(&hlo::parse(text).unwrap()).unwrap()[0].beside);
    }

    #[test]
    fn results_beside_the_arithmetic_are_not_in_main_memory() {
        // 4096 bytes read, 4096 written to main memory, the rest beside the arithmetic; an update in place there too.
        let text = r#"HloModule m
            two { x = f32[8,128]{1,0} parameter(0)
              y = f32[8,128]{1,0} negate(x)
              z = f32[8,128]{1,0} exponential(x)
              ROOT t = (f32[8,128]{1,0}, f32[8,128]{1,0}) tuple(y, z) }
            update { x = f32[8,128]{1,0} parameter(0)
              row = f32[1,128]{1,0} parameter(1)
              n = s32[] parameter(2)
              z = s32[] constant(0)
              ROOT new = f32[8,128]{1,0} dynamic-update-slice(x, row, n, z) }
            ENTRY e { x = f32[8,128]{1,0} parameter(0)
              row = f32[1,128]{1,0} parameter(1)
              n = s32[] parameter(2)
              f = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0}) fusion(x), kind=kLoop, calls=two
              y = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(f), index=0
              ROOT g = f32[8,128]{1,0:T(8,128)S(1)} fusion(y, row, n), kind=kLoop, calls=update }"#;
        let (f, g) = (("f".to_owned(), 1, None, 4096 + 4096), ("g".to_owned(), 1, None, 512 + 4));
        assert_eq!(found(text), [f, g]);
    }

    #[test]
    fn a_slice_counts_behind_a_bitcast_and_in_a_fusion_within_a_fusion() {
        // Of eight rows of 128 floats one is read (512 bytes, and the index), and one of another eight written.
        let text = r#"HloModule m
            take { x = f32[8,128]{1,0} parameter(0)
              n = s32[] parameter(1)
              z = s32[] constant(0)
              ROOT row = f32[1,128]{1,0} dynamic-slice(x, n, z), dynamic_slice_sizes={1,128} }
            fused { y = f32[1024]{0} parameter(0)
              x = f32[8,1,128]{2,1,0} parameter(1)
              n = s32[] parameter(2)
              z = s32[] constant(0)
              flat = f32[8,128]{1,0} bitcast(x)
              row = f32[1,128]{1,0} fusion(flat, n), kind=kLoop, calls=take
              rows = f32[8,128]{1,0} bitcast(y)
              new = f32[8,128]{1,0} dynamic-update-slice(rows, row, n, z)
              ROOT all = f32[1024]{0} bitcast(new) }
            ENTRY e { y = f32[1024]{0} parameter(0)
              x = f32[8,1,128]{2,1,0} parameter(1)
              n = s32[] parameter(2)
              ROOT f = f32[1024]{0} fusion(y, x, n), kind=kLoop, calls=fused }"#;
        assert_eq!(found(text), [("f".to_owned(), 1, None, 512 + 512 + 4)]);
    }
}
