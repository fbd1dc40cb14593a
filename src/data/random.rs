//! Random choices drawn from a key, never from a running stream.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a random choice is for; keeps the choices of one seed independent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Split = 1,
    Epoch = 2,
    Window = 3,
    Noise = 4,
    HeldOutNoise = 5,
}

/// The generator of one choice: its whole 256-bit key is (seed, purpose, a, b).
pub(super) fn rng(seed: u64, purpose: Purpose, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A uniform number below `n`, or 0 for `n` = 0 (Lemire, 2019: multiply, reject the few biased draws).
///
/// Written out here because the streams of positions on disk must outlive the algorithms of a crate.
pub(super) fn below(rng: &mut impl Rng, n: u64) -> u64 {
    if n <= 1 {
        return 0;
    }
    let rejected_below = n.wrapping_neg() % n;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        if product as u64 >= rejected_below {
            return (product >> 64) as u64;
        }
    }
}

/// A uniform permutation of `0..n` (Fisher and Yates).
pub(super) fn shuffled(rng: &mut impl Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(rng, i as u64 + 1) as usize);
    }
    order
}

/// Splits `items` into `parts` non-empty lengths, each such split being equally likely.
///
/// `parts` must be in `1..=items`; the lengths add up to `items`.
pub(super) fn random_lengths(rng: &mut impl Rng, items: usize, parts: usize) -> Vec<usize> {
    let mut lengths = Vec::with_capacity(parts);
    let (mut start, mut cuts) = (0, parts.saturating_sub(1));
    // Of the gaps left, each is a cut with probability cuts / gaps (Knuth, algorithm S).
    for end in 1..items {
        if below(rng, (items - end) as u64) < cuts as u64 {
            lengths.push(end - start);
            start = end;
            cuts -= 1;
        }
    }
    lengths.push(items - start);
    lengths
}

/// A keyed permutation of `0..n` that needs no memory: a Feistel network, walked until it lands inside.
#[derive(Clone, Debug)]
pub(super) struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 6],
}

impl Permutation {
    pub(super) fn new(n: u64, seed: u64, purpose: Purpose, a: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let mut rng = rng(seed, purpose, a, 0);
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// The place of `index`, which must be below `n`; both are in `0..n`.
    pub(super) fn get(&self, index: u64) -> u64 {
        // The network permutes 0..4^half_bits, less than 4n numbers: the walk is short, and it
        // ends because following a cycle from inside 0..n must come back inside.
        let mut value = index.min(self.n.saturating_sub(1));
        loop {
            value = self.network(value);
            if value < self.n || self.n == 0 {
                return value;
            }
        }
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finalizer of SplitMix64 (Steele et al., 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_takes_every_place_once() {
        for n in [1, 2, 3, 4, 5, 16, 17, 1000] {
            let permutation = Permutation::new(n, 7, Purpose::Epoch, 3);
            let mut places: Vec<u64> = (0..n).map(|i| permutation.get(i)).collect();
            places.sort_unstable();
            assert_eq!(places, (0..n).collect::<Vec<_>>(), "n = {n}");
        }
    }

    #[test]
    fn permutations_of_two_epochs_differ() {
        let order = |epoch| {
            let permutation = Permutation::new(64, 7, Purpose::Epoch, epoch);
            (0..64).map(|i| permutation.get(i)).collect::<Vec<_>>()
        };
        assert_eq!(order(0), order(0));
        assert_ne!(order(0), order(1));
    }

    #[test]
    fn shuffling_keeps_every_element() {
        let mut order = shuffled(&mut rng(1, Purpose::Window, 0, 0), 50);
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn random_lengths_are_positive_and_add_up() {
        for (items, parts) in [(1, 1), (5, 1), (5, 5), (10, 3), (86, 29)] {
            let lengths = random_lengths(&mut rng(2, Purpose::Noise, 0, 0), items, parts);
            assert_eq!(lengths.len(), parts);
            assert_eq!(lengths.iter().sum::<usize>(), items);
            assert!(lengths.iter().all(|&l| l > 0), "{lengths:?}");
        }
    }

    #[test]
    fn all_splits_of_four_into_two_are_equally_likely() {
        // 1+3, 2+2, 3+1: 3000 draws give each about 1000; 150 is more than five standard deviations (26).
        let mut counts = [0i32; 3];
        for draw in 0..3000 {
            let lengths = random_lengths(&mut rng(3, Purpose::Noise, draw, 0), 4, 2);
            counts[lengths[0] - 1] += 1;
        }
        assert!(counts.iter().all(|c| (c - 1000).abs() < 150), "{counts:?}");
    }
}
