//! Element types, static shapes and host values.

use std::fmt;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    Pred,
    S8,
    S32,
    S64,
    U8,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

/// What kind of arithmetic a [`DType`] takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    Bool,
    Signed,
    Unsigned,
    Float,
}

/// One row per element type: name in HLO text, bytes, domain.
const DTYPES: [(DType, &str, usize, Domain); 11] = [
    (DType::Pred, "pred", 1, Domain::Bool),
    (DType::S8, "s8", 1, Domain::Signed),
    (DType::S32, "s32", 4, Domain::Signed),
    (DType::S64, "s64", 8, Domain::Signed),
    (DType::U8, "u8", 1, Domain::Unsigned),
    (DType::U32, "u32", 4, Domain::Unsigned),
    (DType::U64, "u64", 8, Domain::Unsigned),
    (DType::F16, "f16", 2, Domain::Float),
    (DType::Bf16, "bf16", 2, Domain::Float),
    (DType::F32, "f32", 4, Domain::Float),
    (DType::F64, "f64", 8, Domain::Float),
];

impl DType {
    /// All element types.
    pub const ALL: [DType; 11] = {
        let mut all = [DType::Pred; 11];
        let mut i = 0;
        while i < 11 {
            all[i] = DTYPES[i].0;
            i += 1;
        }
        all
    };

    /// The name in HLO text, such as `bf16`.
    pub fn name(self) -> &'static str {
        DTYPES[self as usize].1
    }

    /// The element type of this HLO name, if there is one.
    pub fn from_name(name: &str) -> Option<DType> {
        DTYPES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The size of one element in bytes.
    pub fn size_bytes(self) -> usize {
        DTYPES[self as usize].2
    }

    /// The kind of arithmetic this type takes part in.
    pub fn domain(self) -> Domain {
        DTYPES[self as usize].3
    }

    /// Whether gradients flow through values of this type.
    pub fn is_float(self) -> bool {
        self.domain() == Domain::Float
    }

    /// Whether this is a signed or unsigned integer (not `pred`).
    pub fn is_integer(self) -> bool {
        matches!(self.domain(), Domain::Signed | Domain::Unsigned)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Element type and static shape of a value; printed as in HLO: `f32[8,128]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl TensorType {
    /// The type of a tensor with this element type and shape.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// The type of a scalar.
    pub fn scalar(dtype: DType) -> Self {
        Self::new(dtype, [])
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements, or `None` where it overflows.
    pub fn checked_elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }

    /// Number of elements; saturates where it overflows (types in a graph never do: inference refuses them).
    pub fn elements(&self) -> usize {
        self.checked_elements().unwrap_or(usize::MAX)
    }

    /// Size of the dense value in bytes.
    pub fn size_bytes(&self) -> usize {
        self.elements().saturating_mul(self.dtype.size_bytes())
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}
