use crate::check::*;
use crate::elementwise::assert_close;
use std::sync::Arc;
use switchyard::build::{BuildError, Builder, ScanInputs, UnrolledInputs};
use switchyard::ir::*;

const POLICIES: [RematPolicy; 3] = [RematPolicy::SaveAll, RematPolicy::SaveDots, RematPolicy::SaveNothing];

/// Consts: a matrix and an integer; carry: state, counter, running sum that no one reads; xs: floats and integers.
fn inputs() -> Vec<Literal> {
    vec![
        floats(&[2, 2], -1.0, 1.0),
        ints(&[2], &[1, 0]),
        floats(&[3, 2], -1.0, 1.0),
        ints(&[], &[2]),
        floats(&[2], 0.0, 1.0),
        floats(&[4, 3, 2], -1.0, 1.0),
        ints(&[4, 2], &[1, 2, 3, 4, 5, 6, 7, 8]),
    ]
}

type Parts = (Vec<Value>, Vec<Value>);

fn body(b: &mut Builder, consts: &[Value], carry: &[Value], xs: &[Value]) -> Result<Parts, BuildError> {
    let (w, order) = (consts[0], consts[1]);
    let (state, counter, unused) = (carry[0], carry[1], carry[2]);
    let product = b.einsum("bi,ij->bj", state, w)?;
    let shifted = b.add(product, xs[0])?;
    let mixed = b.tanh(shifted)?;
    let scale = b.convert(xs[1], DType::F64)?;
    let scale = b.mul_scalar(scale, 0.1)?;
    let scale = b.broadcast_in_dim(scale, &[3, 2], &[1])?;
    let scaled = b.mul(mixed, scale)?;
    let time = b.convert(counter, DType::F64)?;
    let time = b.splat(time, scaled)?;
    let next = b.mul(scaled, time)?;
    let next = b.add(next, mixed)?;
    let one = b.full_like(counter, 1.0)?;
    let counter = b.add(counter, one)?;
    let turned = b.transpose(mixed, &[1, 0])?;
    let turned = b.take_rows(turned, order)?;
    let sum = b.sum(turned, &[1])?;
    let exp = b.exp(sum)?;
    let unused = b.add(unused, sum)?;
    Ok((vec![next, counter, unused], vec![exp, xs[1], turned]))
}

fn run(reverse: bool, remat: RematPolicy) -> impl Fn(&mut Builder, &[Value]) -> Built {
    move |b, v| {
        let graph = {
            let types = b.types(v);
            let mut element = types.clone();
            for ty in &mut element[5..] {
                ty.shape.remove(0);
            }
            b.subgraph(&element, |b, v| {
                let (carry, ys) = body(b, &v[..2], &v[2..5], &v[5..])?;
                Ok([carry, ys].concat())
            })?
        };
        let scan = Scan { body: Arc::new(graph), length: 4, num_consts: 2, num_carry: 3, reverse, remat };
        let results = b.insert(Op::Scan(scan), v)?;
        // The last carry without its unused part, and the ys.
        Ok(vec![results[0], results[3], results[5]])
    }
}

#[test]
fn scans_in_both_directions_under_every_policy_have_right_gradients() {
    for remat in POLICIES {
        for reverse in [false, true] {
            check(&format!("scan {remat:?} reverse {reverse}"), &inputs(), run(reverse, remat));
        }
    }
}

#[test]
fn gradients_of_gradients_of_scans_are_right() {
    for remat in POLICIES {
        check(&format!("scan {remat:?}"), &inputs(), gradients_of(run(false, remat)));
    }
}

/// The elements of stacks along the first axis, row by row.
fn rows_of(b: &mut Builder, stacks: &[Value]) -> Result<Vec<Vec<Value>>, BuildError> {
    let stacks: Vec<Vec<Value>> = stacks.iter().map(|&x| b.unstack(x)).collect::<Result<_, _>>()?;
    Ok((0..stacks[0].len()).map(|row| stacks.iter().map(|stack| stack[row]).collect()).collect())
}

#[test]
fn a_scan_has_the_gradients_of_its_unrolled_form() {
    for remat in POLICIES {
        let form = |unrolled: bool| {
            move |b: &mut Builder, v: &[Value]| -> Built {
                let (consts, carry, xs) = (&v[..2], &v[2..5], &v[5..]);
                let (carry, ys) = match unrolled {
                    true => {
                        let rows = &rows_of(b, xs)?[..];
                        b.unrolled_scan(UnrolledInputs { consts, carry, rows, remat }, body)?
                    }
                    false => b.scan(ScanInputs { consts, carry, xs, length: 4, remat }, body)?,
                };
                Ok([carry, ys].concat())
            }
        };
        let (looped, unrolled) =
            (values(&inputs(), gradients_of(form(false))), values(&inputs(), gradients_of(form(true))));
        for (a, b) in looped.iter().zip(&unrolled) {
            assert_close(a, b, 1e-12);
        }
    }
}

#[test]
fn only_the_ys_may_have_cotangents() {
    let inputs = [floats(&[2], -1.0, 1.0), floats(&[3, 2], 0.5, 1.0)];
    check_twice("carry without a cotangent of its own", &inputs, |b, v| {
        let scan = ScanInputs { carry: &v[..1], xs: &v[1..], ..Default::default() };
        let (_, ys) = b.scan(scan, |b, _, carry, xs| {
            let next = b.mul(carry[0], xs[0])?;
            Ok((vec![next], vec![b.sin(carry[0])?]))
        })?;
        Ok(ys)
    });
}

#[test]
fn a_carry_that_is_replaced_still_gives_its_first_value_a_gradient() {
    let inputs = [floats(&[2], 0.5, 1.0), floats(&[3, 2], 0.5, 1.0)];
    check("replaced carry", &inputs, |b, v| {
        let scan = ScanInputs { carry: &v[..1], xs: &v[1..], ..Default::default() };
        let (carry, ys) = b.scan(scan, |b, _, carry, xs| {
            let y = b.mul(carry[0], xs[0])?;
            Ok((vec![b.full_like(carry[0], 2.0)?], vec![y]))
        })?;
        Ok([carry, ys].concat())
    });
}

#[test]
fn carries_that_swap_places_carry_their_cotangents() {
    check("swap", &[floats(&[2], 0.5, 1.0), floats(&[2], -1.0, 1.0)], |b, v| {
        let scan = ScanInputs { carry: v, length: 3, ..Default::default() };
        let (carry, _) = b.scan(scan, |b, _, carry, _| {
            let y = b.sin(carry[1])?;
            Ok((vec![y, carry[0]], vec![]))
        })?;
        Ok(vec![carry[0]])
    });
}

#[test]
fn loops_of_no_or_one_iteration_are_right() {
    for length in [0, 1] {
        let inputs = [floats(&[2], 0.5, 1.0), floats(&[2], -1.0, 1.0), floats(&[length, 2], 0.5, 1.0)];
        check("short scan", &inputs, |b, v| {
            let scan =
                ScanInputs { consts: &v[..1], carry: &v[1..2], xs: &v[2..], length, ..Default::default() };
            let (carry, ys) = b.scan(scan, |b, consts, carry, xs| {
                let y = b.mul(carry[0], xs[0])?;
                Ok((vec![b.mul(y, consts[0])?], vec![b.sin(y)?]))
            })?;
            Ok([carry, ys].concat())
        });
    }
}

/// A scan over scans: rows of `x[3, 4]`, state of two numbers.
fn nested(outer: RematPolicy, inner: RematPolicy) -> impl Fn(&mut Builder, &[Value]) -> Built {
    move |b, v| {
        let inputs = ScanInputs { consts: &v[..1], carry: &v[1..2], xs: &v[2..], length: 3, remat: outer };
        let (carry, ys) = b.scan(inputs, |b, consts, carry, xs| {
            let start = b.sin(carry[0])?;
            let row = ScanInputs { consts, carry: &[start], xs, length: 4, remat: inner };
            let (end, ys) = b.scan(row, |b, consts, carry, xs| {
                let product = b.einsum("i,ij->j", carry[0], consts[0])?;
                let x = b.splat(xs[0], product)?;
                let next = b.add(product, x)?;
                let next = b.tanh(next)?;
                Ok((vec![next], vec![b.square(next)?]))
            })?;
            Ok((end, ys))
        })?;
        Ok([carry, ys].concat())
    }
}

#[test]
fn nested_scans_under_every_pair_of_policies_have_right_gradients() {
    let inputs = [floats(&[2, 2], -1.0, 1.0), floats(&[2], -1.0, 1.0), floats(&[3, 4], -1.0, 1.0)];
    for outer in POLICIES {
        for inner in POLICIES {
            check(&format!("scan {outer:?} of {inner:?}"), &inputs, nested(outer, inner));
        }
    }
    check(
        "gradient of nested scan",
        &inputs,
        gradients_of(nested(RematPolicy::SaveAll, RematPolicy::SaveDots)),
    );
}

#[test]
fn a_scan_may_be_differentiated_more_than_once() {
    let inputs = [floats(&[2], 0.5, 1.0), floats(&[3, 2], 0.5, 1.0)];
    check("two gradients", &inputs, |b, v| {
        let scan = ScanInputs { carry: &v[..1], xs: &v[1..], ..Default::default() };
        let (carry, ys) = b.scan(scan, |b, _, carry, xs| {
            let next = b.mul(carry[0], xs[0])?;
            let next = b.sin(next)?;
            Ok((vec![next], vec![b.exp(next)?]))
        })?;
        let (first, second) = (b.sum_all(carry[0])?, b.sum_all(ys[0])?);
        let a = switchyard::grad::gradients(b, first, &v[..1])?;
        let c = switchyard::grad::gradients(b, second, v)?;
        Ok([a, c, carry, ys].concat())
    });
}
