//! A checked module with its ids resolved, and how often each computation runs.

use super::loops::Loops;
use crate::hlo::{HloComputationProto, HloInstructionProto, HloModuleProto, ShapeProto};
use std::collections::HashMap;

/// Positions instead of ids. Made of modules that [`crate::hlo::check`] has passed.
pub struct Graph<'a> {
    pub module: &'a HloModuleProto,
    computations: HashMap<i64, usize>,
    instructions: Vec<HashMap<i64, usize>>,
    no_shape: ShapeProto,
}

/// How a computation is used by the instruction that calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Runs as often as the caller times the trips.
    Loop,
    /// Runs once per caller.
    Once,
    /// One of several branches runs.
    Branch,
    /// Runs inside one kernel: its arithmetic counts, its values are not in memory.
    Fused,
    /// Is applied to elements: counted by the instruction that calls it.
    PerElement,
}

/// How often the instructions of a computation run, and how often its values are written to memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub runs: u64,
    pub in_memory: u64,
}

impl<'a> Graph<'a> {
    pub fn new(module: &'a HloModuleProto) -> Self {
        let computations = module.computations.iter().enumerate().map(|(n, c)| (c.id, n)).collect();
        let positions =
            |c: &HloComputationProto| c.instructions.iter().enumerate().map(|(n, i)| (i.id, n)).collect();
        let instructions = module.computations.iter().map(positions).collect();
        Self { module, computations, instructions, no_shape: ShapeProto::default() }
    }

    /// The position of a computation.
    pub fn computation(&self, id: i64) -> Option<usize> {
        self.computations.get(&id).copied()
    }

    /// The position of an instruction in the computation at this position.
    pub fn position(&self, computation: usize, id: i64) -> Option<usize> {
        self.instructions.get(computation)?.get(&id).copied()
    }

    pub fn instruction(&self, computation: usize, id: i64) -> Option<&'a HloInstructionProto> {
        self.module.computations.get(computation)?.instructions.get(self.position(computation, id)?)
    }

    /// The n-th operand.
    pub fn operand(
        &self,
        computation: usize,
        i: &HloInstructionProto,
        n: usize,
    ) -> Option<&'a HloInstructionProto> {
        self.instruction(computation, *i.operand_ids.get(n)?)
    }

    /// The shape of the n-th operand, an empty one if there is none.
    pub fn operand_shape(&self, computation: usize, i: &HloInstructionProto, n: usize) -> &ShapeProto {
        self.operand(computation, i, n).and_then(|o| o.shape.as_ref()).unwrap_or(&self.no_shape)
    }

    /// The shape of an instruction.
    pub fn shape<'b>(&'b self, i: &'b HloInstructionProto) -> &'b ShapeProto {
        i.shape.as_ref().unwrap_or(&self.no_shape)
    }

    pub fn entry(&self) -> usize {
        self.computation(self.module.entry_computation_id).unwrap_or(0)
    }

    /// The root of the computation at this position.
    pub fn root(&self, computation: usize) -> Option<&'a HloInstructionProto> {
        self.instruction(computation, self.module.computations.get(computation)?.root_id)
    }

    /// Every computation with its position and instructions.
    pub fn all(
        &self,
    ) -> impl DoubleEndedIterator<Item = (usize, &'a HloComputationProto)> + ExactSizeIterator {
        self.module.computations.iter().enumerate()
    }

    /// Runs of every computation. Of the branches of a conditional the first of the most instructions is counted.
    pub fn weights(&self, loops: &Loops) -> Vec<Weight> {
        let mut weights = vec![Weight::default(); self.module.computations.len()];
        weights[self.entry()] = Weight { runs: 1, in_memory: 1 };
        for (c, computation) in self.all().rev() {
            let own = weights[c];
            for i in &computation.instructions {
                for (called, kind) in self.calls(i) {
                    let (runs, in_memory) = match kind {
                        Use::Loop => {
                            let trips = loops.trips(c, i.id, called, self);
                            (own.runs.saturating_mul(trips), own.in_memory.saturating_mul(trips))
                        }
                        Use::Once => (own.runs, own.in_memory),
                        Use::Branch if self.longest_branch(i) == Some(called) => (own.runs, own.in_memory),
                        Use::Fused => (own.runs, 0),
                        Use::Branch | Use::PerElement => (0, 0),
                    };
                    let weight = &mut weights[called];
                    weight.runs = weight.runs.saturating_add(runs);
                    weight.in_memory = weight.in_memory.saturating_add(in_memory);
                }
            }
        }
        weights
    }

    /// The computations that an instruction calls.
    pub fn calls(&self, i: &HloInstructionProto) -> Vec<(usize, Use)> {
        let kind = match i.opcode.as_str() {
            "while" => Use::Loop,
            "call" | "async-start" => Use::Once,
            "conditional" => Use::Branch,
            "fusion" => Use::Fused,
            _ => Use::PerElement,
        };
        i.called_computation_ids.iter().filter_map(|&id| Some((self.computation(id)?, kind))).collect()
    }

    fn longest_branch(&self, i: &HloInstructionProto) -> Option<usize> {
        let branches = self.calls(i).into_iter().map(|(c, _)| c);
        let length = |&c: &usize| self.module.computations.get(c).map_or(0, |c| c.instructions.len());
        branches.rev().max_by_key(length)
    }
}
