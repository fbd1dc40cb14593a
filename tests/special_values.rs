//! Infinities, NaN, zeros, least and greatest integers, ties: XLA's results of the elementwise operations are the evaluator's.
#![cfg(feature = "cpu")]

mod common;

use common::values::{FLOATS, INTEGERS, float_bytes};
use common::xla_cpu::{Route, outputs};
use switchyard::build::Builder;
use switchyard::eval::evaluate;
use switchyard::infer::infer;
use switchyard::ir::*;
use switchyard::runtime::cpu::{self, CpuBackend};

const SPECIAL: [f64; 16] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    0.0,
    -0.0,
    0.25,
    0.5,
    -0.5,
    1.0,
    -1.0,
    1.5,
    2.5,
    -2.5,
    3.0,
    -70.0,
    300.0,
];

/// Every number of the list, as a vector of this type.
fn vector(dtype: DType) -> Literal {
    let bytes: Vec<Vec<u8>> = if dtype.is_float() {
        SPECIAL.iter().map(|&x| float_bytes(x, dtype)).collect()
    } else {
        let bits = 8 * dtype.size_bytes() as u32;
        let least = 1u64 << (bits - 1);
        let width = u64::from(bits);
        let numbers =
            [0, 1, 2, 7, u64::MAX, 0u64.wrapping_sub(7), least, least - 1, width - 1, width, width + 1];
        numbers.iter().map(|x| x.to_le_bytes()[..dtype.size_bytes()].to_vec()).collect()
    };
    Literal::from_bytes(TensorType::new(dtype, [bytes.len()]), bytes.concat()).unwrap()
}

/// The operations that a type takes, on all numbers of its list and on all pairs of them.
fn operations(dtype: DType) -> (Graph, Literal) {
    let list = vector(dtype);
    let n = list.ty().shape[0];
    let graph = Builder::graph(&[list.ty().clone()], |b, v| {
        let x = b.broadcast_in_dim(v[0], &[n, n], &[0])?;
        let y = b.broadcast_in_dim(v[0], &[n, n], &[1])?;
        let mut results = vec![];
        for op in UnaryOp::ALL.iter().map(|&op| Op::Unary(op)) {
            if infer(&op, &[list.ty().clone()]).is_ok() {
                results.push(b.one(op, v)?);
            }
        }
        let binary = BinaryOp::ALL.iter().map(|&op| Op::Binary(op));
        for op in binary.chain(Direction::ALL.map(Op::Compare)) {
            if infer(&op, &b.types(&[x, y])).is_ok() {
                results.push(b.one(op, &[x, y])?);
            }
        }
        for to in DType::ALL {
            results.push(b.convert(v[0], to)?);
        }
        Ok(results)
    });
    (graph.unwrap(), list)
}

/// Relative error that the approximations of a type may have.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-11,
        DType::F32 => 4e-6,
        DType::F16 => 4e-3,
        _ => 2e-2,
    }
}

fn same(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * a.abs().max(1.0)
}

fn differences(backend: &CpuBackend, dtype: DType) -> Vec<String> {
    let (graph, list) = operations(dtype);
    let inputs = vec![vec![list.clone()]];
    let expected = evaluate(&graph, &inputs[0]).unwrap();
    let found = outputs(backend, &graph, &inputs, Route::Plain).unwrap();
    let numbers = list.to_f64();
    let mut messages = vec![];
    for ((&value, expected), found) in graph.outputs().iter().zip(&expected).zip(&found[0]) {
        let op = &graph.node(value).op;
        let tolerance = tolerance(if found.ty().dtype.is_float() { found.ty().dtype } else { dtype });
        // XLA's CPU backend is free to drop a NaN here (its flag `xla_cpu_enable_fast_min_max`).
        let drops_nan = matches!(op, Op::Binary(BinaryOp::Max | BinaryOp::Min));
        for (i, (a, b)) in expected.to_f64().into_iter().zip(found.to_f64()).enumerate() {
            let tolerance = if found.ty().dtype.is_float() { tolerance } else { 0.0 };
            if !(same(a, b, tolerance) || drops_nan && a.is_nan()) {
                let n = numbers.len();
                let of = if expected.ty().rank() == 2 {
                    format!("{}, {}", numbers[i / n], numbers[i % n])
                } else {
                    format!("{}", numbers[i])
                };
                messages.push(format!("{dtype} {op:?} of {of}: XLA says {b}, the evaluator {a}"));
            }
        }
    }
    messages
}

#[test]
fn special_values_come_out_as_in_xla() {
    let backend = cpu::open(1).unwrap();
    let types = FLOATS.into_iter().chain(INTEGERS);
    let wrong: Vec<String> = types.flat_map(|dtype| differences(&backend, dtype)).collect();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
