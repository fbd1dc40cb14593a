use crate::check::*;
use crate::elementwise::assert_close;
use std::sync::Arc;
use switchyard::build::{BuildError, Builder, ScanInputs};
use switchyard::ir::*;

const POLICIES: [RematPolicy; 3] = [RematPolicy::SaveAll, RematPolicy::SaveDots, RematPolicy::SaveNothing];

fn block(b: &mut Builder, v: &[Value]) -> Built {
    let product = b.einsum("bi,ij->bj", v[0], v[1])?;
    let scale = b.convert(v[2], DType::F64)?;
    let scale = b.broadcast_in_dim(scale, &[3, 2], &[1])?;
    let scaled = b.mul(product, scale)?;
    let y = b.sin(scaled)?;
    Ok(vec![y, b.exp(product)?, v[2]])
}

fn block_inputs() -> Vec<Literal> {
    vec![floats(&[3, 2], -1.0, 1.0), floats(&[2, 2], -1.0, 1.0), ints(&[2], &[2, 3])]
}

fn called(remat: RematPolicy) -> impl Fn(&mut Builder, &[Value]) -> Built {
    move |b, v| {
        let body = b.subgraph(&b.types(v), block)?;
        b.call_graph("block", Arc::new(body), remat, v)
    }
}

#[test]
fn calls_under_every_policy_have_the_gradients_of_their_body() {
    let plain = values(&block_inputs(), gradients_of(block));
    for remat in POLICIES {
        check_twice(&format!("call {remat:?}"), &block_inputs(), called(remat));
        for (a, b) in values(&block_inputs(), gradients_of(called(remat))).iter().zip(&plain) {
            assert_close(a, b, 1e-12);
        }
    }
}

#[test]
fn one_result_of_a_call_may_go_unused() {
    for remat in POLICIES {
        check(&format!("call {remat:?}"), &block_inputs(), |b, v| Ok(vec![called(remat)(b, v)?[1]]));
    }
}

#[test]
fn calls_in_calls_under_every_pair_of_policies_have_right_gradients() {
    for outer in POLICIES {
        for inner in POLICIES {
            check(&format!("call {outer:?} of {inner:?}"), &block_inputs(), |b, v| {
                let body = b.subgraph(&b.types(v), |b, v| {
                    let x = b.sin(v[0])?;
                    let results = called(inner)(b, &[x, v[1], v[2]])?;
                    Ok(vec![b.mul(results[0], results[1])?])
                })?;
                b.call_graph("outer", Arc::new(body), outer, v)
            });
        }
    }
}

/// `x^3` with an integer power beside it, a residual `x^2`, and a derivative that is twice the true one if `twice`.
fn cube(b: &mut Builder, x: Value, n: Value, factor: f64) -> Result<Value, BuildError> {
    let results = b.custom_vjp(
        "cube",
        &[n, x],
        |b, v| {
            let square = b.square(v[1])?;
            let cube = b.mul(square, v[1])?;
            Ok((vec![v[0], cube, v[1]], vec![square]))
        },
        |b, args| {
            // Outputs: n, cube, x; residual: square. Cotangents: of cube and x.
            let slope = b.mul_scalar(args.outputs[3], 3.0 * factor)?;
            let through_cube = b.mul(args.cotangents[0], slope)?;
            Ok(vec![b.add(through_cube, args.cotangents[1])?])
        },
    )?;
    Ok(results[1])
}

#[test]
fn a_custom_derivative_is_used_and_gets_zeros_for_unused_results() {
    let inputs = [floats(&[3], 0.5, 2.0), ints(&[], &[7])];
    check_twice("cube", &inputs, |b, v| Ok(vec![cube(b, v[0], v[1], 1.0)?]));
    // The derivative that was given counts, not the one of the body.
    let given = values(&inputs, gradients_of(|b, v| Ok(vec![cube(b, v[0], v[1], 10.0)?])));
    let honest = values(&inputs, gradients_of(|b, v| Ok(vec![cube(b, v[0], v[1], 1.0)?])));
    let scaled: Vec<f64> = honest[0].iter().map(|g| g * 10.0).collect();
    assert_close(&given[0], &scaled, 1e-12);
}

#[test]
fn custom_derivatives_work_in_scans_under_every_policy() {
    let inputs = [floats(&[3], 0.2, 0.9), ints(&[], &[7]), floats(&[4, 3], 0.5, 1.0)];
    for remat in POLICIES {
        check_twice(&format!("cube in scan {remat:?}"), &inputs, |b, v| {
            let scan = ScanInputs { consts: &v[1..2], carry: &v[..1], xs: &v[2..], length: 4, remat };
            let (carry, ys) = b.scan(scan, |b, consts, carry, xs| {
                let shifted = b.add(carry[0], xs[0])?;
                let wave = b.sin(shifted)?;
                let next = cube(b, wave, consts[0], 1.0)?;
                Ok((vec![next], vec![b.exp(next)?]))
            })?;
            Ok([carry, ys].concat())
        });
    }
}

#[test]
fn a_conditional_differentiates_the_branch_that_ran() {
    let types = [
        TensorType::new(DType::F64, [3]),
        TensorType::new(DType::F64, [3]),
        TensorType::new(DType::S32, [3]),
    ];
    // Branches use both, one and no float operand.
    let branches: Vec<Arc<Graph>> = [
        Builder::graph(&types, |b, v| Ok(vec![b.mul(v[0], v[1])?, v[0]])),
        Builder::graph(&types, |b, v| {
            let n = b.convert(v[2], DType::F64)?;
            let y = b.mul(v[0], n)?;
            Ok(vec![b.sin(y)?, y])
        }),
        Builder::graph(&types, |b, v| {
            let one = b.full_like(v[0], 1.0)?;
            Ok(vec![one, one])
        }),
    ]
    .into_iter()
    .map(|branch| Arc::new(branch.unwrap()))
    .collect();
    for index in [0, 1, 2, 9, -1] {
        let inputs =
            [ints(&[], &[index]), floats(&[3], -1.0, 1.0), floats(&[3], 0.0, 2.0), ints(&[3], &[1, 2, 3])];
        check_twice(&format!("branch {index}"), &inputs, |b, v| {
            b.conditional(v[0], branches.clone(), &v[1..])
        });
    }
}

#[test]
fn conditionals_work_in_scans() {
    let inputs = [floats(&[2], 0.5, 1.0), ints(&[3], &[0, 1, 0]), floats(&[3, 2], 0.5, 1.0)];
    for remat in POLICIES {
        check(&format!("conditional in scan {remat:?}"), &inputs, |b, v| {
            let scan = ScanInputs { carry: &v[..1], xs: &v[1..], length: 3, remat, ..Default::default() };
            let (carry, ys) = b.scan(scan, |b, _, carry, xs| {
                let operands = [carry[0], xs[1]];
                let types = b.types(&operands);
                let multiply = Arc::new(b.subgraph(&types, |b, v| Ok(vec![b.mul(v[0], v[1])?]))?);
                let wave = Arc::new(b.subgraph(&types, |b, v| Ok(vec![b.sin(v[0])?]))?);
                let chosen = b.conditional(xs[0], vec![multiply, wave], &operands)?;
                Ok((chosen.clone(), chosen))
            })?;
            Ok([carry, ys].concat())
        });
    }
}

#[test]
fn barriers_pass_what_there_is() {
    let inputs = [floats(&[2], -1.0, 1.0), ints(&[2], &[1, 2]), floats(&[2], 0.0, 1.0)];
    check_twice("barrier", &inputs, |b, v| {
        let held = b.optimization_barrier(v)?;
        Ok(vec![b.sin(held[0])?, b.convert(held[1], DType::F64)?])
    });
}

#[test]
fn gradients_by_inner_values_count_what_lies_behind_them() {
    // y = sin(x), loss = y * x: d/dy = x, d/dx = y + x cos(x).
    let found = values(&[f64s(&[], &[0.7])], |b, v| {
        let y = b.sin(v[0])?;
        let loss = b.mul(y, v[0])?;
        switchyard::grad::gradients(b, loss, &[v[0], y])
    });
    assert_close(&[found[0][0], found[1][0]], &[0.7f64.sin() + 0.7 * 0.7f64.cos(), 0.7], 1e-12);
}
