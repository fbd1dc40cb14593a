//! Operations with subgraphs, each a computation of its own.

use super::Alias;
use super::function::{Function, Inst, Module};
use super::node::{self, Target};
use crate::hlo::{ShapeProto, SliceDimensions, shape_of, tuple_shape};
use crate::ir::{DType, Graph, Node, Op, Scan, TensorType, Value};
use std::sync::Arc;

/// The entry computation: parameters one by one, a tuple as result.
pub(super) fn entry(
    module: &mut Module,
    graph: &Graph,
    names: &[String],
    aliases: &[Alias],
) -> (i64, ShapeProto) {
    let mut f = Function::default();
    let mut inputs = vec![];
    for (i, ty) in graph.input_types().iter().enumerate() {
        f.scope = names.get(i).map_or("", String::as_str).into();
        inputs.push(f.parameter(module, shape_of(ty)));
    }
    let outputs = body(&mut Target { module, f: &mut f }, graph, inputs, aliases);
    let root = f.tuple(module, &outputs);
    let shape = f.shape(&root);
    (f.finish(module, "main", &root), shape)
}

/// Emits all nodes of `graph` on these inputs; returns its outputs. Those that `aliases` names take over buffers of inputs.
fn body(t: &mut Target, graph: &Graph, inputs: Vec<Inst>, aliases: &[Alias]) -> Vec<Inst> {
    let mut values = Values::new(graph, inputs);
    graph.nodes().iter().for_each(|node| values.lower(t, node, aliases));
    t.f.scope = "".into();
    values.get(graph.outputs())
}

/// The values of a graph that is being lowered.
struct Values<'g> {
    graph: &'g Graph,
    found: Vec<Option<Inst>>,
}

impl<'g> Values<'g> {
    fn new(graph: &'g Graph, inputs: Vec<Inst>) -> Self {
        let mut found = vec![None; graph.num_values()];
        graph.inputs().iter().zip(inputs).for_each(|(input, inst)| found[input.index()] = Some(inst));
        Self { graph, found }
    }

    fn get(&self, values: &[Value]) -> Vec<Inst> {
        values.iter().filter_map(|v| self.found[v.index()]).collect()
    }

    /// Emits the nodes that these values need, in order, but for those that are there.
    fn lower_for(&mut self, t: &mut Target, values: &[Value]) {
        let mut needed = vec![false; self.found.len()];
        values.iter().for_each(|v| needed[v.index()] = true);
        let mut nodes: Vec<&Node> = vec![];
        for node in self.graph.nodes().iter().rev() {
            if node.results.iter().any(|v| needed[v.index()] && self.found[v.index()].is_none()) {
                node.operands.iter().for_each(|v| needed[v.index()] = true);
                nodes.push(node);
            }
        }
        nodes.into_iter().rev().for_each(|node| self.lower(t, node, &[]));
        t.f.scope = "".into();
    }

    /// Emits a node whose operands are there.
    fn lower(&mut self, t: &mut Target, node: &Node, aliases: &[Alias]) {
        if matches!(node.op, Op::Parameter { .. }) {
            return;
        }
        let operands = self.get(&node.operands);
        let operands: Vec<&Inst> = operands.iter().collect();
        t.f.scope = node.scope.clone();
        let types = self.graph.types(&node.results);
        let results = match &node.op {
            Op::Scan(scan) => self::scan(t, scan, &operands, &types, &in_place(self.graph, node, aliases)),
            _ => node::lower(t, node, &operands, &types),
        };
        for (value, inst) in node.results.iter().zip(results) {
            self.found[value.index()] = Some(inst);
        }
    }
}

/// A call without a computation of its own.
pub(super) fn inline(t: &mut Target, graph: &Graph, x: &[&Inst]) -> Vec<Inst> {
    let scope = t.f.scope.clone();
    let outputs = body(t, graph, owned(x), &[]);
    t.f.scope = scope;
    outputs
}

/// A computation from one tuple to one tuple (or to its only value where `bare`).
fn on_tuple(module: &mut Module, name: &str, graph: &Graph, bare: bool) -> i64 {
    let mut f = Function::default();
    let shape = tuple_shape(graph.input_types().iter().map(shape_of).collect());
    let state = f.parameter(module, shape);
    let inputs = f.untuple(module, &state);
    let outputs = body(&mut Target { module, f: &mut f }, graph, inputs, &[]);
    let root = if bare { outputs[0] } else { f.tuple(module, &outputs) };
    f.finish(module, name, &root)
}

pub(super) fn owned(x: &[&Inst]) -> Vec<Inst> {
    x.iter().map(|&&i| i).collect()
}

pub(super) fn while_loop(t: &mut Target, cond: &Graph, body: &Graph, x: &[&Inst]) -> Vec<Inst> {
    let cond = on_tuple(t.module, "condition", cond, true);
    let body = on_tuple(t.module, "body", body, false);
    emit_while(t, cond, body, &owned(x))
}

fn emit_while(t: &mut Target, cond: i64, body: i64, state: &[Inst]) -> Vec<Inst> {
    let state = t.f.tuple(t.module, state);
    let shape = t.f.shape(&state);
    let last = t.emit("while", shape, &[&state], |p| p.called_computation_ids = vec![body, cond]);
    t.f.untuple(t.module, &last)
}

pub(super) fn conditional(
    t: &mut Target,
    branches: &[Arc<Graph>],
    x: &[&Inst],
    shapes: Vec<ShapeProto>,
) -> Vec<Inst> {
    let called: Vec<i64> = branches.iter().map(|g| on_tuple(t.module, "branch", g, false)).collect();
    let operands = t.f.tuple(t.module, &owned(&x[1..]));
    let mut all = vec![x[0]];
    all.extend(branches.iter().map(|_| &operands));
    let result = t.emit("conditional", tuple_shape(shapes), &all, |p| p.called_computation_ids = called);
    t.f.untuple(t.module, &result)
}

pub(super) fn sort(
    t: &mut Target,
    (dim, comparator, stable): (usize, &Graph, bool),
    x: &[&Inst],
    shapes: Vec<ShapeProto>,
) -> Vec<Inst> {
    let compare = on_scalars(t.module, comparator);
    let single = shapes.len() == 1;
    let shape = if single { shapes[0].clone() } else { tuple_shape(shapes) };
    let sorted = t.emit("sort", shape, x, |p| {
        p.dimensions = vec![dim as i64];
        p.is_stable = stable;
        p.called_computation_ids = vec![compare];
    });
    if single { vec![sorted] } else { t.f.untuple(t.module, &sorted) }
}

/// A computation with one parameter per input and one value as result.
fn on_scalars(module: &mut Module, graph: &Graph) -> i64 {
    let mut f = Function::default();
    let inputs: Vec<Inst> = graph.input_types().iter().map(|ty| f.parameter(module, shape_of(ty))).collect();
    let outputs = body(&mut Target { module, f: &mut f }, graph, inputs, &[]);
    f.finish(module, "comparator", &outputs[0])
}

/// A stack that a scan reads and one that it makes, by their positions among xs and ys: one buffer holds both.
type InPlace = (usize, usize);

/// The stacks of a scan that it may update in place: the result takes over the buffer of an input of the graph, and no later
/// node reads that.
fn in_place(graph: &Graph, node: &Node, aliases: &[Alias]) -> Vec<InPlace> {
    let (Op::Scan(scan), Some(&first)) = (&node.op, node.results.first()) else { return vec![] };
    let xs = &node.operands[scan.num_consts + scan.num_carry..];
    let ys = &node.results[scan.num_carry..];
    let after = &graph.nodes()[graph.node_index(first) + 1..];
    let pair = |&(output, input): &Alias| {
        let (new, old) = (graph.outputs()[output], graph.inputs()[input]);
        let (x, y) = (xs.iter().position(|&x| x == old)?, ys.iter().position(|&y| y == new)?);
        let is_free = !after.iter().any(|node| node.operands.contains(&old));
        (is_free && node.operands.iter().filter(|&&v| v == old).count() == 1).then_some((x, y))
    };
    aliases.iter().filter_map(pair).collect()
}

/// A `while` whose state is: the index, consts, carries, xs, and the ys so far, without those that take the place of an x.
///
/// XLA aliases the tuple in place, so that an iteration touches one element of each x and y.
fn scan(t: &mut Target, scan: &Scan, x: &[&Inst], types: &[TensorType], in_place: &[InPlace]) -> Vec<Inst> {
    if scan.length == 0 {
        return no_steps(t, scan, x, types);
    }
    let first_x = 1 + scan.num_consts + scan.num_carry;
    let mut state = vec![t.f.scalar(t.module, DType::S32, 0.0)];
    state.extend(owned(x));
    // Where each y is in the state.
    let mut places = vec![];
    for (y, ty) in types[scan.num_carry..].iter().enumerate() {
        let shared = in_place.iter().find(|pair| pair.1 == y);
        places.push(shared.map_or(state.len(), |(x, _)| first_x + x));
        if shared.is_none() {
            let empty = t.f.zeros(t.module, ty);
            state.push(empty);
        }
    }
    let shape = tuple_shape(state.iter().map(|s| t.f.shape(s)).collect());
    let cond = below(t.module, shape.clone(), scan.length);
    let step = iteration(t.module, scan, shape, (&types[scan.num_carry..], &places));
    let last = emit_while(t, cond, step, &state);
    let carry = last[first_x - scan.num_carry..first_x].iter();
    carry.chain(places.iter().map(|&place| &last[place])).copied().collect()
}

/// The initial carry and empty ys: a body would take a row out of nothing, which XLA refuses.
fn no_steps(t: &mut Target, scan: &Scan, x: &[&Inst], types: &[TensorType]) -> Vec<Inst> {
    let mut results = owned(&x[scan.num_consts..][..scan.num_carry]);
    for ty in &types[scan.num_carry..] {
        results.push(t.f.zeros(t.module, ty));
    }
    results
}

/// `index < length`.
fn below(module: &mut Module, shape: ShapeProto, length: usize) -> i64 {
    let mut f = Function::default();
    let state = f.parameter(module, shape);
    let index_shape = shape_of(&TensorType::scalar(DType::S32));
    let index = f.emit(module, "get-tuple-element", index_shape, &[&state], |p| p.tuple_index = 0);
    let limit = f.scalar(module, DType::S32, length as f64);
    let pred = shape_of(&TensorType::scalar(DType::Pred));
    let less = f.emit(module, "compare", pred, &[&index, &limit], |p| p.comparison_direction = "LT".into());
    f.finish(module, "condition", &less)
}

/// One iteration on the state; `places` are those of the ys in it.
fn iteration(
    module: &mut Module,
    scan: &Scan,
    shape: ShapeProto,
    (ys, places): (&[TensorType], &[usize]),
) -> i64 {
    let mut f = Function::default();
    let tuple = f.parameter(module, shape);
    let state = f.untuple(module, &tuple);
    let index_ty = TensorType::scalar(DType::S32);
    let position = match scan.reverse {
        false => state[0],
        true => {
            let last = f.scalar(module, DType::S32, scan.length as f64 - 1.0);
            f.emit(module, "subtract", shape_of(&index_ty), &[&last, &state[0]], |_| ())
        }
    };
    let zero = f.scalar(module, DType::S32, 0.0);
    let fixed = scan.num_consts + scan.num_carry;
    let mut inputs = state[1..1 + fixed].to_vec();
    let xs = 1 + fixed..1 + scan.body.inputs().len();
    for (place, ty) in xs.clone().zip(&scan.body.input_types()[fixed..]) {
        inputs.push(element(module, &mut f, &state[place], ty, (&position, &zero)));
    }
    let mut values = Values::new(&scan.body, inputs);
    let updated: Vec<usize> = places.iter().copied().filter(|place| xs.contains(place)).collect();
    let late = match updated.is_empty() {
        true => position,
        false => read_again(module, &mut f, scan, &mut values, (&state, &updated), (&position, &zero)),
    };
    values.lower_for(&mut Target { module, f: &mut f }, scan.body.outputs());
    let outputs = values.get(scan.body.outputs());
    let (carry, y) = outputs.split_at(scan.num_carry);

    let one = f.scalar(module, DType::S32, 1.0);
    let mut next = state.clone();
    next[0] = f.emit(module, "add", shape_of(&index_ty), &[&state[0], &one], |_| ());
    next[1 + scan.num_consts..1 + fixed].copy_from_slice(carry);
    for ((&place, value), ty) in places.iter().zip(y).zip(ys) {
        let position = if updated.contains(&place) { &late } else { &position };
        next[place] = store(module, &mut f, &state[place], value, ty, (position, &zero));
    }
    let root = f.tuple(module, &next);
    f.finish(module, "scan", &root)
}

/// Emits what the carries need, and reads the rows that are updated once more for the rest, at a position behind all that: the one
/// at which they are updated, so that XLA makes reading, updating and writing one loop.
fn read_again(
    module: &mut Module,
    f: &mut Function,
    scan: &Scan,
    values: &mut Values,
    (state, updated): (&[Inst], &[usize]),
    (position, zero): (&Inst, &Inst),
) -> Inst {
    let carry = &scan.body.outputs()[..scan.num_carry];
    values.lower_for(&mut Target { module, f }, carry);
    f.scope = "".into();
    let carried: Vec<(Inst, TensorType)> =
        values.get(carry).into_iter().zip(scan.body.types(carry)).collect();
    let late = once(module, f, position, &carried);
    for &place in updated {
        let input = scan.body.inputs()[place - 1];
        let row = element(module, f, &state[place], scan.body.ty(input), (&late, zero));
        values.found[input.index()] = Some(row);
    }
    late
}

/// `stack[position]`.
fn element(
    module: &mut Module,
    f: &mut Function,
    stack: &Inst,
    ty: &TensorType,
    (position, zero): (&Inst, &Inst),
) -> Inst {
    let row = TensorType::new(ty.dtype, [&[1][..], &ty.shape].concat());
    let mut operands = vec![stack, position];
    operands.extend(ty.shape.iter().map(|_| zero));
    let sizes = node::longs(&row.shape);
    let slice = f.emit(module, "dynamic-slice", shape_of(&row), &operands, |p| p.dynamic_slice_sizes = sizes);
    f.reshape(module, &slice, ty)
}

/// `position`, once `results` are there: a sum with zeros that are made of their bits.
///
/// XLA copies a stack that is read and overwritten in one iteration unless every reader comes before the update by its
/// operands; a barrier does not last until then.
fn once(module: &mut Module, f: &mut Function, position: &Inst, results: &[(Inst, TensorType)]) -> Inst {
    let word = shape_of(&TensorType::scalar(DType::U32));
    let mut position = *position;
    let index = shape_of(&TensorType::scalar(DType::S32));
    let bits = f.scalar(module, DType::U32, 31.0);
    for (result, ty) in results.iter().filter(|(_, ty)| ty.dtype.is_float() && ty.elements() > 0) {
        let element = TensorType::new(ty.dtype, vec![1; ty.rank()]);
        let bounds = |limit| SliceDimensions { start: 0, limit, stride: 1 };
        let first = f.emit(module, "slice", shape_of(&element), &[result], |p| {
            p.slice_dimensions = vec![bounds(1); ty.rank()];
        });
        let first = f.reshape(module, &first, &TensorType::scalar(ty.dtype));
        let single = shape_of(&TensorType::scalar(DType::F32));
        let first = f.emit(module, "convert", single, &[&first], |_| ());
        let mut zero = f.emit(module, "bitcast-convert", word.clone(), &[&first], |_| ());
        for _ in 0..2 {
            zero = f.emit(module, "shift-right-logical", word.clone(), &[&zero, &bits], |_| ());
        }
        let zero = f.emit(module, "convert", index.clone(), &[&zero], |_| ());
        position = f.emit(module, "add", index.clone(), &[&position, &zero], |_| ());
    }
    position
}

/// `buffer` of type `stacked` with `value` at `position`.
fn store(
    module: &mut Module,
    f: &mut Function,
    buffer: &Inst,
    value: &Inst,
    stacked: &TensorType,
    (position, zero): (&Inst, &Inst),
) -> Inst {
    let row = TensorType::new(stacked.dtype, [&[1][..], &stacked.shape[1..]].concat());
    let row = f.reshape(module, value, &row);
    let mut operands = vec![buffer, &row, position];
    operands.extend(stacked.shape[1..].iter().map(|_| zero));
    f.emit(module, "dynamic-update-slice", shape_of(stacked), &operands, |_| ())
}
