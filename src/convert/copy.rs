//! Numbers from one layout and element type to another, block by block.

use crate::ir::DType;
use half::{bf16, f16};

/// Elements of a block where the order stays.
const RUN: usize = 1 << 16;
/// Columns of a block that is transposed: 256 bytes of each row of float32.
const COLUMNS: usize = 64;
/// Rows read together, whose lines then stay in the nearest cache.
const ROWS: usize = 16;

/// The element types of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F32,
    Bf16,
    F16,
}

impl Float {
    /// The type of this number format, if it is one of them.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Float::F32),
            DType::Bf16 => Some(Float::Bf16),
            DType::F16 => Some(Float::F16),
            _ => None,
        }
    }

    pub fn dtype(self) -> DType {
        match self {
            Float::F32 => DType::F32,
            Float::Bf16 => DType::Bf16,
            Float::F16 => DType::F16,
        }
    }
}

/// A matrix in memory, row-major and little-endian, without any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub bytes: &'a [u8],
    pub float: Float,
    pub rows: usize,
    pub columns: usize,
}

/// Hands out the elements as `to`, in row-major order of the matrix or of its transpose, block by block.
///
/// Between equal types bits are moved as they are; into float32 no number changes; other numbers are rounded to the nearest,
/// halves to even.
pub fn copy<E>(
    matrix: Matrix,
    to: Float,
    transpose: bool,
    emit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    match (matrix.float, to) {
        (from, to) if from == to && !transpose => emit(matrix.bytes),
        (Float::F32, Float::F32) => pass(matrix, transpose, |x: [u8; 4]| x, emit),
        (Float::Bf16, Float::Bf16) | (Float::F16, Float::F16) => {
            pass(matrix, transpose, |x: [u8; 2]| x, emit)
        }
        (Float::Bf16, Float::F32) => pass(matrix, transpose, |[a, b]| [0, 0, a, b], emit),
        (Float::F16, Float::F32) => pass(matrix, transpose, |x| from_f16(x).to_le_bytes(), emit),
        (Float::F32, Float::Bf16) => pass(matrix, transpose, |x| to_bf16(f32::from_le_bytes(x)), emit),
        (Float::F32, Float::F16) => pass(matrix, transpose, |x| to_f16(f32::from_le_bytes(x)), emit),
        (Float::Bf16, Float::F16) => {
            pass(matrix, transpose, |[a, b]| to_f16(f32::from_le_bytes([0, 0, a, b])), emit)
        }
        (Float::F16, Float::Bf16) => pass(matrix, transpose, |x| to_bf16(from_f16(x)), emit),
    }
}

/// Whether every float32 of `bytes` is a number of type `to`.
pub fn is_exact(bytes: &[u8], to: Float) -> bool {
    let (words, _) = bytes.as_chunks();
    words.iter().all(|&word| {
        let x = f32::from_le_bytes(word);
        let back = match to {
            Float::F32 => x,
            Float::Bf16 => bf16::from_f32(x).to_f32(),
            Float::F16 => f16::from_f32(x).to_f32(),
        };
        back == x || x.is_nan()
    })
}

fn from_f16(x: [u8; 2]) -> f32 {
    f16::from_le_bytes(x).to_f32()
}

fn to_f16(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

fn to_bf16(x: f32) -> [u8; 2] {
    bf16::from_f32(x).to_le_bytes()
}

fn pass<const A: usize, const B: usize, E>(
    matrix: Matrix,
    transpose: bool,
    change: impl Fn([u8; A]) -> [u8; B],
    emit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (elements, _) = matrix.bytes.as_chunks::<A>();
    if transpose {
        return transposed(elements, matrix.rows, matrix.columns, change, emit);
    }
    let mut block = Vec::with_capacity(RUN.min(elements.len()));
    for run in elements.chunks(RUN) {
        block.clear();
        block.extend(run.iter().map(|&x| change(x)));
        emit(block.as_flattened())?;
    }
    Ok(())
}

/// Blocks of the transpose: rows of it, made from as many columns.
fn transposed<const A: usize, const B: usize, E>(
    elements: &[[u8; A]],
    rows: usize,
    columns: usize,
    change: impl Fn([u8; A]) -> [u8; B],
    emit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = vec![[0; B]; rows * COLUMNS.min(columns)];
    for first in (0..columns).step_by(COLUMNS) {
        let width = COLUMNS.min(columns - first);
        for top in (0..rows).step_by(ROWS) {
            let height = ROWS.min(rows - top);
            for column in 0..width {
                let line = &mut block[column * rows + top..][..height];
                for (row, place) in line.iter_mut().enumerate() {
                    *place = change(elements[(top + row) * columns + first + column]);
                }
            }
        }
        emit(block[..rows * width].as_flattened())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(matrix: Matrix, to: Float, transpose: bool) -> Vec<u8> {
        let mut out = vec![];
        let mut emit = |bytes: &[u8]| -> Result<(), ()> {
            out.extend_from_slice(bytes);
            Ok(())
        };
        copy(matrix, to, transpose, &mut emit).unwrap();
        out
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn transposing_moves_every_element_also_beyond_a_block() {
        let (rows, columns) = (ROWS + 3, 2 * COLUMNS + 1);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let bytes = bytes_of(&values);
        let matrix = Matrix { bytes: &bytes, float: Float::F32, rows, columns };
        let expected: Vec<f32> =
            (0..columns).flat_map(|c| (0..rows).map(move |r| (r * columns + c) as f32)).collect();
        assert_eq!(all(matrix, Float::F32, true), bytes_of(&expected));
        assert_eq!(all(matrix, Float::F32, false), bytes);
    }

    #[test]
    fn every_half_precision_number_comes_back_from_float32() {
        for float in [Float::Bf16, Float::F16] {
            let bits = 0..=u16::MAX;
            // Payloads of NaN are no numbers; conversion may make them quiet.
            let nan = |bits: u16| match float {
                Float::Bf16 => bf16::from_bits(bits).is_nan(),
                _ => f16::from_bits(bits).is_nan(),
            };
            let bytes: Vec<u8> = bits.filter(|&b| !nan(b)).flat_map(u16::to_le_bytes).collect();
            let columns = bytes.len() / 2;
            let wide = all(Matrix { bytes: &bytes, float, rows: 1, columns }, Float::F32, false);
            assert!(is_exact(&wide, float));
            let wide = Matrix { bytes: &wide, float: Float::F32, rows: 1, columns };
            assert_eq!(all(wide, float, true), bytes);
        }
    }

    #[test]
    fn numbers_between_two_are_rounded_to_the_nearest() {
        // 1 + 2^-8 lies halfway between 1 and the next bfloat16, 1 + 2^-7: halves go to even.
        let bytes = bytes_of(&[1.0 + 2f32.powi(-8), 1.0 + 2f32.powi(-8) + 2f32.powi(-20)]);
        let matrix = Matrix { bytes: &bytes, float: Float::F32, rows: 1, columns: 2 };
        let expected: Vec<u8> = [1.0, 1.0078125].iter().flat_map(|&x| to_bf16(x)).collect();
        assert_eq!(all(matrix, Float::Bf16, false), expected);
        assert!(!is_exact(&bytes, Float::Bf16));
    }
}
