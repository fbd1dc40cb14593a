//! `einsum` of two operands as one `dot_general` and a transpose.

use super::{BuildError, Builder};
use crate::ir::{DType, DotDims, Op, Precision, Value};

impl Builder {
    /// A product such as `"gsd,gsec->gecd"`: letters in both operands and the result are batch dimensions, letters in both
    /// operands only are summed. The result has the element type of the operands.
    #[track_caller]
    pub fn einsum(&mut self, spec: &str, lhs: Value, rhs: Value) -> Result<Value, BuildError> {
        let result = self.dtype(lhs);
        self.einsum_into(spec, lhs, rhs, result, Precision::Default)
    }

    /// As [`Builder::einsum`], accumulated into and returned as `result`.
    #[track_caller]
    pub fn einsum_into(
        &mut self,
        spec: &str,
        lhs: Value,
        rhs: Value,
        result: DType,
        precision: Precision,
    ) -> Result<Value, BuildError> {
        let plan = plan(spec, self.ty(lhs).rank(), self.ty(rhs).rank()).map_err(|problem| {
            let (lhs, rhs) = (self.ty(lhs).clone(), self.ty(rhs).clone());
            BuildError::Einsum { spec: spec.into(), problem, lhs, rhs }
        })?;
        let dot = self.one(Op::DotGeneral { dims: plan.dims, precision, result }, &[lhs, rhs])?;
        self.transpose(dot, &plan.permutation)
    }
}

struct Plan {
    dims: DotDims,
    permutation: Vec<usize>,
}

fn plan(spec: &str, lhs_rank: usize, rhs_rank: usize) -> Result<Plan, String> {
    let (inputs, out) = spec.split_once("->").ok_or("needs `->`")?;
    let (lhs, rhs) = inputs.split_once(',').ok_or("needs two operands")?;
    let (lhs, rhs, out): (Vec<char>, Vec<char>, Vec<char>) =
        (lhs.chars().collect(), rhs.chars().collect(), out.chars().collect());
    for (letters, rank) in [(&lhs, lhs_rank), (&rhs, rhs_rank)] {
        if letters.len() != rank {
            return Err(format!("names {} axes of an operand of rank {rank}", letters.len()));
        }
    }
    let mut dims = DotDims::default();
    let mut order = vec![];
    for (i, c) in lhs.iter().enumerate() {
        let Some(j) = rhs.iter().position(|r| r == c) else { continue };
        if out.contains(c) {
            dims.lhs_batch.push(i);
            dims.rhs_batch.push(j);
            order.push(*c);
        } else {
            dims.lhs_contracting.push(i);
            dims.rhs_contracting.push(j);
        }
    }
    order.extend(lhs.iter().filter(|c| !rhs.contains(c)));
    order.extend(rhs.iter().filter(|c| !lhs.contains(c)));
    let position = |c: &char| {
        order.iter().position(|o| o == c).ok_or_else(|| format!("result axis `{c}` is in no operand"))
    };
    let permutation: Vec<usize> = out.iter().map(position).collect::<Result<_, _>>()?;
    if permutation.len() != order.len() {
        return Err("an axis of one operand is neither in the other nor in the result".into());
    }
    Ok(Plan { dims, permutation })
}
