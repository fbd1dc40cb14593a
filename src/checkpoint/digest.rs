//! The digest of a state: equal if and only if names, types, order and every bit are equal.

use crate::ir::TensorType;
use sha2::{Digest, Sha256};

/// Collects the digest of a state, tensor by tensor.
///
/// It is the SHA-256 of all (name, type, SHA-256 of the bytes) in the order of the state, each text ended by a zero byte.
/// Digesting the bytes apart lets a file hold its tensors in another order than the state does.
#[derive(Clone, Debug, Default)]
pub struct StateDigest {
    outer: Sha256,
}

impl StateDigest {
    /// Adds the next tensor with its little-endian, row-major bytes.
    pub fn add(&mut self, name: &str, ty: &TensorType, bytes: &[u8]) {
        self.add_hashed(name, ty, bytes_digest(bytes));
    }

    pub(super) fn add_hashed(&mut self, name: &str, ty: &TensorType, bytes: [u8; 32]) {
        self.outer.update(name);
        self.outer.update([0]);
        self.outer.update(ty.to_string());
        self.outer.update([0]);
        self.outer.update(bytes);
    }

    /// The digest in 64 lower-case hexadecimal digits.
    pub fn finish(self) -> String {
        self.outer.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The digest of a state given as (name, type, bytes): what a checkpoint of it records.
pub fn digest<'a>(state: impl IntoIterator<Item = (&'a str, &'a TensorType, &'a [u8])>) -> String {
    let mut digest = StateDigest::default();
    for (name, ty, bytes) in state {
        digest.add(name, ty, bytes);
    }
    digest.finish()
}

pub(super) fn bytes_digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Literal};

    fn of(name: &str, value: &Literal) -> String {
        digest([(name, value.ty(), value.bytes())])
    }

    #[test]
    fn name_type_and_bytes_each_change_the_digest() {
        let value = Literal::new(vec![2], &[1.0f32, 2.0]).unwrap();
        let reshaped = Literal::new(vec![2, 1], &[1.0f32, 2.0]).unwrap();
        let other = Literal::new(vec![2], &[1.0f32, 2.5]).unwrap();
        let base = of("w", &value);
        assert_eq!(base.len(), 64);
        for changed in [of("v", &value), of("w", &reshaped), of("w", &other)] {
            assert_ne!(base, changed);
        }
        assert_eq!(base, of("w", &value.clone()));
    }

    #[test]
    fn an_empty_state_has_the_digest_of_no_bytes() {
        let sha256_of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest([]), sha256_of_nothing);
    }

    #[test]
    fn the_digest_of_one_tensor_is_as_documented() {
        let value = Literal::zeros(TensorType::new(DType::U8, [3]));
        let mut all = b"w\0u8[3]\0".to_vec();
        all.extend(Sha256::digest([0u8; 3]));
        let expected: String = Sha256::digest(all).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(of("w", &value), expected);
    }
}
