//! Counter-based random bits as XLA lays them out (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

use super::machine::Row;
use super::tensor::{Tensor, for_each_position, strides};
use crate::ir::{DType, RngAlgorithm, TensorType};
use std::sync::Arc;

/// `state u64[2]` is key and counter. Returns the state with the counter moved past what was used, and the bits.
pub(super) fn rng_bit_generator(algorithm: RngAlgorithm, state: &Tensor, ty: &TensorType) -> Row {
    let (key, counter) = (state.ints()[0] as u64, state.ints()[1] as u64);
    let (bits, used) = match (algorithm, ty.dtype) {
        (RngAlgorithm::ThreeFry, DType::U64) => threefry_64(key, counter, ty.elements()),
        (RngAlgorithm::ThreeFry, _) => threefry_32(key, counter, &ty.shape),
        (RngAlgorithm::Philox, DType::U64) => philox_64(key, counter, ty.elements()),
        (RngAlgorithm::Philox, _) => philox_32(key, counter, ty.elements()),
    };
    let state = vec![i128::from(key), i128::from(counter.wrapping_add(used))];
    let bits = bits.into_iter().map(i128::from).collect();
    vec![
        Arc::new(Tensor::exact(DType::U64, [2], state)),
        // Narrow types keep the low bits of 32.
        Arc::new(Tensor::fitted(ty.dtype, ty.shape.clone(), bits)),
    ]
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Threefry-2x32 with 20 rounds.
fn threefry(key: [u32; 2], mut x: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDA];
    x = [x[0].wrapping_add(keys[0]), x[1].wrapping_add(keys[1])];
    for i in 0..5 {
        for distance in ROTATIONS[i % 2] {
            x[0] = x[0].wrapping_add(x[1]);
            x[1] = x[1].rotate_left(distance) ^ x[0];
        }
        x[0] = x[0].wrapping_add(keys[(i + 1) % 3]);
        x[1] = x[1].wrapping_add(keys[(i + 2) % 3]).wrapping_add(i as u32 + 1);
    }
    x
}

fn threefry_64(key: u64, counter: u64, n: usize) -> (Vec<u64>, u64) {
    let block = |i| joined(threefry(halves(key), halves(counter.wrapping_add(i as u64))));
    ((0..n).map(block).collect(), n as u64)
}

/// A block of two words serves two neighbours along one axis: the first of even size, or else the (first) longest.
fn threefry_32(key: u64, counter: u64, shape: &[usize]) -> (Vec<u64>, u64) {
    let word = |block: usize, k: usize| {
        u64::from(threefry(halves(key), halves(counter.wrapping_add(block as u64)))[k])
    };
    let even = shape.iter().position(|size| size % 2 == 0);
    let longest = || (0..shape.len()).rev().max_by_key(|&d| shape[d]);
    let Some(axis) = even.or_else(longest) else {
        return (vec![word(0, 0)], 1);
    };
    let mut half = shape.to_vec();
    half[axis] = shape[axis].div_ceil(2);
    let strides = strides(&half);
    let mut bits = Vec::with_capacity(shape.iter().product());
    for_each_position(shape, |position| {
        let along = |d: usize| if d == axis { position[d] / 2 } else { position[d] };
        let block: usize = (0..shape.len()).map(|d| along(d) * strides[d]).sum();
        bits.push(word(block, position[axis] % 2));
    });
    (bits, half.iter().product::<usize>() as u64)
}

/// Philox-4x32 with 10 rounds.
fn philox(mut key: [u32; 2], mut x: [u32; 4]) -> [u32; 4] {
    for _ in 0..10 {
        let a = halves(u64::from(x[0]) * 0xD251_1F53);
        let b = halves(u64::from(x[2]) * 0xCD9E_8D57);
        x = [b[1] ^ x[1] ^ key[0], b[0], a[1] ^ x[3] ^ key[1], a[0]];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    x
}

/// Block `i`: the 128-bit counter has the state's counter below and the key above.
fn philox_block(key: u64, counter: u64, i: usize) -> [u32; 4] {
    let (low, carry) = counter.overflowing_add(i as u64);
    let high = key.wrapping_add(u64::from(carry));
    let ([a, b], [c, d]) = (halves(low), halves(high));
    philox(halves(key), [a, b, c, d])
}

fn philox_32(key: u64, counter: u64, n: usize) -> (Vec<u64>, u64) {
    let blocks = n.div_ceil(4);
    let words = (0..blocks).flat_map(|i| philox_block(key, counter, i));
    (words.take(n).map(u64::from).collect(), blocks as u64)
}

fn philox_64(key: u64, counter: u64, n: usize) -> (Vec<u64>, u64) {
    let blocks = (2 * n).div_ceil(4);
    let words = (0..blocks).flat_map(|i| {
        let [a, b, c, d] = philox_block(key, counter, i);
        [joined([a, b]), joined([c, d])]
    });
    (words.take(n).collect(), blocks as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threefry_gives_the_published_known_answers() {
        // Random123 distribution, kat_vectors, threefry2x32 with 20 rounds.
        assert_eq!(threefry([0; 2], [0; 2]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        let (key, counter) = ([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]);
        assert_eq!(threefry(key, counter), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn philox_gives_the_published_known_answers() {
        // Random123 distribution, kat_vectors, philox4x32 with 10 rounds.
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    fn generate(algorithm: RngAlgorithm, dtype: DType, shape: &[usize]) -> (u64, Vec<i128>) {
        let state = Tensor::exact(DType::U64, [2], vec![5i128, u64::MAX.into()]);
        let row = rng_bit_generator(algorithm, &state, &TensorType::new(dtype, shape));
        assert_eq!(row[0].ints()[0], 5);
        (row[0].ints()[1] as u64, row[1].ints().to_vec())
    }

    #[test]
    fn the_counter_moves_by_the_blocks_used_and_wraps() {
        // From 2^64 - 1: one block more is 0.
        assert_eq!(generate(RngAlgorithm::ThreeFry, DType::U32, &[]).0, 0);
        assert_eq!(generate(RngAlgorithm::ThreeFry, DType::U32, &[3, 4]).0, 5);
        assert_eq!(generate(RngAlgorithm::ThreeFry, DType::U64, &[3, 4]).0, 11);
        assert_eq!(generate(RngAlgorithm::Philox, DType::U32, &[5]).0, 1);
        assert_eq!(generate(RngAlgorithm::Philox, DType::U64, &[5]).0, 2);
    }

    #[test]
    fn narrow_types_take_the_low_bits() {
        for algorithm in [RngAlgorithm::ThreeFry, RngAlgorithm::Philox] {
            let wide = generate(algorithm, DType::U32, &[3, 5]).1;
            let narrow = generate(algorithm, DType::U8, &[3, 5]).1;
            assert!(wide.iter().zip(narrow).all(|(w, n)| w & 255 == n));
        }
    }

    #[test]
    fn neighbours_share_a_block_of_threefry() {
        let key = halves(5);
        let block = |i: u64| threefry(key, halves(u64::MAX.wrapping_add(i))).map(i128::from);
        let (a, b) = (block(0), block(1));
        // Axis 1 is the first of even size, so blocks run down the rows.
        assert_eq!(generate(RngAlgorithm::ThreeFry, DType::U32, &[3, 2]).1[..4], [a[0], a[1], b[0], b[1]]);
        // Axis 0 is: rows 0 and 1 are the two words of the same blocks.
        assert_eq!(generate(RngAlgorithm::ThreeFry, DType::U32, &[2, 2]).1, [a[0], b[0], a[1], b[1]]);
    }
}
