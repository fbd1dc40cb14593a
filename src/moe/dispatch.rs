//! Moving tokens into expert slots and back: two forms, one meaning.
//!
//! Legend: G groups, S tokens per group, E experts, C capacity, k choices per token, D width. A slot holds at most one token.
//! Where tokens choose, a token has at most k slots, so both directions and their derivatives are gathers in the `gather`
//! form. Where experts choose, a token can have a slot of every expert: gathering E rows per token would cost far more than
//! the slots are long, so outputs are added up by a scatter, and so are the derivatives of inputs.

use super::layer::MoeShape;
use super::router::Slots;
use crate::build::{BuildError, Builder, VjpArgs};
use crate::config::Dispatch;
use crate::ir::{Combiner, DType, Direction, Reducer, ScatterDims, TensorType, Value};

/// How tokens and slots of one layer correspond.
pub enum Plan {
    Einsum {
        /// `[G, S, E, C]`, 1 where the token has the slot.
        dispatch: Value,
        /// `f32[G, S, E, C]`: the gate there.
        combine: Value,
    },
    Gather {
        /// `s32[E * G * C]`: the token in the slot, counted over all groups, or `G * S` for an empty slot.
        token_of_slot: Value,
        /// `s32[G * S, k]`: the slot of each choice, or `E * G * C` for a dropped one.
        slot_of_token: Value,
        /// `f32[G * S, k]`: the gate.
        gate: Value,
    },
    /// The `gather` form where experts choose.
    GatherAndAdd {
        /// As above.
        token_of_slot: Value,
        /// `f32[E * G * C]`: the gate, 0 for an empty slot.
        gate_of_slot: Value,
    },
}

/// Lays out the slots for the decisions of the router.
pub fn plan(
    b: &mut Builder,
    form: Dispatch,
    shape: &MoeShape,
    slots: &Slots,
    dtype: DType,
) -> Result<Plan, BuildError> {
    match (form, *slots) {
        (Dispatch::Einsum, Slots::OfTokens { expert, gate, position, kept }) => {
            let marks = marks_of_tokens(b, shape, (expert, position, kept), gate)?;
            masks(b, shape, marks, dtype)
        }
        (Dispatch::Einsum, Slots::OfExperts { token, gate }) => {
            let marks = marks_of_experts(b, shape, token, gate)?;
            masks(b, shape, marks, dtype)
        }
        (Dispatch::Gather, Slots::OfTokens { expert, gate, position, kept }) => {
            tables(b, shape, (expert, position, kept), gate)
        }
        (Dispatch::Gather, Slots::OfExperts { token, gate }) => tables_of_experts(b, shape, token, gate),
    }
}

/// Names the masks; `marks`: where tokens have slots, `pred`, and the gates there, both of as many elements as the masks.
fn masks(
    b: &mut Builder,
    shape: &MoeShape,
    (marks, gates): (Value, Value),
    dtype: DType,
) -> Result<Plan, BuildError> {
    const AXES: &[&str] = &["groups", "tokens", "experts", "capacity"];
    let dims = [shape.groups, shape.tokens, shape.experts, shape.capacity];
    let dispatch = b.reshape(marks, &dims)?;
    let dispatch = b.convert(dispatch, dtype)?;
    let combine = b.reshape(gates, &dims)?;
    Ok(Plan::Einsum {
        dispatch: b.name(dispatch, "dispatch_mask", AXES),
        combine: b.name(combine, "combine_weights", AXES),
    })
}

/// `[G, S, E * C]`, choice by choice: one comparison per element of the mask, no `[G, S, k, E, C]` in between.
fn marks_of_tokens(
    b: &mut Builder,
    shape: &MoeShape,
    (expert, position, kept): (Value, Value, Value),
    gate: Value,
) -> Result<(Value, Value), BuildError> {
    let [g, s, slots] = [shape.groups, shape.tokens, shape.experts * shape.capacity];
    let first = b.mul_scalar(expert, shape.capacity as f64)?;
    let slot = b.add(first, position)?;
    let slot = b.mask(kept, slot, slots as f64)?; // [G, S, k]
    let mut all: Option<(Value, Value)> = None;
    for choice in 0..shape.choices {
        let [slot, gate] = [slot, gate].map(|x| column(b, x, choice));
        let marks = b.one_hot_mask(slot?, slots)?;
        let gates = b.broadcast_in_dim(gate?, &[g, s, slots], &[0, 1])?;
        let gates = b.mask(marks, gates, 0.0)?;
        all = Some(match all {
            Some((m, w)) => (b.or(m, marks)?, b.add(w, gates)?),
            None => (marks, gates),
        });
    }
    all.ok_or_else(|| BuildError::Invalid("internal: a token has at least one choice".into()))
}

/// One choice of `x [G, S, k]`: `[G, S]`.
fn column(b: &mut Builder, x: Value, choice: usize) -> Result<Value, BuildError> {
    let shape = b.shape(x);
    let column = b.slice_axis(x, 2, choice, choice + 1)?;
    b.reshape(column, &shape[..2])
}

/// `[G, S, E, C]` from the token of each slot.
fn marks_of_experts(
    b: &mut Builder,
    shape: &MoeShape,
    token: Value,
    gate: Value,
) -> Result<(Value, Value), BuildError> {
    let dims = [shape.groups, shape.tokens, shape.experts, shape.capacity];
    let wide = b.broadcast_in_dim(token, &dims, &[0, 2, 3])?;
    let own = b.iota(TensorType::new(DType::S32, dims), 1)?;
    let marks = b.compare(Direction::Eq, wide, own)?;
    let gates = b.broadcast_in_dim(gate, &dims, &[0, 2, 3])?;
    Ok((marks, b.mask(marks, gates, 0.0)?))
}

fn tables(
    b: &mut Builder,
    shape: &MoeShape,
    (expert, position, kept): (Value, Value, Value),
    gate: Value,
) -> Result<Plan, BuildError> {
    let [g, s, c, k] = [shape.groups, shape.tokens, shape.capacity, shape.choices];
    let slots = shape.slots();
    // slot = (expert * G + group) * C + position
    let ty = TensorType::new(DType::S32, [g, s, k]);
    let group = b.iota(ty.clone(), 0)?;
    let row = b.mul_scalar(expert, g as f64)?;
    let row = b.add(row, group)?;
    let row = b.mul_scalar(row, c as f64)?;
    let slot = b.add(row, position)?;
    let dropped = b.full(&ty, slots as f64)?;
    let slot = b.select(kept, slot, dropped)?;
    let slot_of_token = b.reshape(slot, &[g * s, k])?;
    let slot_of_token = b.name(slot_of_token, "slot_of_token", &["tokens", "choices"]);
    let token_of_slot = invert(b, slot_of_token, slots)?;
    let token_of_slot = b.name(token_of_slot, "token_of_slot", &["slots"]);
    let gate = b.reshape(gate, &[g * s, k])?;
    Ok(Plan::Gather { token_of_slot, slot_of_token, gate })
}

/// The tables of `token s32[G, E, C]` and `gate [G, E, C]`.
fn tables_of_experts(
    b: &mut Builder,
    shape: &MoeShape,
    token: Value,
    gate: Value,
) -> Result<Plan, BuildError> {
    let [g, s] = [shape.groups, shape.tokens];
    let token = b.transpose(token, &[1, 0, 2])?; // [E, G, C]
    let group = b.iota(b.ty(token).clone(), 1)?;
    let first = b.mul_scalar(group, s as f64)?;
    let row = b.add(first, token)?;
    let is_token = b.compare_scalar(Direction::Lt, token, s as f64)?;
    let row = b.mask(is_token, row, (g * s) as f64)?;
    let token_of_slot = b.reshape(row, &[shape.slots()])?;
    let gate = b.transpose(gate, &[1, 0, 2])?;
    let gate_of_slot = b.reshape(gate, &[shape.slots()])?;
    Ok(Plan::GatherAndAdd {
        token_of_slot: b.name(token_of_slot, "token_of_slot", &["slots"]),
        gate_of_slot: b.name(gate_of_slot, "gate_of_slot", &["slots"]),
    })
}

/// The token of each slot: `s32[tokens, k]` -> `s32[slots]`; empty slots hold the number of tokens.
fn invert(b: &mut Builder, slot_of_token: Value, slots: usize) -> Result<Value, BuildError> {
    let shape = b.shape(slot_of_token);
    let [tokens, choices] = [shape[0], shape[1]];
    let empty = b.full(&TensorType::new(DType::S32, [slots]), tokens as f64)?;
    let token = b.iota(TensorType::new(DType::S32, [tokens, choices]), 0)?;
    let dims = ScatterDims {
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 2,
        ..Default::default()
    };
    // Dropped choices point past the end, where updates are skipped.
    b.scatter((empty, slot_of_token, token), dims, Combiner::Assign, false)
}

/// The tokens in their slots: `x [G, S, D]` -> `[E, G * C, D]`; empty slots are zero.
pub fn dispatch(b: &mut Builder, shape: &MoeShape, plan: &Plan, x: Value) -> Result<Value, BuildError> {
    let d = shape.width;
    let rows = match *plan {
        Plan::Einsum { dispatch, .. } => {
            let inputs = b.einsum("gsd,gsec->egcd", x, dispatch)?;
            let inputs = b.name(inputs, "expert_inputs", &["experts", "groups", "capacity", "d_model"]);
            return b.reshape(inputs, &[shape.experts, shape.groups * shape.capacity, d]);
        }
        Plan::Gather { token_of_slot, slot_of_token, .. } => {
            let flat = b.reshape(x, &[shape.groups * shape.tokens, d])?;
            move_in(b, flat, token_of_slot, slot_of_token)?
        }
        Plan::GatherAndAdd { token_of_slot, .. } => {
            let flat = b.reshape(x, &[shape.groups * shape.tokens, d])?;
            spread(b, flat, token_of_slot)?
        }
    };
    b.reshape(rows, &[shape.experts, shape.groups * shape.capacity, d])
}

/// The experts' outputs at their tokens, times the gates: `y [E, G * C, D]` -> `[G, S, D]`; zero for dropped tokens. Their width
/// need not be that of the tokens.
pub fn combine(b: &mut Builder, shape: &MoeShape, plan: &Plan, y: Value) -> Result<Value, BuildError> {
    let [g, s, e, c] = [shape.groups, shape.tokens, shape.experts, shape.capacity];
    let d = b.shape(y)[2];
    match *plan {
        Plan::Einsum { combine, .. } => {
            let dtype = b.dtype(y);
            let combine = b.convert(combine, dtype)?;
            let y = b.reshape(y, &[e, g, c, d])?;
            b.einsum("egcd,gsec->gsd", y, combine)
        }
        Plan::Gather { token_of_slot, slot_of_token, gate } => {
            let flat = b.reshape(y, &[shape.slots(), d])?;
            let dtype = b.dtype(y);
            let gate = b.convert(gate, dtype)?;
            let out = move_out(b, flat, gate, token_of_slot, slot_of_token)?;
            b.reshape(out, &[g, s, d])
        }
        Plan::GatherAndAdd { token_of_slot, gate_of_slot } => {
            let flat = b.reshape(y, &[shape.slots(), d])?;
            let gate = b.broadcast_in_dim(gate_of_slot, &[shape.slots(), d], &[0])?;
            let dtype = b.dtype(gate);
            let wide = b.convert(flat, dtype)?;
            let weighted = b.mul(wide, gate)?;
            let out = add_rows(b, weighted, token_of_slot, g * s)?;
            let out = b.convert(out, b.dtype(y))?;
            b.reshape(out, &[g, s, d])
        }
    }
}

/// `out[slot] = x[token_of_slot[slot]]`, where a token can have a slot of every expert.
fn spread(b: &mut Builder, x: Value, token_of_slot: Value) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "dispatch",
        &[x, token_of_slot],
        |b, v| {
            let rows = rows_or_zero(b, v[0], v[1])?;
            Ok((vec![b.name(rows, "expert_inputs", &["slots", "d_model"])], vec![]))
        },
        |b, args| {
            let (x, g) = (args.inputs[0], args.cotangents[0]);
            let (tokens, dtype) = (b.shape(x)[0], b.dtype(x));
            let wide = if dtype == DType::Bf16 { b.convert(g, DType::F32)? } else { g };
            let sum = add_rows(b, wide, args.inputs[1], tokens)?;
            Ok(vec![b.convert(sum, dtype)?])
        },
    )?;
    Ok(results[0])
}

/// Adds up rows by index: `[n, D]`, `s32[n]` -> `[count, D]`; rows whose index is past the end are skipped. Up to E rows meet, so
/// they had better not be bfloat16.
fn add_rows(b: &mut Builder, rows: Value, index: Value, count: usize) -> Result<Value, BuildError> {
    let ty = b.ty(rows).clone();
    let zeros = b.zeros(&TensorType::new(ty.dtype, [count, ty.shape[1]]))?;
    let dims = ScatterDims {
        update_window_dims: vec![1],
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        ..Default::default()
    };
    b.scatter((zeros, index, rows), dims, Combiner::Reduce(Reducer::Add), false)
}

/// Rows of `x` by index, zero where the index is past the end: `[n, D]`, `s32[i..]` -> `[i.., D]`.
fn rows_or_zero(b: &mut Builder, x: Value, index: Value) -> Result<Value, BuildError> {
    let rows = b.take_rows(x, index)?;
    let count = b.shape(x)[0];
    let valid = b.compare_scalar(Direction::Lt, index, count as f64)?;
    let shape = b.shape(rows);
    let dims: Vec<usize> = (0..shape.len() - 1).collect();
    let valid = b.broadcast_in_dim(valid, &shape, &dims)?;
    b.mask(valid, rows, 0.0)
}

/// `out[slot] = x[token_of_slot[slot]]`; the derivative gathers from the slots of each token.
fn move_in(
    b: &mut Builder,
    x: Value,
    token_of_slot: Value,
    slot_of_token: Value,
) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "dispatch",
        &[x, token_of_slot, slot_of_token],
        |b, v| {
            let rows = rows_or_zero(b, v[0], v[1])?;
            Ok((vec![b.name(rows, "expert_inputs", &["slots", "d_model"])], vec![]))
        },
        |b, args| {
            let back = rows_or_zero(b, args.cotangents[0], args.inputs[2])?; // [tokens, k, D]
            Ok(vec![sum_choices(b, back)?])
        },
    )?;
    Ok(results[0])
}

/// `out[token] = sum over k of gate[token, k] * y[slot_of_token[token, k]]`; the derivative gathers by token and by slot.
fn move_out(
    b: &mut Builder,
    y: Value,
    gate: Value,
    token_of_slot: Value,
    slot_of_token: Value,
) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "combine",
        &[y, gate, token_of_slot, slot_of_token],
        |b, v| {
            let rows = rows_or_zero(b, v[0], v[3])?; // [tokens, k, D]
            let shape = b.shape(rows);
            let gate = b.broadcast_in_dim(v[1], &shape, &[0, 1])?;
            let weighted = b.mul(rows, gate)?;
            Ok((vec![sum_choices(b, weighted)?], vec![]))
        },
        move_out_vjp,
    )?;
    Ok(results[0])
}

fn move_out_vjp(b: &mut Builder, args: VjpArgs) -> Result<Vec<Value>, BuildError> {
    let [y, gate, token_of_slot, slot_of_token] = args.inputs else {
        return Err(BuildError::Invalid("internal: combine has four inputs".into()));
    };
    let g = args.cotangents[0]; // [tokens, D]
    let rows = rows_or_zero(b, *y, *slot_of_token)?; // [tokens, k, D]
    let shape = b.shape(rows);
    let wide = b.broadcast_in_dim(g, &shape, &[0, 2])?;
    let product = b.mul(rows, wide)?;
    let d_gate = b.sum(product, &[2])?;

    let gate_of_slot = gate_of_slot(b, *gate, *token_of_slot, *slot_of_token)?; // [slots]
    let arrived = rows_or_zero(b, g, *token_of_slot)?; // [slots, D]
    let shape = b.shape(arrived);
    let gate_of_slot = b.broadcast_in_dim(gate_of_slot, &shape, &[0])?;
    let d_y = b.mul(arrived, gate_of_slot)?;
    Ok(vec![d_y, d_gate])
}

/// The gate with which each slot's token chose it: `[slots]`.
fn gate_of_slot(
    b: &mut Builder,
    gate: Value,
    token_of_slot: Value,
    slot_of_token: Value,
) -> Result<Value, BuildError> {
    let gates = rows_or_zero(b, gate, token_of_slot)?; // [slots, k]
    let choices = b.shape(gates)[1];
    if choices == 1 {
        let slots = b.shape(gates)[0];
        return b.reshape(gates, &[slots]);
    }
    // Of the token's k choices the one that points back here.
    let chosen = b.take_rows(slot_of_token, token_of_slot)?;
    let own = b.iota(b.ty(chosen).clone(), 0)?;
    let matches = b.compare(Direction::Eq, chosen, own)?;
    let gates = b.mask(matches, gates, 0.0)?;
    b.sum(gates, &[1])
}

fn sum_choices(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let shape = b.shape(x);
    if shape[1] == 1 { b.reshape(x, &[shape[0], shape[2]]) } else { b.sum(x, &[1]) }
}
