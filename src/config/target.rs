//! The compiler that a graph is shaped for.

use super::Remat;
use serde::{Deserialize, Serialize};

/// Blocks of both stacks of a base-size model: as many as are written out for TPUs.
const MOST_UNROLLED_ON_TPUS: usize = 24;

/// As many blocks as XLA's CPU compiler takes no longer for than for the loops of more.
const MOST_UNROLLED_ON_CPUS: usize = 12;

/// Squares that a product sums no slower than a loop: by libtpu's cycles for v5p, where the kernels beside the product take what it saves of smaller
/// tensors. v5e gains with half of them.
const MANY_SQUARES: usize = 1 << 21;

/// Whose XLA compiler gets the graph. Every target's graph runs everywhere and computes the same, but for the rounding of
/// operands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    #[default]
    Cpu,
    Gpu,
    Tpu,
}

impl Target {
    /// As a setting of the field `target`.
    pub fn setting(self) -> String {
        let name = match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Tpu => "tpu",
        };
        format!("target={name}")
    }

    /// Whether products that sum over neighbouring dimensions are to sum over one.
    ///
    /// XLA's CPU back end knows products over one dimension alone, and transposes operands to get there. TPUs take several as they
    /// lie; joined, the gradients of heads would be transposed to be joined.
    pub fn joins_contractions(self) -> bool {
        self != Self::Tpu
    }

    /// Whether so many blocks are to be written out one by one, rather than run by loops over stacked weights, where the configuration
    /// does not say.
    ///
    /// In loops TPUs copy and convert whole stacks: by libtpu's cycles a step takes 1.4 to 1.9 times as long. CPUs copy rows of stacks, a tenth of
    /// a step. What compilers need for blocks that are written out grows with their number. XLA's CPU compiler computes nothing again
    /// that is not in a loop, so where memory is to be saved there blocks stay in one.
    pub fn unrolls(self, blocks: usize, remat: Remat) -> bool {
        match self {
            Self::Cpu => blocks <= MOST_UNROLLED_ON_CPUS && remat == Remat::None,
            Self::Gpu => false,
            Self::Tpu => blocks <= MOST_UNROLLED_ON_TPUS,
        }
    }

    /// Whether the mean square of a parameter, which Adafactor needs, is left by the update before.
    ///
    /// By libtpu's cycles the sum costs an update nothing, and a pass of its own two thirds of an update. XLA's CPU compiler does not make one
    /// loop of both; CUDA's was not asked.
    pub fn keeps_mean_squares(self) -> bool {
        self == Self::Tpu
    }

    /// Whether sums of two tensors are to be one pass.
    ///
    /// By libtpu's cycles a pass that sums one tensor takes two thirds of one that sums two. Other compilers were not asked.
    pub fn sums_together(self) -> bool {
        self == Self::Tpu
    }

    /// Whether a weighted sum of so many squares is to be a matrix product, which rounds them to bfloat16 as it does the operands of the model's products.
    ///
    /// By libtpu's cycles the product takes 0.7 of the time of a sum on v5p, from memory, and 0.06 on v5e, from beside the arithmetic.
    pub fn multiplies_squares(self, count: usize) -> bool {
        self == Self::Tpu && count >= MANY_SQUARES
    }

    /// Whether matrix products round float32 operands to bfloat16. What products alone read may be kept in it: they read the same.
    pub fn rounds_operands(self) -> bool {
        self == Self::Tpu
    }

    /// Whether a long sum is to be two short ones.
    ///
    /// XLA's CPU back end sums more than some terms along a dimension by a tree, before which it writes the terms down; a shorter
    /// sum is one loop with what makes its terms. Other back ends sum where they make the terms, and lose by the second pass.
    pub fn splits_long_sums(self) -> bool {
        self == Self::Cpu
    }
}
