//! XLA's element types: numbers in the proto, names in the text, sizes.

use crate::ir::DType;

/// A row of [`PRIMITIVES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Primitive {
    /// Number in `xla_data.proto`.
    pub number: i32,
    /// Name in HLO text.
    pub name: &'static str,
    /// Size of an element in bits; 0 for types without a value (tuple, token, opaque).
    pub bits: u64,
}

const fn row(number: i32, name: &'static str, bits: u64) -> Primitive {
    Primitive { number, name, bits }
}

/// Number of the tuple type.
pub const TUPLE: i32 = 13;
/// Number of the opaque type.
pub const OPAQUE: i32 = 14;
/// Number of the token type.
pub const TOKEN: i32 = 17;

/// All element types of XLA.
pub const PRIMITIVES: [Primitive; 35] = [
    row(0, "invalid", 0),
    row(1, "pred", 8),
    row(2, "s8", 8),
    row(3, "s16", 16),
    row(4, "s32", 32),
    row(5, "s64", 64),
    row(6, "u8", 8),
    row(7, "u16", 16),
    row(8, "u32", 32),
    row(9, "u64", 64),
    row(10, "f16", 16),
    row(11, "f32", 32),
    row(12, "f64", 64),
    row(13, "tuple", 0),
    row(14, "opaque", 0),
    row(15, "c64", 64),
    row(16, "bf16", 16),
    row(17, "token", 0),
    row(18, "c128", 128),
    row(19, "f8e5m2", 8),
    row(20, "f8e4m3fn", 8),
    row(21, "s4", 4),
    row(22, "u4", 4),
    row(23, "f8e4m3b11fnuz", 8),
    row(24, "f8e5m2fnuz", 8),
    row(25, "f8e4m3fnuz", 8),
    row(26, "s2", 2),
    row(27, "u2", 2),
    row(28, "f8e4m3", 8),
    row(29, "f8e3m4", 8),
    row(30, "s1", 1),
    row(31, "u1", 1),
    row(32, "f4e2m1fn", 4),
    row(33, "f8e8m0fnu", 8),
    row(34, "buffer", 0),
];

/// The element type of this number, if XLA has one.
pub fn primitive(number: i32) -> Option<Primitive> {
    usize::try_from(number).ok().and_then(|n| PRIMITIVES.get(n)).copied()
}

/// The element type of this name in HLO text.
pub fn primitive_named(name: &str) -> Option<Primitive> {
    PRIMITIVES.iter().skip(1).find(|p| p.name == name).copied()
}

/// The number of this element type.
pub fn primitive_of(dtype: DType) -> i32 {
    match dtype {
        DType::Pred => 1,
        DType::S8 => 2,
        DType::S32 => 4,
        DType::S64 => 5,
        DType::U8 => 6,
        DType::U32 => 8,
        DType::U64 => 9,
        DType::F16 => 10,
        DType::F32 => 11,
        DType::F64 => 12,
        DType::Bf16 => 16,
    }
}

/// The element type of this number, where this package computes with it.
pub fn dtype_of(number: i32) -> Option<DType> {
    primitive(number).and_then(|p| DType::from_name(p.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_numbers_and_agree_with_the_dtypes() {
        for (i, p) in PRIMITIVES.iter().enumerate() {
            assert_eq!(p.number, i as i32);
        }
        for dtype in DType::ALL {
            let p = primitive(primitive_of(dtype)).unwrap();
            assert_eq!((p.name, p.bits), (dtype.name(), dtype.size_bytes() as u64 * 8));
            assert_eq!(dtype_of(p.number), Some(dtype));
        }
        assert_eq!((primitive(-1), primitive(35), primitive_named("invalid")), (None, None, None));
    }
}
