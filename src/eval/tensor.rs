//! Values while they are computed with: one wide representation for floats, one for everything else.

use crate::ir::{DType, Literal, LiteralError, TensorType};
use half::{bf16, f16};
use ndarray::{ArrayViewD, IxDyn};

/// A dense value in row-major order. Every element is one that `ty.dtype` can hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub ty: TensorType,
    pub data: Data,
}

/// Elements: floats exactly as `f64`; `pred` (0 or 1) and integers exactly as `i128`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Float(Vec<f64>),
    Int(Vec<i128>),
}

/// The two kinds of element, so that what moves elements is written once.
pub(super) trait Scalar: Copy + Default + 'static {
    /// The elements of a tensor of this kind.
    fn elements(x: &Tensor) -> &[Self];
    fn data(elements: Vec<Self>) -> Data;
    /// The value that `dtype` holds instead of `self`.
    fn fit(self, dtype: DType) -> Self;
}

impl Scalar for f64 {
    fn elements(x: &Tensor) -> &[f64] {
        match &x.data {
            Data::Float(elements) => elements,
            Data::Int(_) => panic!("internal: {} holds integers, floats were expected", x.ty),
        }
    }

    fn data(elements: Vec<f64>) -> Data {
        Data::Float(elements)
    }

    fn fit(self, dtype: DType) -> f64 {
        round(self, dtype)
    }
}

impl Scalar for i128 {
    fn elements(x: &Tensor) -> &[i128] {
        match &x.data {
            Data::Int(elements) => elements,
            Data::Float(_) => panic!("internal: {} holds floats, integers were expected", x.ty),
        }
    }

    fn data(elements: Vec<i128>) -> Data {
        Data::Int(elements)
    }

    fn fit(self, dtype: DType) -> i128 {
        wrap(self, dtype)
    }
}

/// Calls a function over [`Scalar`] for the kind that a tensor holds.
macro_rules! by_kind {
    ($x:expr, $function:ident($($arg:expr),* $(,)?)) => {
        if $x.ty.dtype.is_float() { $function::<f64>($($arg),*) } else { $function::<i128>($($arg),*) }
    };
}
pub(super) use by_kind;

impl Tensor {
    /// A tensor of elements that `dtype` holds already.
    pub fn exact<T: Scalar>(dtype: DType, shape: impl Into<Vec<usize>>, elements: Vec<T>) -> Self {
        Self { ty: TensorType::new(dtype, shape), data: T::data(elements) }
    }

    /// A tensor of elements that are first rounded or wrapped to `dtype`.
    pub fn fitted<T: Scalar>(dtype: DType, shape: impl Into<Vec<usize>>, mut elements: Vec<T>) -> Self {
        elements.iter_mut().for_each(|x| *x = x.fit(dtype));
        Self::exact(dtype, shape, elements)
    }

    /// The elements of a view, in its order.
    pub fn of_view<T: Scalar>(dtype: DType, view: ArrayViewD<T>) -> Self {
        Self::exact(dtype, view.shape(), view.iter().copied().collect())
    }

    pub fn elements<T: Scalar>(&self) -> &[T] {
        T::elements(self)
    }

    pub fn ints(&self) -> &[i128] {
        self.elements()
    }

    #[cfg(test)]
    pub fn floats(&self) -> &[f64] {
        self.elements()
    }

    /// The elements with their axes.
    pub fn view<T: Scalar>(&self) -> ArrayViewD<'_, T> {
        ArrayViewD::from_shape(IxDyn(&self.ty.shape), T::elements(self))
            .unwrap_or_else(|error| panic!("internal: {} holds other elements: {error}", self.ty))
    }

    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }

    /// The one element of a `pred` or integer scalar.
    pub fn scalar_int(&self) -> i128 {
        self.ints()[0]
    }

    pub fn from_literal(literal: &Literal) -> Self {
        fn ints<T: crate::ir::Element + Into<i128>>(literal: &Literal) -> Data {
            Data::Int(literal.to_vec::<T>().unwrap_or_default().into_iter().map(Into::into).collect())
        }
        let data = match literal.ty().dtype {
            DType::Pred => Data::Int(literal.bytes().iter().map(|&b| (b != 0).into()).collect()),
            DType::S8 => ints::<i8>(literal),
            DType::S32 => ints::<i32>(literal),
            DType::S64 => ints::<i64>(literal),
            DType::U8 => ints::<u8>(literal),
            DType::U32 => ints::<u32>(literal),
            DType::U64 => ints::<u64>(literal),
            DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => Data::Float(literal.to_f64()),
        };
        Self { ty: literal.ty().clone(), data }
    }

    /// Errors: [`LiteralError`] where the elements do not fill the shape.
    pub fn to_literal(&self) -> Result<Literal, LiteralError> {
        let dtype = self.ty.dtype;
        let bytes = match &self.data {
            Data::Float(elements) => elements.iter().flat_map(|&x| float_bytes(x, dtype)).collect(),
            Data::Int(elements) => {
                elements.iter().flat_map(|x| x.to_le_bytes().into_iter().take(dtype.size_bytes())).collect()
            }
        };
        Literal::from_bytes(self.ty.clone(), bytes)
    }
}

/// Little-endian bytes of a float that `dtype` holds.
fn float_bytes(x: f64, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f32(x as f32).to_le_bytes().to_vec(),
        DType::F32 => (x as f32).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    }
}

/// The nearest float of this type, ties to even.
pub(super) fn round(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::from_f32(to_odd_f32(x)).to_f64(),
        DType::Bf16 => bf16::from_f32(to_odd_f32(x)).to_f64(),
        DType::F32 => f64::from(x as f32),
        _ => x,
    }
}

/// Rounds to the neighbour with an odd last bit unless exact, so that a second, coarser rounding sees on which side of a tie
/// the number lay.
fn to_odd_f32(x: f64) -> f32 {
    let near = x as f32;
    if near.is_nan() || near.is_infinite() || f64::from(near) == x || near.to_bits() & 1 == 1 {
        return near;
    }
    if near == 0.0 {
        return f32::from_bits(near.to_bits() + 1);
    }
    let too_far = f64::from(near).abs() > x.abs();
    f32::from_bits(if too_far { near.to_bits() - 1 } else { near.to_bits() + 1 })
}

/// The integer of this type that is equal modulo two to the width; for `pred`, whether it is not zero.
pub(super) fn wrap(x: i128, dtype: DType) -> i128 {
    match dtype {
        DType::Pred => (x != 0).into(),
        DType::S8 => (x as i8).into(),
        DType::S32 => (x as i32).into(),
        DType::S64 => (x as i64).into(),
        DType::U8 => (x as u8).into(),
        DType::U32 => (x as u32).into(),
        DType::U64 => (x as u64).into(),
        DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => x,
    }
}

/// The same bits without sign, as a number below two to the width.
pub(super) fn bits(x: i128, dtype: DType) -> u128 {
    let width = 8 * dtype.size_bytes() as u32;
    (x as u128) & ((1u128 << width) - 1)
}

/// Distances in elements between neighbours along each axis of a row-major tensor.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Calls `visit` with every position of a tensor of this shape, in row-major order.
pub(super) fn for_each_position(shape: &[usize], mut visit: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut position = vec![0; shape.len()];
    loop {
        visit(&position);
        let Some(axis) = (0..shape.len()).rev().find(|&d| position[d] + 1 < shape[d]) else { return };
        position[axis] += 1;
        position[axis + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_once_and_to_even() {
        // Neighbours of 1 in bf16 are 2^-7 apart; 1 + 2^-8 is a tie and goes to 1, the even one.
        let tie = 1.0 + 1.0 / 256.0;
        assert_eq!(round(tie, DType::Bf16), 1.0);
        // Above the tie by less than f32 can hold: still up.
        assert_eq!(round(tie + 2f64.powi(-40), DType::Bf16), 1.0 + 1.0 / 128.0);
        assert_eq!(round(tie - 2f64.powi(-40), DType::Bf16), 1.0);
        assert_eq!(round(1.0 + 3.0 / 256.0, DType::Bf16), 1.0 + 2.0 / 128.0);
    }

    #[test]
    fn overflow_becomes_infinity_and_tiny_numbers_zero() {
        assert_eq!(round(70000.0, DType::F16), f64::INFINITY);
        assert_eq!(round(65519.0, DType::F16), 65504.0);
        assert_eq!(round(-1e300, DType::F32), f64::NEG_INFINITY);
        assert_eq!(round(1e-300, DType::F32), 0.0);
        assert_eq!(round(1e-300, DType::Bf16), 0.0);
        assert!(round(f64::NAN, DType::Bf16).is_nan());
    }

    #[test]
    fn integers_wrap_to_their_width() {
        assert_eq!(wrap(128, DType::S8), -128);
        assert_eq!(wrap(-1, DType::U32), 0xFFFF_FFFF);
        assert_eq!(wrap(1 << 64, DType::U64), 0);
        assert_eq!(wrap(2, DType::Pred), 1);
        assert_eq!(bits(-1, DType::S8), 255);
    }

    #[test]
    fn literals_pass_through_unchanged() {
        let literals = [
            Literal::new([2], &[i64::MIN, i64::MAX]).unwrap(),
            Literal::new([2], &[0u64, u64::MAX]).unwrap(),
            Literal::new([2], &[f16::from_f32(0.1), f16::NEG_INFINITY]).unwrap(),
            Literal::new([1, 2], &[-0.0f32, 3.5]).unwrap(),
            Literal::pred([3], &[true, false, true]).unwrap(),
            Literal::new([0, 4], &[0i8; 0]).unwrap(),
        ];
        for literal in literals {
            assert_eq!(Tensor::from_literal(&literal).to_literal().unwrap(), literal);
        }
    }

    #[test]
    fn positions_run_in_row_major_order() {
        let mut seen = vec![];
        for_each_position(&[2, 1, 2], |p| seen.push(p.to_vec()));
        assert_eq!(seen, [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]);
        for_each_position(&[2, 0], |_| panic!("no position"));
        let mut count = 0;
        for_each_position(&[], |_| count += 1);
        assert_eq!(count, 1);
    }
}
