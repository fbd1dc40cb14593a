//! Counter-based random numbers: every element is a function of a key and its own index in the whole tensor, so values depend
//! neither on the order of execution nor on how the tensor is divided among devices.

use super::{BuildError, Builder};
use crate::ir::*;

type Built = Result<Value, BuildError>;

/// Rotation distances of Threefry-2x32 (Salmon et al., 2011, table 2).
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
const PARITY: u32 = 0x1BD1_1BDA;

/// The number of the stream of the place of this name (FNV-1a).
pub fn stream_of(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The block of a tensor that is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The shape of the block.
    pub shape: Vec<usize>,
    /// The shape of the tensor that it is cut from.
    pub whole: Vec<usize>,
    /// Where it starts along the dimensions that are cut: scalars `u32`.
    pub starts: Vec<(usize, Value)>,
}

impl Window {
    /// All of a tensor.
    pub fn all(shape: &[usize]) -> Self {
        Self { shape: shape.into(), whole: shape.into(), starts: vec![] }
    }

    /// Elements between neighbours of the whole tensor along each dimension, row-major.
    fn strides(&self) -> Vec<usize> {
        let behind =
            |dim: usize| self.whole[dim + 1..].iter().fold(1usize, |n, &size| n.saturating_mul(size));
        (0..self.whole.len()).map(behind).collect()
    }
}

impl Builder {
    /// The key `u32[2]` of a stream of its own: `key` folded with a constant.
    pub fn fold_in(&mut self, key: Value, data: u32) -> Built {
        let data = self.constant(Literal::scalar(data))?;
        self.fold_in_value(key, data)
    }

    /// The key `u32[2]` of a stream of its own: `key` folded with a scalar `u32` (a layer index, a step).
    pub fn fold_in_value(&mut self, key: Value, data: Value) -> Built {
        let zero = self.scalar(DType::U32, 0.0)?;
        let (a, b) = self.threefry(key, zero, data)?;
        self.stack(&[a, b])
    }

    /// The key `u32[2]` of a stream of its own for the place that the current scope names.
    pub fn fold_in_scope(&mut self, key: Value) -> Built {
        let name = self.scope();
        self.fold_in(key, stream_of(&name))
    }

    /// Uniform bits `u32` of the window's shape: Threefry-2x32 of the row-major index of each element.
    pub fn random_bits(&mut self, key: Value, window: &Window) -> Built {
        let low = self.window_index(window, DType::U32)?;
        // Only tensors past 2^32 elements have a high word.
        let elements = window.whole.iter().fold(1usize, |n, &size| n.saturating_mul(size));
        let high = match elements > 1 << 32 {
            false => self.full_like(low, 0.0)?,
            true => {
                let index = self.window_index(window, DType::U64)?;
                let shift = self.full_like(index, 32.0)?;
                let high = self.shift_right(index, shift)?;
                self.convert(high, DType::U32)?
            }
        };
        let (a, b) = self.threefry(key, high, low)?;
        self.xor(a, b)
    }

    /// The index of each element in the whole tensor, in an unsigned type that may be too small: then its low word.
    fn window_index(&mut self, window: &Window, dtype: DType) -> Built {
        let ty = TensorType::new(dtype, window.shape.clone());
        let strides = window.strides();
        let mut index = self.zeros(&ty)?;
        for dim in (0..ty.rank()).rev() {
            let along = self.iota(ty.clone(), dim)?;
            let scaled = self.mul_stride(along, strides[dim])?;
            index = self.add(index, scaled)?;
        }
        for &(dim, start) in &window.starts {
            let start = self.convert(start, dtype)?;
            let scaled = self.mul_stride(start, strides[dim])?;
            let offset = self.splat(scaled, index)?;
            index = self.add(index, offset)?;
        }
        Ok(index)
    }

    fn mul_stride(&mut self, x: Value, stride: usize) -> Built {
        let factor = match self.dtype(x) {
            DType::U64 => self.constant(Literal::scalar(stride as u64))?,
            _ => self.constant(Literal::scalar((stride & 0xFFFF_FFFF) as u32))?,
        };
        self.scale(x, factor)
    }

    /// Threefry-2x32 with 20 rounds of the counter pair `(x0, x1)` under `key u32[2]`.
    fn threefry(&mut self, key: Value, x0: Value, x1: Value) -> Result<(Value, Value), BuildError> {
        let mut keys = vec![];
        for i in 0..2 {
            let k = self.slice_axis(key, 0, i, i + 1)?;
            let k = self.reshape(k, &[])?;
            keys.push(self.splat(k, x0)?);
        }
        let parity = self.constant(Literal::scalar(PARITY))?;
        let parity = self.splat(parity, x0)?;
        let mixed = self.xor(keys[0], keys[1])?;
        keys.push(self.xor(mixed, parity)?);
        let (mut a, mut b) = (self.add(x0, keys[0])?, self.add(x1, keys[1])?);
        for round in 0..5 {
            for distance in ROTATIONS[round % 2] {
                a = self.add(a, b)?;
                b = self.rotate_left(b, distance)?;
                b = self.xor(a, b)?;
            }
            a = self.add(a, keys[(round + 1) % 3])?;
            b = self.add(b, keys[(round + 2) % 3])?;
            b = self.add_scalar(b, (round + 1) as f64)?;
        }
        Ok((a, b))
    }

    fn rotate_left(&mut self, x: Value, distance: u32) -> Built {
        let left = self.full_like(x, f64::from(distance))?;
        let right = self.full_like(x, f64::from(32 - distance))?;
        let high = self.shift_left(x, left)?;
        let low = self.shift_right(x, right)?;
        self.or(high, low)
    }

    /// Uniform `f32` in [0, 1), 24 bits.
    pub fn random_uniform(&mut self, key: Value, window: &Window) -> Built {
        let bits = self.random_bits(key, window)?;
        let shift = self.full_like(bits, 8.0)?;
        let bits = self.shift_right(bits, shift)?;
        // Below 2^24 a signed conversion is exact and cheaper than an unsigned one.
        let bits = self.convert(bits, DType::S32)?;
        let uniform = self.convert(bits, DType::F32)?;
        self.mul_scalar(uniform, 1.0 / (1 << 24) as f64)
    }

    /// Standard normal numbers `f32` cut at two standard deviations (inverse of the distribution function).
    pub fn random_truncated_normal(&mut self, key: Value, window: &Window) -> Built {
        let uniform = self.random_uniform(key, window)?;
        // erf(2 / sqrt 2): the probability mass within two standard deviations.
        let mass = 0.954_499_736_103_641_6;
        let spread = self.mul_scalar(uniform, 2.0 * mass)?;
        let centred = self.add_scalar(spread, -mass)?;
        let inverse = self.erf_inv(centred)?;
        let normal = self.mul_scalar(inverse, std::f64::consts::SQRT_2)?;
        let (low, high) = (self.full_like(normal, -2.0)?, self.full_like(normal, 2.0)?);
        self.clamp(low, normal, high)
    }

    /// `1` with probability `keep`, else `0`: `pred`.
    pub fn random_keep(&mut self, key: Value, keep: f64, window: &Window) -> Built {
        let uniform = self.random_uniform(key, window)?;
        self.compare_scalar(Direction::Lt, uniform, keep)
    }

    /// The inverse error function for |x| < 0.99: a polynomial in `-log(1 - x^2)` (Giles, 2010, table 5, central part).
    fn erf_inv(&mut self, x: Value) -> Built {
        const COEFFICIENTS: [f64; 9] = [
            2.810_226_36e-8,
            3.432_739_39e-7,
            -3.523_387_7e-6,
            -4.391_506_54e-6,
            2.185_808_7e-4,
            -1.253_725_03e-3,
            -4.177_681_64e-3,
            0.246_640_727,
            1.501_409_41,
        ];
        let square = self.square(x)?;
        let minus = self.neg(square)?;
        let log = self.log1p(minus)?;
        let w = self.neg(log)?;
        let w = self.add_scalar(w, -2.5)?;
        let mut sum = self.full_like(w, 0.0)?;
        for coefficient in COEFFICIENTS {
            let scaled = self.mul(sum, w)?;
            sum = self.add_scalar(scaled, coefficient)?;
        }
        self.mul(sum, x)
    }
}
