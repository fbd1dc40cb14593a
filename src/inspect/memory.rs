//! Peak memory from the lifetimes of values in program order.
//!
//! Views (tuples and their elements, reshapes, barriers) take no memory; broadcasts and iotas are made inside their users,
//! unless those write over them: a loop that carries them, an update of a slice. Loops, updates of slices and elementwise operations work in place where they can.
//! Nothing else is fused, so the compiler does better.

use super::cost::{ELEMENTWISE, TRANSCENDENTAL};
use super::graph::{Graph, Use};
use super::loops::Loops;
use super::report::Memory;
use crate::hlo::{HloInstructionProto, ShapeProto};
use crate::ir::scope;

/// The memory of the entry computation with all that it calls.
pub fn estimate(graph: &Graph, loops: &Loops) -> Memory {
    let mut peaks: Vec<u64> = Vec::with_capacity(graph.module.computations.len());
    let (mut kept_bytes, mut kept_per_iteration_bytes) = (0, 0);
    let backward = backward_computations(graph);
    for (c, _) in graph.all() {
        let liveness = Liveness::new(graph, c);
        peaks.push(liveness.peak(&peaks));
        if !backward[c] {
            kept_bytes = liveness.kept().max(kept_bytes);
            kept_per_iteration_bytes = liveness.kept_per_iteration(loops).max(kept_per_iteration_bytes);
        }
    }
    let entry = graph.entry();
    let parameters = super::alias::parameters(graph);
    let parameter_bytes = parameters.iter().fold(0u64, |n, p| n.saturating_add(graph.shape(p).bytes()));
    let outputs = graph.root(entry).map_or(0, |r| graph.shape(r).bytes());
    let peak_temporary_bytes = peaks.get(entry).copied().unwrap_or(0);
    Memory {
        parameter_bytes,
        unaliased_output_bytes: outputs.saturating_sub(aliased_bytes(graph)),
        peak_temporary_bytes,
        kept_bytes,
        kept_per_iteration_bytes,
        peak_bytes: parameter_bytes.saturating_add(peak_temporary_bytes),
    }
}

fn aliased_bytes(graph: &Graph) -> u64 {
    super::alias::table(graph).bytes
}

/// A buffer: where it is made, how large it is, and the last place that needs it.
struct Buffer {
    bytes: u64,
    last_use: usize,
    /// Whether the forward pass makes it, and the backward pass reads it.
    forward: bool,
    read_backward: bool,
}

impl Buffer {
    fn is_kept(&self) -> bool {
        self.forward && self.read_backward
    }
}

/// Where an array of an instruction lies.
#[derive(Clone, Copy, PartialEq)]
enum Leaf {
    /// It costs nothing: parameters, constants.
    Free,
    /// It is made inside its users, unless they write over it.
    Inside,
    Buffer(usize),
}

impl Leaf {
    fn buffer(&self) -> Option<usize> {
        match self {
            Leaf::Buffer(n) => Some(*n),
            Leaf::Free | Leaf::Inside => None,
        }
    }
}

/// The buffers behind every array of every instruction of one computation.
struct Liveness<'g, 'a> {
    graph: &'g Graph<'a>,
    computation: usize,
    instructions: &'a [HloInstructionProto],
    buffers: Vec<Buffer>,
    /// For each instruction the place of each array of its shape.
    leaves: Vec<Vec<Leaf>>,
    /// For each instruction the buffers that it makes.
    made: Vec<Vec<usize>>,
}

impl<'g, 'a> Liveness<'g, 'a> {
    fn new(graph: &'g Graph<'a>, computation: usize) -> Self {
        let instructions = graph.module.computations.get(computation).map_or(&[][..], |c| &c.instructions);
        let mut out =
            Self { graph, computation, instructions, buffers: vec![], leaves: vec![], made: vec![] };
        for (at, i) in instructions.iter().enumerate() {
            out.visit(at, i);
        }
        out.keep_results();
        out
    }

    /// Assigns buffers to the arrays of an instruction, and extends the life of those that it reads.
    fn visit(&mut self, at: usize, i: &HloInstructionProto) {
        if !is_view(i) {
            for n in 0..i.operand_ids.len() {
                let leaves = self.operand_position(i, n).and_then(|p| self.leaves.get(p));
                for buffer in leaves.into_iter().flatten().filter_map(Leaf::buffer) {
                    self.buffers[buffer].last_use = at;
                    self.buffers[buffer].read_backward |= is_backward(i);
                }
            }
        }
        let shapes = self.graph.shape(i).leaves();
        let mut leaves = self.shared(i, shapes.len());
        leaves.resize(shapes.len(), if is_made_inside(i) { Leaf::Inside } else { Leaf::Free });
        let mut made = vec![];
        for (leaf, shape) in leaves.iter_mut().zip(&shapes) {
            if allocates(i) || (writes_over(i) && *leaf == Leaf::Inside) {
                made.push(self.buffers.len());
                *leaf = Leaf::Buffer(self.buffers.len());
                let forward = !i.op_name().is_empty() && !is_backward(i);
                let bytes = shape.bytes();
                self.buffers.push(Buffer { bytes, last_use: at, forward, read_backward: false });
            }
        }
        self.leaves.push(leaves);
        self.made.push(made);
    }

    fn operand_position(&self, i: &HloInstructionProto, n: usize) -> Option<usize> {
        i.operand_ids.get(n).and_then(|&id| self.graph.position(self.computation, id))
    }

    fn operand_leaves(&self, i: &HloInstructionProto, n: usize) -> &[Leaf] {
        self.operand_position(i, n).and_then(|p| self.leaves.get(p)).map_or(&[], Vec::as_slice)
    }

    /// Places that an instruction passes on from its operands; at most as many as its shape has arrays.
    fn shared(&self, i: &HloInstructionProto, most: usize) -> Vec<Leaf> {
        match i.opcode.as_str() {
            "tuple" => {
                let all = (0..i.operand_ids.len()).flat_map(|n| self.operand_leaves(i, n));
                all.take(most).copied().collect()
            }
            "get-tuple-element" => {
                let tuple = self.graph.operand_shape(self.computation, i, 0);
                let index = usize::try_from(i.tuple_index).unwrap_or(0);
                let before: usize = tuple.tuple_shapes.iter().take(index).map(leaf_count).sum();
                self.operand_leaves(i, 0).iter().skip(before).take(most).copied().collect()
            }
            "while" | "opt-barrier" | "bitcast" | "reshape" | "dynamic-update-slice" | "scatter" => {
                self.operand_leaves(i, 0).iter().take(most).copied().collect()
            }
            _ => vec![],
        }
    }

    /// Results live to the end; those of the entry that alias a parameter take no memory of their own.
    fn keep_results(&mut self) {
        let id = self.graph.module.computations.get(self.computation).map(|c| c.root_id);
        let Some(root) = id.and_then(|id| self.graph.position(self.computation, id)) else { return };
        let shape = self.graph.shape(&self.instructions[root]);
        let leaves = self.leaves[root].clone();
        for buffer in leaves.iter().filter_map(Leaf::buffer) {
            self.buffers[buffer].last_use = usize::MAX;
        }
        if self.computation != self.graph.entry() {
            return;
        }
        let entries = self.graph.module.input_output_alias.as_ref().map(|a| a.entries.as_slice());
        for entry in entries.unwrap_or_default() {
            let leaf = leaf_at(shape, &entry.output_shape_index);
            if let Some(buffer) = leaf.and_then(|n| leaves.get(n)?.buffer()) {
                self.buffers[buffer].bytes = 0;
            }
        }
    }

    /// Bytes that the forward pass makes and the backward pass reads.
    fn kept(&self) -> u64 {
        let kept = self.buffers.iter().filter(|buffer| buffer.is_kept());
        kept.fold(0u64, |n, buffer| n.saturating_add(buffer.bytes))
    }

    /// The most of these that one iteration of a loop makes.
    fn kept_per_iteration(&self, loops: &Loops) -> u64 {
        let of_loop = |(i, made): (&HloInstructionProto, &Vec<usize>)| {
            let trips = loops.trip_count(self.computation, i.id)?;
            let kept = made.iter().filter(|&&buffer| self.buffers[buffer].is_kept());
            self.sum(kept).checked_div(trips)
        };
        self.instructions.iter().zip(&self.made).filter_map(of_loop).max().unwrap_or(0)
    }

    /// The most bytes alive at once; `peaks` are those of the computations before.
    fn peak(&self, peaks: &[u64]) -> u64 {
        let mut dying: Vec<Vec<usize>> = vec![vec![]; self.instructions.len()];
        for (n, buffer) in self.buffers.iter().enumerate() {
            if let Some(list) = dying.get_mut(buffer.last_use) {
                list.push(n);
            }
        }
        let (mut live, mut peak) = (0u64, 0u64);
        for (at, i) in self.instructions.iter().enumerate() {
            let made: u64 = self.sum(&self.made[at]);
            let gone = self.sum(dying[at].iter().filter(|n| !self.made[at].contains(n)));
            let unused = self.sum(dying[at].iter().filter(|n| self.made[at].contains(n)));
            // Elementwise operations may write over an operand that nobody needs any more.
            let in_place = if is_elementwise(i) { made.min(gone) } else { 0 };
            let now = live.saturating_add(made - in_place).saturating_add(self.inner(i, peaks));
            peak = peak.max(now);
            live = live.saturating_add(made).saturating_sub(gone).saturating_sub(unused);
        }
        peak
    }

    fn sum<'n>(&self, buffers: impl IntoIterator<Item = &'n usize>) -> u64 {
        buffers.into_iter().fold(0u64, |n, b| n.saturating_add(self.buffers[*b].bytes))
    }

    /// The most that a called computation needs for itself.
    fn inner(&self, i: &HloInstructionProto, peaks: &[u64]) -> u64 {
        let calls = self.graph.calls(i).into_iter();
        let own = calls.filter(|(_, kind)| matches!(kind, Use::Loop | Use::Once | Use::Branch));
        own.filter_map(|(c, _)| peaks.get(c).copied()).max().unwrap_or(0)
    }
}

fn leaf_count(shape: &ShapeProto) -> usize {
    if shape.is_tuple() { shape.tuple_shapes.iter().map(leaf_count).sum() } else { 1 }
}

/// The place of an array among the flattened arrays of a shape.
fn leaf_at(shape: &ShapeProto, index: &[i64]) -> Option<usize> {
    let (mut shape, mut before) = (shape, 0);
    for &i in index {
        let i = usize::try_from(i).ok()?;
        before += shape.tuple_shapes.iter().take(i).map(leaf_count).sum::<usize>();
        shape = shape.tuple_shapes.get(i)?;
    }
    (!shape.is_tuple()).then_some(before)
}

fn is_elementwise(i: &HloInstructionProto) -> bool {
    ELEMENTWISE.contains(&i.opcode.as_str()) || TRANSCENDENTAL.contains(&i.opcode.as_str())
}

/// Whether an instruction computes derivatives, or for them what the forward pass did not keep, by its path.
fn is_backward(i: &HloInstructionProto) -> bool {
    scope::is_backward(i.op_name())
}

/// The computations that the backward pass runs: what they compute again, the forward pass does not keep.
fn backward_computations(graph: &Graph) -> Vec<bool> {
    let mut backward = vec![false; graph.module.computations.len()];
    for (c, computation) in graph.all().rev() {
        let all = backward[c];
        for i in computation.instructions.iter().filter(|i| all || is_backward(i)) {
            graph.calls(i).into_iter().for_each(|(called, _)| backward[called] = true);
        }
    }
    backward
}

fn is_made_inside(i: &HloInstructionProto) -> bool {
    matches!(i.opcode.as_str(), "broadcast" | "iota")
}

/// Whether an instruction works in the memory of its first operand.
fn writes_over(i: &HloInstructionProto) -> bool {
    matches!(i.opcode.as_str(), "while" | "dynamic-update-slice" | "scatter")
}

/// Whether an instruction only gives another name to its operands.
fn is_view(i: &HloInstructionProto) -> bool {
    matches!(i.opcode.as_str(), "tuple" | "get-tuple-element" | "opt-barrier" | "bitcast" | "reshape")
}

/// Whether an instruction makes a new buffer.
fn allocates(i: &HloInstructionProto) -> bool {
    let free = ["parameter", "constant", "after-all"];
    !is_view(i) && !is_made_inside(i) && !writes_over(i) && !free.contains(&i.opcode.as_str())
}
