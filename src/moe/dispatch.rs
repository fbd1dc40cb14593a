//! Moving tokens into expert slots and back: two forms, one meaning.
//!
//! Legend: G groups, S tokens per group, E experts, C capacity, k choices per token, D width. A slot holds at most one token
//! and a token at most k slots, so both directions and their derivatives are gathers in the `gather` form.

use super::layer::MoeShape;
use super::router::Routing;
use crate::build::{BuildError, Builder, VjpArgs};
use crate::config::Dispatch;
use crate::ir::{Combiner, DType, Direction, ScatterDims, TensorType, Value};

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
}

/// Lays out the slots for the decisions of the router.
pub fn plan(
    b: &mut Builder,
    form: Dispatch,
    shape: &MoeShape,
    routing: &Routing,
    dtype: DType,
) -> Result<Plan, BuildError> {
    match form {
        Dispatch::Einsum => masks(b, shape, routing, dtype),
        Dispatch::Gather => tables(b, shape, routing),
    }
}

fn masks(b: &mut Builder, shape: &MoeShape, routing: &Routing, dtype: DType) -> Result<Plan, BuildError> {
    const AXES: &[&str] = &["groups", "tokens", "experts", "capacity"];
    let [g, s, e, c] = [shape.groups, shape.tokens, shape.experts, shape.capacity];
    let expert = b.one_hot(routing.expert_index, e, DType::F32)?; // [G, S, k, E]
    let slot = b.one_hot(routing.position, c, DType::F32)?; // [G, S, k, C]
    let kept = b.convert(routing.kept, DType::F32)?;
    let kept = b.broadcast_in_dim(kept, &[g, s, shape.choices, e], &[0, 1, 2])?;
    let expert = b.mul(expert, kept)?;
    let gate = b.broadcast_in_dim(routing.gate, &[g, s, shape.choices, e], &[0, 1, 2])?;
    let weighted = b.mul(expert, gate)?;
    let dispatch = outer(b, expert, slot)?;
    let dispatch = b.convert(dispatch, dtype)?;
    let combine = outer(b, weighted, slot)?;
    Ok(Plan::Einsum {
        dispatch: b.name(dispatch, "dispatch_mask", AXES),
        combine: b.name(combine, "combine_weights", AXES),
    })
}

/// `[G, S, k, E]` times `[G, S, k, C]`, summed over the choices: `[G, S, E, C]`.
fn outer(b: &mut Builder, expert: Value, slot: Value) -> Result<Value, BuildError> {
    let (e, c) = (b.shape(expert), b.shape(slot));
    let shape = [e[0], e[1], e[2], e[3], c[3]];
    let expert = b.broadcast_in_dim(expert, &shape, &[0, 1, 2, 3])?;
    let slot = b.broadcast_in_dim(slot, &shape, &[0, 1, 2, 4])?;
    let product = b.mul(expert, slot)?;
    if shape[2] == 1 { b.reshape(product, &[e[0], e[1], e[3], c[3]]) } else { b.sum(product, &[2]) }
}

fn tables(b: &mut Builder, shape: &MoeShape, routing: &Routing) -> Result<Plan, BuildError> {
    let [g, s, c, k] = [shape.groups, shape.tokens, shape.capacity, shape.choices];
    let slots = shape.slots();
    // slot = (expert * G + group) * C + position
    let ty = TensorType::new(DType::S32, [g, s, k]);
    let group = b.iota(ty.clone(), 0)?;
    let row = b.mul_scalar(routing.expert_index, g as f64)?;
    let row = b.add(row, group)?;
    let row = b.mul_scalar(row, c as f64)?;
    let slot = b.add(row, routing.position)?;
    let dropped = b.full(&ty, slots as f64)?;
    let slot = b.select(routing.kept, slot, dropped)?;
    let slot_of_token = b.reshape(slot, &[g * s, k])?;
    let slot_of_token = b.name(slot_of_token, "slot_of_token", &["tokens", "choices"]);
    let token_of_slot = invert(b, slot_of_token, slots)?;
    let token_of_slot = b.name(token_of_slot, "token_of_slot", &["slots"]);
    let gate = b.reshape(routing.gate, &[g * s, k])?;
    Ok(Plan::Gather { token_of_slot, slot_of_token, gate })
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
    };
    b.reshape(rows, &[shape.experts, shape.groups * shape.capacity, d])
}

/// The experts' outputs at their tokens, times the gates: `y [E, G * C, D]` -> `[G, S, D]`; zero for dropped tokens.
pub fn combine(b: &mut Builder, shape: &MoeShape, plan: &Plan, y: Value) -> Result<Value, BuildError> {
    let [g, s, e, c, d] = [shape.groups, shape.tokens, shape.experts, shape.capacity, shape.width];
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
    }
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
