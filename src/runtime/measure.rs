//! What a device reaches in practice: the yardstick for the share of its peak that a program has.

use super::{Backend, CompileOptions, DeviceBuffer, Executable, RuntimeError};
use crate::hlo;
use crate::ir::{Literal, TensorType};
use half::bf16;
use std::time::Instant;

/// Products between two looks at the clock, and how often that is repeated; the best counts.
const PRODUCTS: usize = 10;
const REPEATS: usize = 5;

/// FLOPs per second of products of two `size` x `size` matrices of bfloat16 on the first device.
pub fn matmul_flops_per_second(backend: &dyn Backend, size: usize) -> Result<f64, RuntimeError> {
    let program = backend.compile(&module(size)?, &CompileOptions::default())?;
    let matrix = matrix(size)?;
    let operands = [backend.upload(&matrix, 0)?, backend.upload(&matrix, 0)?];
    // The first products may still be tuning.
    time(&*program, &operands)?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        best = best.min(time(&*program, &operands)?);
    }
    Ok(2.0 * (size as f64).powi(3) / best)
}

/// A product, and one element of it to wait for.
fn module(size: usize) -> Result<Vec<u8>, RuntimeError> {
    let text = format!(
        "HloModule matmul
        ENTRY main {{
          lhs = bf16[{size},{size}]{{1,0}} parameter(0)
          rhs = bf16[{size},{size}]{{1,0}} parameter(1)
          product = bf16[{size},{size}]{{1,0}} dot(lhs, rhs), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
          corner = bf16[1,1]{{1,0}} slice(product), slice={{[0:1], [0:1]}}
          ROOT both = (bf16[{size},{size}]{{1,0}}, bf16[1,1]{{1,0}}) tuple(product, corner)
        }}"
    );
    let module = hlo::parse(&text).map_err(|e| RuntimeError::Module(e.to_string()))?;
    Ok(hlo::encode(&module))
}

/// Values of both signs that are no pattern of whole rows: a processor may be faster on zeros.
fn matrix(size: usize) -> Result<Literal, RuntimeError> {
    let value = |n: usize| bf16::from_f32(((n * 37 % 251) as f32 - 125.0) / 125.0);
    let values: Vec<bf16> = (0..size * size).map(value).collect();
    Literal::from_bytes(
        TensorType::new(crate::ir::DType::Bf16, [size, size]),
        bytemuck::cast_slice(&values).to_vec(),
    )
    .map_err(|e| RuntimeError::Module(e.to_string()))
}

/// Seconds per product.
fn time(program: &dyn Executable, operands: &[DeviceBuffer; 2]) -> Result<f64, RuntimeError> {
    let start = Instant::now();
    let mut last = None;
    for _ in 0..PRODUCTS {
        let results = program.run(operands.iter().map(Into::into).collect())?;
        last = results.into_iter().nth(1);
    }
    if let Some(corner) = last {
        corner.download()?;
    }
    Ok(start.elapsed().as_secs_f64() / PRODUCTS as f64)
}
