//! Random types and host values.

use super::dice::Dice;
use half::{bf16, f16};
use switchyard::ir::{DType, Domain, Literal, TensorType};

/// Tensors have at most this many elements, to keep thousands of graphs quick.
const MOST_ELEMENTS: usize = 240;

pub const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::Bf16, DType::F16];
pub const INTEGERS: [DType; 6] = [DType::S32, DType::S64, DType::U32, DType::U64, DType::S8, DType::U8];

/// Half of them `f32`, `s32` or `pred`, the rest any.
pub fn dtype(dice: &mut Dice) -> DType {
    if dice.chance(60) {
        dice.pick(&[DType::F32, DType::F32, DType::S32, DType::Pred, DType::Bf16])
    } else {
        dice.pick(&DType::ALL)
    }
}

/// Sizes 1 to 5, rarely 0.
pub fn size(dice: &mut Dice) -> usize {
    if dice.chance(2) { 0 } else { 1 + dice.below(5) }
}

pub fn shape(dice: &mut Dice, rank: usize) -> Vec<usize> {
    loop {
        let shape: Vec<usize> = (0..rank).map(|_| size(dice)).collect();
        if shape.iter().product::<usize>() <= MOST_ELEMENTS {
            return shape;
        }
    }
}

pub fn tensor_type(dice: &mut Dice) -> TensorType {
    let rank = dice.below(5);
    TensorType::new(dtype(dice), shape(dice, rank))
}

/// Small numbers that every element type holds exactly, with some extreme ones among the integers and, in a few tensors,
/// infinities and NaN among the floats.
pub fn literal(dice: &mut Dice, ty: &TensorType) -> Literal {
    let special = dice.chance(4);
    let bytes: Vec<u8> = (0..ty.elements()).flat_map(|_| element(dice, ty.dtype, special)).collect();
    Literal::from_bytes(ty.clone(), bytes).unwrap()
}

/// Integers in `low..=high`.
pub fn positions(dice: &mut Dice, ty: &TensorType, low: i64, high: i64) -> Literal {
    let low = if ty.dtype.domain() == Domain::Unsigned { low.max(0) } else { low };
    let bytes = (0..ty.elements())
        .flat_map(|_| {
            let x = dice.between(low, high.max(low));
            x.to_le_bytes().into_iter().take(ty.dtype.size_bytes()).collect::<Vec<u8>>()
        })
        .collect();
    Literal::from_bytes(ty.clone(), bytes).unwrap()
}

fn element(dice: &mut Dice, dtype: DType, special: bool) -> Vec<u8> {
    match dtype.domain() {
        Domain::Bool => vec![dice.below(2) as u8],
        Domain::Signed | Domain::Unsigned => integer(dice, dtype),
        Domain::Float => float_bytes(float(dice, special), dtype),
    }
}

fn integer(dice: &mut Dice, dtype: DType) -> Vec<u8> {
    let signed = dtype.domain() == Domain::Signed;
    let bits = 8 * dtype.size_bytes() as u32;
    let value: u64 = match dice.below(12) {
        // The greatest and the least value, and all bits.
        0 if signed => (1u64 << (bits - 1)) - 1,
        1 if signed => 1u64 << (bits - 1),
        0 | 1 => u64::MAX,
        2 => dice.word(),
        _ if signed => dice.between(-5, 5) as u64,
        _ => dice.below(8) as u64,
    };
    value.to_le_bytes()[..dtype.size_bytes()].to_vec()
}

/// Multiples of an eighth in -4..4.
fn float(dice: &mut Dice, special: bool) -> f64 {
    if special && dice.chance(15) {
        return dice.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    }
    dice.between(-32, 32) as f64 / 8.0
}

pub fn float_bytes(x: f64, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f64(x).to_le_bytes().to_vec(),
        DType::F32 => (x as f32).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    }
}
