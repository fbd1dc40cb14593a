//! Between host values and [`LiteralProto`].

use super::primitive::dtype_of;
use super::proto::LiteralProto;
use super::shape::shape_of;
use crate::ir::{DType, Element, Literal};

/// The proto form of a host value; 16-bit floats and 8-bit integers travel as little-endian bytes.
pub fn literal_of(value: &Literal) -> LiteralProto {
    let mut proto = LiteralProto { shape: Some(shape_of(value.ty())), ..Default::default() };
    let bytes = value.bytes();
    match value.ty().dtype {
        DType::Pred => proto.preds = bytes.iter().map(|&b| b != 0).collect(),
        DType::S8 => proto.s8s = bytes.to_vec(),
        DType::U8 => proto.u8s = bytes.to_vec(),
        DType::F16 => proto.f16s = bytes.to_vec(),
        DType::Bf16 => proto.bf16s = bytes.to_vec(),
        DType::S32 => proto.s32s = elements(value),
        DType::S64 => proto.s64s = elements(value),
        DType::U32 => proto.u32s = elements(value),
        DType::U64 => proto.u64s = elements(value),
        DType::F32 => proto.f32s = elements(value),
        DType::F64 => proto.f64s = elements(value),
    }
    proto
}

fn elements<T: Element>(value: &Literal) -> Vec<T> {
    value.to_vec().unwrap_or_default() // the caller has matched the element type
}

/// The host value, or `None` where the type is not ours, dynamic, or the data does not fit the shape.
pub fn literal_from(proto: &LiteralProto) -> Option<Literal> {
    let ty = proto.shape.as_ref()?.tensor_type()?;
    ty.checked_elements()?;
    let bytes = match dtype_of(proto.shape.as_ref()?.element_type)? {
        DType::Pred => proto.preds.iter().map(|&b| b as u8).collect(),
        DType::S8 => proto.s8s.clone(),
        DType::U8 => proto.u8s.clone(),
        DType::F16 => proto.f16s.clone(),
        DType::Bf16 => proto.bf16s.clone(),
        DType::S32 => bytemuck::cast_slice(&proto.s32s).to_vec(),
        DType::S64 => bytemuck::cast_slice(&proto.s64s).to_vec(),
        DType::U32 => bytemuck::cast_slice(&proto.u32s).to_vec(),
        DType::U64 => bytemuck::cast_slice(&proto.u64s).to_vec(),
        DType::F32 => bytemuck::cast_slice(&proto.f32s).to_vec(),
        DType::F64 => bytemuck::cast_slice(&proto.f64s).to_vec(),
    };
    Literal::from_bytes(ty, bytes).ok()
}

/// The value of an integer scalar, or `None` for anything else.
pub fn scalar_integer(proto: &LiteralProto) -> Option<i64> {
    let value = literal_from(proto)?;
    let ty = value.ty();
    if ty.rank() != 0 || !ty.dtype.is_integer() {
        return None;
    }
    match ty.dtype {
        DType::S64 => value.to_vec::<i64>()?.first().copied(),
        DType::U64 => i64::try_from(*value.to_vec::<u64>()?.first()?).ok(),
        _ => value.to_f64().first().map(|&v| v as i64), // at most 32 bits: exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::TensorType;
    use half::{bf16, f16};

    #[test]
    fn every_dtype_comes_back_as_it_went() {
        for dtype in DType::ALL {
            let one = Literal::scalar_of(dtype, 1.0);
            let ty = TensorType::new(dtype, [2]);
            let two = Literal::from_bytes(ty, [one.bytes(), one.bytes()].concat()).unwrap();
            assert_eq!(literal_from(&literal_of(&two)), Some(two.clone()), "{dtype}");
            assert_eq!(literal_from(&literal_of(&one)), Some(one), "{dtype}");
        }
    }

    #[test]
    fn sixteen_bit_floats_are_little_endian_bytes() {
        // 1.0 is 0x3f80 in bfloat16 and 0x3c00 in float16.
        assert_eq!(literal_of(&Literal::scalar(bf16::ONE)).bf16s, [0x80, 0x3f]);
        assert_eq!(literal_of(&Literal::scalar(f16::ONE)).f16s, [0x00, 0x3c]);
    }

    #[test]
    fn only_integer_scalars_are_scalar_integers() {
        assert_eq!(scalar_integer(&literal_of(&Literal::scalar(-3i32))), Some(-3));
        assert_eq!(scalar_integer(&literal_of(&Literal::scalar(u64::MAX))), None);
        assert_eq!(scalar_integer(&literal_of(&Literal::scalar(1.0f32))), None);
        let mut broken = literal_of(&Literal::scalar(7i32));
        broken.s32s.clear();
        assert_eq!(scalar_integer(&broken), None);
    }
}
