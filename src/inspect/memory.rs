//! Peak memory from the lifetimes of values in program order.
//!
//! Views (tuples and their elements, reshapes, barriers) take no memory; broadcasts and iotas are always made
//! inside their users. Loops, updates of slices and elementwise operations work in place where they can.
//! Nothing else is fused, so the compiler does better.

use super::cost::{ELEMENTWISE, TRANSCENDENTAL};
use super::graph::{Graph, Use};
use super::report::Memory;
use crate::hlo::{HloInstructionProto, ShapeProto};

/// The memory of the entry computation with all that it calls.
pub fn estimate(graph: &Graph) -> Memory {
    let mut peaks: Vec<u64> = Vec::with_capacity(graph.module.computations.len());
    for (c, _) in graph.all() {
        let peak = Liveness::new(graph, c).peak(&peaks);
        peaks.push(peak);
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
}

/// The buffers behind every array of every instruction of one computation.
struct Liveness<'g, 'a> {
    graph: &'g Graph<'a>,
    computation: usize,
    instructions: &'a [HloInstructionProto],
    buffers: Vec<Buffer>,
    /// For each instruction the buffer of each array of its shape; `None` costs nothing (parameters, constants).
    leaves: Vec<Vec<Option<usize>>>,
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
                for &buffer in leaves.into_iter().flatten().flatten() {
                    self.buffers[buffer].last_use = at;
                }
            }
        }
        let shapes = self.graph.shape(i).leaves();
        let mut leaves = self.shared(i, shapes.len());
        leaves.resize(shapes.len(), None);
        let mut made = vec![];
        if allocates(i) {
            for (leaf, shape) in leaves.iter_mut().zip(&shapes) {
                made.push(self.buffers.len());
                *leaf = Some(self.buffers.len());
                self.buffers.push(Buffer { bytes: shape.bytes(), last_use: at });
            }
        }
        self.leaves.push(leaves);
        self.made.push(made);
    }

    fn operand_position(&self, i: &HloInstructionProto, n: usize) -> Option<usize> {
        i.operand_ids.get(n).and_then(|&id| self.graph.position(self.computation, id))
    }

    fn operand_leaves(&self, i: &HloInstructionProto, n: usize) -> &[Option<usize>] {
        self.operand_position(i, n).and_then(|p| self.leaves.get(p)).map_or(&[], Vec::as_slice)
    }

    /// Buffers that an instruction passes on from its operands; at most as many as its shape has arrays.
    fn shared(&self, i: &HloInstructionProto, most: usize) -> Vec<Option<usize>> {
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
        for buffer in leaves.iter().flatten() {
            self.buffers[*buffer].last_use = usize::MAX;
        }
        if self.computation != self.graph.entry() {
            return;
        }
        let entries = self.graph.module.input_output_alias.as_ref().map(|a| a.entries.as_slice());
        for entry in entries.unwrap_or_default() {
            let leaf = leaf_at(shape, &entry.output_shape_index);
            if let Some(buffer) = leaf.and_then(|n| leaves.get(n).copied().flatten()) {
                self.buffers[buffer].bytes = 0;
            }
        }
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

/// Whether an instruction only gives another name to its operands.
fn is_view(i: &HloInstructionProto) -> bool {
    matches!(i.opcode.as_str(), "tuple" | "get-tuple-element" | "opt-barrier" | "bitcast" | "reshape")
}

/// Whether an instruction makes a new buffer.
fn allocates(i: &HloInstructionProto) -> bool {
    let free = [
        "parameter",
        "constant",
        "while",
        "dynamic-update-slice",
        "scatter",
        "broadcast",
        "iota",
        "after-all",
    ];
    !is_view(i) && !free.contains(&i.opcode.as_str())
}
