//! Operations with bodies: scans, conditionals, calls, barriers, and the composites with a derivative of their own.

use super::case::{Built, Case, floats, ints};
use std::sync::Arc;
use switchyard::build::{BuildError, Builder, ScanInputs, UnrolledInputs};
use switchyard::ir::*;

const POLICIES: [RematPolicy; 3] = [RematPolicy::SaveAll, RematPolicy::SaveDots, RematPolicy::SaveNothing];

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for remat in POLICIES {
        for reverse in [false, true] {
            cases.push(scan(remat, reverse));
        }
        cases.push(unrolled(remat));
        cases.push(scan_in_scan(remat));
        cases.push(called(remat));
    }
    cases.extend((-1..4).map(conditional));
    cases.push(Case::new(
        "optimization_barrier",
        [floats(&[3], -1.0, 1.0), floats(&[2], -1.0, 1.0)],
        |b, v| {
            let (x, y) = (b.sin(v[0])?, b.exp(v[1])?);
            b.optimization_barrier(&[x, y])
        },
    ));
    cases.push(custom());
    cases
}

/// Consts: a matrix and an order; carry: a state and a counter; xs: floats and integers.
fn step(b: &mut Builder, v: &[Value]) -> Built {
    let &[w, order, state, counter, x, n] = v else { unreachable!("six inputs") };
    let product = b.einsum("bi,ij->bj", state, w)?;
    let shifted = b.add(product, x)?;
    let mixed = b.tanh(shifted)?;
    let scale = b.convert(n, DType::F64)?;
    let scale = b.broadcast_in_dim(scale, &[3, 2], &[1])?;
    let time = b.convert(counter, DType::F64)?;
    let time = b.splat(time, mixed)?;
    let scaled = b.mul(mixed, scale)?;
    let scaled = b.mul(scaled, time)?;
    let scaled = b.mul_scalar(scaled, 0.1)?;
    let next = b.add(scaled, mixed)?;
    let counter = b.add_scalar(counter, 1.0)?;
    let turned = b.transpose(mixed, &[1, 0])?;
    let turned = b.take_rows(turned, order)?;
    Ok(vec![next, counter, b.exp(turned)?, n])
}

fn step_inputs() -> Vec<Literal> {
    vec![
        floats(&[2, 2], -1.0, 1.0),
        ints(&[2], &[1, 0]),
        floats(&[3, 2], -1.0, 1.0),
        ints(&[], &[2]),
        floats(&[4, 3, 2], -1.0, 1.0),
        ints(&[4, 2], &[1, 2, 3, 4, 5, 6, 7, 8]),
    ]
}

fn scan(remat: RematPolicy, reverse: bool) -> Case {
    Case::new(format!("scan/{remat:?}, reverse {reverse}"), step_inputs(), move |b, v| {
        let mut types = b.types(v);
        for ty in &mut types[4..] {
            ty.shape.remove(0);
        }
        let body = Arc::new(b.subgraph(&types, step)?);
        b.insert(Op::Scan(Scan { body, length: 4, num_consts: 2, num_carry: 2, reverse, remat }), v)
    })
}

fn unrolled(remat: RematPolicy) -> Case {
    Case::new(format!("scan/unrolled {remat:?}"), step_inputs(), move |b, v| {
        let stacks: Vec<Vec<Value>> = v[4..].iter().map(|&x| b.unstack(x)).collect::<Result<_, _>>()?;
        let row = |row: usize| stacks.iter().map(|stack| stack[row]).collect();
        let rows: Vec<Vec<Value>> = (0..4).map(row).collect();
        let inputs = UnrolledInputs { consts: &v[..2], carry: &v[2..4], rows: &rows, remat };
        let (carry, ys) = b.unrolled_scan(inputs, |b, consts, carry, xs| {
            let mut outputs = step(b, &[consts, carry, xs].concat())?;
            let ys = outputs.split_off(2);
            Ok((outputs, ys))
        })?;
        Ok([carry, ys].concat())
    })
}

/// Cumulative products of rows, in a loop over matrices whose running factor is carried.
fn scan_in_scan(remat: RematPolicy) -> Case {
    let inputs = [floats(&[2], 0.5, 1.5), floats(&[3, 4, 2], 0.5, 1.5)];
    Case::new(format!("scan/in a scan {remat:?}"), inputs, move |b, v| {
        let outer = ScanInputs { carry: &v[..1], xs: &v[1..], remat, ..Default::default() };
        let (carry, ys) = b.scan(outer, |b, _, carry, xs| {
            let inner = ScanInputs { carry, xs, remat, ..Default::default() };
            b.scan(inner, |b, _, carry, xs| {
                let product = b.mul(carry[0], xs[0])?;
                Ok((vec![product], vec![b.sin(product)?]))
            })
        })?;
        Ok([carry, ys].concat())
    })
}

fn called(remat: RematPolicy) -> Case {
    let inputs = [floats(&[3, 2], -1.0, 1.0), floats(&[2, 2], -1.0, 1.0)];
    Case::new(format!("call/{remat:?}"), inputs, move |b, v| {
        let body = b.subgraph(&b.types(v), |b, v| {
            let product = b.einsum("bi,ij->bj", v[0], v[1])?;
            let y = b.sin(product)?;
            Ok(vec![b.exp(y)?, product])
        })?;
        b.call_graph("block", Arc::new(body), remat, v)
    })
}

/// Three branches that read different operands; an index out of range takes the last.
fn conditional(index: i32) -> Case {
    let inputs = [ints(&[], &[index]), floats(&[3], -1.0, 1.0), floats(&[3], 0.5, 2.0)];
    Case::new(format!("conditional/{index}"), inputs, |b, v| {
        let types = b.types(&v[1..]);
        type Body = fn(&mut Builder, &[Value]) -> Result<Value, BuildError>;
        let bodies: [Body; 3] = [|b, x| b.sin(x[0]), |b, x| b.mul(x[0], x[1]), |b, x| b.log(x[1])];
        let branches = bodies
            .iter()
            .map(|body| b.subgraph(&types, |b, x| Ok(vec![body(b, x)?])).map(Arc::new))
            .collect::<Result<_, _>>()?;
        b.conditional(v[0], branches, &v[1..])
    })
}

/// `x^3` with the derivative given by hand from a residual; JAX differentiates the body instead.
fn custom() -> Case {
    Case::new("call/custom derivative", [floats(&[4], 0.5, 2.0)], |b, v| {
        b.custom_vjp(
            "cube",
            v,
            |b, x| {
                let square = b.square(x[0])?;
                Ok((vec![b.mul(square, x[0])?], vec![square]))
            },
            |b, args| {
                let slope = b.mul_scalar(args.outputs[1], 3.0)?;
                Ok(vec![b.mul(args.cotangents[0], slope)?])
            },
        )
    })
}
