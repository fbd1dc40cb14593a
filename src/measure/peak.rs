//! The device's rate of multiplication, as a large product reaches it.

use super::MeasureError;
use crate::build::Builder;
use crate::ir::{DType, Literal, TensorType};
use crate::runtime::{Argument, Backend, CompileOptions, DeviceBuffer, Executable};
use crate::{hlo, lower};
use rand::{RngExt, SeedableRng};
use std::time::Instant;

/// Rows and columns of the matrices.
pub const PEAK_SIZE: usize = 2048;

/// Products in one measurement.
const PRODUCTS: usize = 3;

/// A compiled product of two float32 matrices of [`PEAK_SIZE`], ready to be timed between steps.
pub struct Peak {
    product: Box<dyn Executable>,
    matrix: DeviceBuffer,
}

impl Peak {
    /// Compiles the product and uploads a random matrix.
    pub fn new(backend: &dyn Backend) -> Result<Self, MeasureError> {
        Self::compiled(backend).map_err(MeasureError::Peak)
    }

    fn compiled(backend: &dyn Backend) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let ty = TensorType::new(DType::F32, [PEAK_SIZE, PEAK_SIZE]);
        let graph = Builder::graph(&[ty.clone(), ty], |b, x| {
            let product = b.einsum("mk,kn->mn", x[0], x[1])?;
            let row = b.slice_axis(product, 0, 0, 1)?;
            Ok(vec![product, row])
        })?;
        let module = hlo::encode(&lower::lower("peak", &graph, &[], &[]));
        let product = backend.compile(&module, &CompileOptions::default())?;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let data: Vec<f32> = (0..PEAK_SIZE * PEAK_SIZE).map(|_| random.random_range(-1.0..1.0)).collect();
        let matrix = backend.upload(&Literal::new([PEAK_SIZE, PEAK_SIZE], &data)?, 0)?;
        Ok(Self { product, matrix })
    }

    /// FLOP/s of the fastest of a few products, two per multiply-add: what else ran before has cooled the caches.
    pub fn measure(&self) -> Result<f64, MeasureError> {
        (0..PRODUCTS).try_fold(0.0, |best: f64, _| Ok(best.max(self.product()?)))
    }

    fn product(&self) -> Result<f64, MeasureError> {
        let start = Instant::now();
        let arguments = vec![Argument::from(&self.matrix), Argument::from(&self.matrix)];
        let results = self.product.run(arguments).map_err(|e| MeasureError::Peak(e.into()))?;
        // A backend may run ahead: the product is there once a row of it can be read.
        if let Some(row) = results.last() {
            row.download().map_err(|e| MeasureError::Peak(e.into()))?;
        }
        Ok(2.0 * (PEAK_SIZE as f64).powi(3) / start.elapsed().as_secs_f64())
    }
}
