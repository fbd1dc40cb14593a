//! Counter-based random numbers: every element is a function of a key and its own index, so values depend neither on the
//! order of execution nor on how a tensor is divided among devices.

use super::{BuildError, Builder};
use crate::ir::*;

type Built = Result<Value, BuildError>;

/// Rotation distances of Threefry-2x32 (Salmon et al., 2011, table 2).
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
const PARITY: u32 = 0x1BD1_1BDA;

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
        // FNV-1a: a stable number for a name.
        let hash = name.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        self.fold_in(key, hash)
    }

    /// Uniform bits `u32[shape]`: Threefry-2x32 of the row-major index of each element.
    pub fn random_bits(&mut self, key: Value, shape: &[usize]) -> Built {
        let ty = TensorType::new(DType::U32, shape);
        let mut low = self.zeros(&ty)?;
        let mut stride = 1usize;
        for dim in (0..shape.len()).rev() {
            let index = self.iota(ty.clone(), dim)?;
            let scaled = self.mul_u32(index, (stride & 0xFFFF_FFFF) as u32)?;
            low = self.add(low, scaled)?;
            stride = stride.saturating_mul(shape[dim]);
        }
        // Tensors past 2^32 elements get the high word from the leading axes, which alone can overflow the low one.
        let high = self.high_word(&ty, stride)?;
        let (a, b) = self.threefry(key, high, low)?;
        self.xor(a, b)
    }

    fn high_word(&mut self, ty: &TensorType, elements: usize) -> Built {
        if elements <= 1 << 32 {
            return self.zeros(ty);
        }
        let wide = ty.with_dtype(DType::U64);
        let mut sum = self.zeros(&wide)?;
        let mut stride = 1u64;
        for dim in (0..ty.rank()).rev() {
            let index = self.iota(wide.clone(), dim)?;
            let factor = self.constant(Literal::scalar(stride))?;
            let scaled = self.scale(index, factor)?;
            sum = self.add(sum, scaled)?;
            stride = stride.saturating_mul(ty.shape[dim] as u64);
        }
        let shift = self.full(&wide, 32.0)?;
        let high = self.shift_right(sum, shift)?;
        self.convert(high, DType::U32)
    }

    fn mul_u32(&mut self, x: Value, factor: u32) -> Built {
        let factor = self.constant(Literal::scalar(factor))?;
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

    /// Uniform `f32[shape]` in [0, 1), 24 bits.
    pub fn random_uniform(&mut self, key: Value, shape: &[usize]) -> Built {
        let bits = self.random_bits(key, shape)?;
        let shift = self.full_like(bits, 8.0)?;
        let bits = self.shift_right(bits, shift)?;
        // Below 2^24 a signed conversion is exact and cheaper than an unsigned one.
        let bits = self.convert(bits, DType::S32)?;
        let uniform = self.convert(bits, DType::F32)?;
        self.mul_scalar(uniform, 1.0 / (1 << 24) as f64)
    }

    /// Standard normal numbers cut at two standard deviations: `f32[shape]` (inverse of the distribution function).
    pub fn random_truncated_normal(&mut self, key: Value, shape: &[usize]) -> Built {
        let uniform = self.random_uniform(key, shape)?;
        // erf(2 / sqrt 2): the probability mass within two standard deviations.
        let mass = 0.954_499_736_103_641_6;
        let spread = self.mul_scalar(uniform, 2.0 * mass)?;
        let centred = self.add_scalar(spread, -mass)?;
        let inverse = self.erf_inv(centred)?;
        let normal = self.mul_scalar(inverse, std::f64::consts::SQRT_2)?;
        let (low, high) = (self.full_like(normal, -2.0)?, self.full_like(normal, 2.0)?);
        self.clamp(low, normal, high)
    }

    /// `1` with probability `keep`, else `0`: `pred[shape]`.
    pub fn random_keep(&mut self, key: Value, keep: f64, shape: &[usize]) -> Built {
        let uniform = self.random_uniform(key, shape)?;
        self.compare_scalar(Direction::Lt, uniform, keep)
    }

    /// The inverse error function for |x| < 0.99 or so: two Newton steps on a closed-form start (Winitzki, 2008).
    fn erf_inv(&mut self, x: Value) -> Built {
        let a = 0.147;
        let xx = self.square(x)?;
        let minus = self.neg(xx)?;
        let ln = self.log1p(minus)?;
        let half = self.mul_scalar(ln, 0.5)?;
        let t = self.add_scalar(half, 2.0 / (std::f64::consts::PI * a))?;
        let tt = self.square(t)?;
        let scaled = self.mul_scalar(ln, 1.0 / a)?;
        let inner = self.sub(tt, scaled)?;
        let root = self.sqrt(inner)?;
        let outer = self.sub(root, t)?;
        let outer = self.sqrt(outer)?;
        let sign = self.sign(x)?;
        let mut y = self.mul(sign, outer)?;
        for _ in 0..2 {
            let erf = self.erf(y)?;
            let error = self.sub(erf, x)?;
            let yy = self.square(y)?;
            let grow = self.exp(yy)?;
            let step = self.mul(error, grow)?;
            let step = self.mul_scalar(step, std::f64::consts::PI.sqrt() / 2.0)?;
            y = self.sub(y, step)?;
        }
        Ok(y)
    }
}
