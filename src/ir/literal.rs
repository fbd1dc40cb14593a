//! Dense host values: little-endian bytes in row-major order with their type.

use super::types::{DType, TensorType};
use half::{bf16, f16};
use std::fmt;

/// A host tensor: row-major little-endian bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Literal {
    ty: TensorType,
    bytes: Vec<u8>,
}

/// The byte count does not fit the type.
#[derive(Debug, thiserror::Error)]
#[error("a value of type {ty} has {expected} bytes, found {found}")]
pub struct LiteralError {
    pub ty: TensorType,
    pub expected: usize,
    pub found: usize,
}

/// A Rust type that is the element of a [`Literal`].
pub trait Element: bytemuck::Pod {
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}
elements!(i8 => S8, i32 => S32, i64 => S64, u8 => U8, u32 => U32, u64 => U64,
          f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64);

impl Literal {
    /// A value from its bytes. Errors: [`LiteralError`] if their count does not fit the type.
    pub fn from_bytes(ty: TensorType, bytes: Vec<u8>) -> Result<Self, LiteralError> {
        let expected = ty.size_bytes();
        if bytes.len() != expected {
            return Err(LiteralError { ty, expected, found: bytes.len() });
        }
        Ok(Self { ty, bytes })
    }

    /// The elements along the first axis; none of a scalar.
    pub fn rows(&self) -> Vec<Literal> {
        let Some((&count, shape)) = self.ty.shape.split_first() else { return vec![] };
        let ty = TensorType::new(self.ty.dtype, shape);
        let size = ty.size_bytes();
        let row = |row: usize| Self { ty: ty.clone(), bytes: self.bytes[row * size..][..size].to_vec() };
        (0..count).map(row).collect()
    }

    /// Values of one type as one along a new first axis. Errors: [`LiteralError`] if their types differ in size.
    pub fn stack(rows: &[Literal]) -> Result<Self, LiteralError> {
        let first = rows.first().map_or(TensorType::scalar(DType::F32), |row| row.ty.clone());
        let ty = TensorType::new(first.dtype, [&[rows.len()], &first.shape[..]].concat());
        Self::from_bytes(ty, rows.iter().flat_map(|row| &row.bytes).copied().collect())
    }

    /// A value from its elements in row-major order. Errors: [`LiteralError`] if their count does not fit.
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, data: &[T]) -> Result<Self, LiteralError> {
        Self::from_bytes(TensorType::new(T::DTYPE, shape), bytemuck::cast_slice(data).to_vec())
    }

    /// A scalar.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self { ty: TensorType::scalar(T::DTYPE), bytes: bytemuck::bytes_of(&value).to_vec() }
    }

    /// A `pred` tensor. Errors: [`LiteralError`] if the count does not fit the shape.
    pub fn pred(shape: impl Into<Vec<usize>>, data: &[bool]) -> Result<Self, LiteralError> {
        let bytes = data.iter().map(|&b| b as u8).collect();
        Self::from_bytes(TensorType::new(DType::Pred, shape), bytes)
    }

    /// A scalar of this element type, converted from `value` (rounded or truncated as the type asks).
    pub fn scalar_of(dtype: DType, value: f64) -> Self {
        let bytes = match dtype {
            DType::Pred => vec![(value != 0.0) as u8],
            DType::S8 => (value as i8).to_le_bytes().to_vec(),
            DType::S32 => (value as i32).to_le_bytes().to_vec(),
            DType::S64 => (value as i64).to_le_bytes().to_vec(),
            DType::U8 => (value as u8).to_le_bytes().to_vec(),
            DType::U32 => (value as u32).to_le_bytes().to_vec(),
            DType::U64 => (value as u64).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            DType::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            DType::F32 => (value as f32).to_le_bytes().to_vec(),
            DType::F64 => value.to_le_bytes().to_vec(),
        };
        Self { ty: TensorType::scalar(dtype), bytes }
    }

    /// Zeros of this type.
    pub fn zeros(ty: TensorType) -> Self {
        let bytes = vec![0; ty.size_bytes()];
        Self { ty, bytes }
    }

    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The elements in row-major order, or `None` if `T` is not the element type.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        let elements = self.bytes.chunks_exact(size_of::<T>());
        (T::DTYPE == self.ty.dtype).then(|| elements.map(bytemuck::pod_read_unaligned).collect())
    }

    /// Whether no element is an infinity or NaN.
    pub fn is_finite(&self) -> bool {
        match self.ty.dtype {
            // Without a copy of eight bytes per element: checkpoints are large.
            DType::F32 => self.bytes.chunks_exact(4).all(|c| f32::is_finite(bytemuck::pod_read_unaligned(c))),
            dtype => !dtype.is_float() || self.to_f64().iter().all(|x| x.is_finite()),
        }
    }

    /// The elements as `f64`, whatever the element type (64-bit integers may round).
    pub fn to_f64(&self) -> Vec<f64> {
        fn each<T: bytemuck::Pod>(bytes: &[u8], to: impl Fn(T) -> f64) -> Vec<f64> {
            bytes.chunks_exact(size_of::<T>()).map(|c| to(bytemuck::pod_read_unaligned(c))).collect()
        }
        let b = &self.bytes;
        match self.ty.dtype {
            DType::Pred | DType::U8 => each::<u8>(b, f64::from),
            DType::S8 => each::<i8>(b, f64::from),
            DType::S32 => each::<i32>(b, f64::from),
            DType::S64 => each::<i64>(b, |x| x as f64),
            DType::U32 => each::<u32>(b, f64::from),
            DType::U64 => each::<u64>(b, |x| x as f64),
            DType::F16 => each::<f16>(b, f16::to_f64),
            DType::Bf16 => each::<bf16>(b, bf16::to_f64),
            DType::F32 => each::<f32>(b, f64::from),
            DType::F64 => each::<f64>(b, |x| x),
        }
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.to_f64();
        let shown = &values[..values.len().min(8)];
        write!(f, "{} {shown:?}{}", self.ty, if values.len() > 8 { ".." } else { "" })
    }
}
