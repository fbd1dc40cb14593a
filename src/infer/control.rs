//! Operations with subgraphs, and the ones with several results.

use super::{Context, ShapeError};
use crate::ir::{Call, DType, Derivative, Graph, Scan, TensorType};
use std::sync::Arc;

type Inferred = Result<Vec<TensorType>, ShapeError>;

pub(super) fn sort(cx: &Context, dim: usize, comparator: &Graph) -> Inferred {
    let Some(first) = cx.operands.first() else {
        return Err(cx.error("takes at least one operand, got none"));
    };
    cx.distinct_axes("sorted axis", &[dim], first.rank())?;
    cx.ensure(cx.operands.iter().all(|ty| ty.shape == first.shape), || "operands differ in shape".into())?;
    let elements: Vec<TensorType> = cx
        .operands
        .iter()
        .flat_map(|ty| [TensorType::scalar(ty.dtype), TensorType::scalar(ty.dtype)])
        .collect();
    takes(cx, "comparator", comparator, &elements)?;
    gives(cx, "comparator", comparator, &[TensorType::scalar(DType::Pred)])?;
    Ok(cx.operands.to_vec())
}

pub(super) fn rng_bit_generator(cx: &Context, ty: &TensorType) -> Inferred {
    cx.arity(1)?;
    let state = TensorType::new(DType::U64, [2]);
    cx.ensure(cx.operands[0] == state, || format!("state must be {state}, got {}", cx.operands[0]))?;
    cx.ensure(matches!(ty.dtype, DType::U8 | DType::U32 | DType::U64), || {
        format!("bits must be u8, u32 or u64, got {}", ty.dtype)
    })?;
    Ok(vec![state, ty.clone()])
}

pub(super) fn while_loop(cx: &Context, cond: &Graph, body: &Graph) -> Inferred {
    takes(cx, "condition", cond, cx.operands)?;
    gives(cx, "condition", cond, &[TensorType::scalar(DType::Pred)])?;
    takes(cx, "body", body, cx.operands)?;
    gives(cx, "body", body, cx.operands)?;
    Ok(cx.operands.to_vec())
}

pub(super) fn scan(cx: &Context, scan: &Scan) -> Inferred {
    let fixed = scan.num_consts + scan.num_carry;
    cx.ensure(cx.operands.len() >= fixed, || {
        format!("takes {fixed} consts and carries, got {} operands", cx.operands.len())
    })?;
    cx.ensure(scan.length <= i32::MAX as usize, || format!("length {} is above 2^31-1", scan.length))?;
    let mut inputs = cx.operands[..fixed].to_vec();
    for x in &cx.operands[fixed..] {
        if x.shape.first() != Some(&scan.length) {
            return Err(cx.axis_error(0, format!("stacked operand {x} must have length {}", scan.length)));
        }
        inputs.push(TensorType::new(x.dtype, &x.shape[1..]));
    }
    takes(cx, "body", &scan.body, &inputs)?;
    let outputs = scan.body.output_types();
    cx.ensure(outputs.len() >= scan.num_carry, || {
        format!("body must return {} carries, returns {}", scan.num_carry, outputs.len())
    })?;
    let (carry, ys) = outputs.split_at(scan.num_carry);
    same_list(cx, "carry", carry, &cx.operands[scan.num_consts..fixed])?;
    let stacked = ys.iter().map(|y| TensorType::new(y.dtype, [&[scan.length][..], &y.shape].concat()));
    Ok(carry.iter().cloned().chain(stacked).collect())
}

pub(super) fn conditional(cx: &Context, branches: &[Arc<Graph>]) -> Inferred {
    let (Some(first), Some((index, operands))) = (branches.first(), cx.operands.split_first()) else {
        return Err(cx.error("takes an index and at least one branch"));
    };
    let expected = TensorType::scalar(DType::S32);
    cx.ensure(*index == expected, || format!("branch index must be {expected}, got {index}"))?;
    let results = first.output_types();
    for branch in branches {
        takes(cx, "branch", branch, operands)?;
        gives(cx, "branch", branch, &results)?;
    }
    Ok(results)
}

pub(super) fn call(cx: &Context, call: &Call) -> Inferred {
    takes(cx, &call.name, &call.body, cx.operands)?;
    let outputs = call.body.output_types();
    if let Derivative::Custom { vjp, num_primals } = &call.derivative {
        cx.ensure(*num_primals <= outputs.len(), || {
            format!("{num_primals} primal outputs of {} in all", outputs.len())
        })?;
        let floats = |types: &[TensorType]| -> Vec<TensorType> {
            types.iter().filter(|ty| ty.dtype.is_float()).cloned().collect()
        };
        let inputs = [cx.operands, &outputs, &floats(&outputs[..*num_primals])].concat();
        takes(cx, "custom derivative", vjp, &inputs)?;
        gives(cx, "custom derivative", vjp, &floats(cx.operands))?;
    }
    Ok(outputs)
}

fn takes(cx: &Context, what: &str, graph: &Graph, expected: &[TensorType]) -> Result<(), ShapeError> {
    same_list(cx, &format!("{what} input"), &graph.input_types(), expected)
}

fn gives(cx: &Context, what: &str, graph: &Graph, expected: &[TensorType]) -> Result<(), ShapeError> {
    same_list(cx, &format!("{what} output"), &graph.output_types(), expected)
}

fn same_list(
    cx: &Context,
    what: &str,
    found: &[TensorType],
    expected: &[TensorType],
) -> Result<(), ShapeError> {
    cx.ensure(found.len() == expected.len(), || {
        format!("{what}s: expected {}, got {}", expected.len(), found.len())
    })?;
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        cx.ensure(found == expected, || format!("{what} {i} must be {expected}, is {found}"))?;
    }
    Ok(())
}
