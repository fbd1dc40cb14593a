//! Sparse layers: which blocks, how tokens choose experts, how many an expert takes.

use serde::{Deserialize, Serialize};

/// The sparse layers of both stacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoeConfig {
    /// Experts per sparse layer; 0 makes every block dense.
    pub num_experts: usize,
    /// One block in this many is sparse.
    pub every: usize,
    /// Position of the sparse block in each run of `every`; the last one by default.
    pub offset: Option<usize>,
    /// How tokens choose experts.
    pub router: Router,
    /// How many tokens an expert takes from a group.
    pub capacity: Capacity,
    /// Tokens that compete for the same capacity.
    pub group: Group,
    /// How tokens move to expert slots; all forms give the same numbers.
    pub dispatch: Dispatch,
    /// Dropout rate on the hidden activation of experts in training.
    pub expert_dropout: f64,
    /// Weight of the mean load-balancing loss in the total (paper: alpha, equation 4).
    pub load_balancing_coef: f64,
    /// Weight of the mean squared `logsumexp` of router logits.
    pub z_loss_coef: f64,
    /// Hidden width of one expert; `model.d_ff` by default.
    pub d_ff: Option<usize>,
}

impl Default for MoeConfig {
    fn default() -> Self {
        Self {
            num_experts: 0,
            every: 2,
            offset: None,
            router: Router::default(),
            capacity: Capacity::default(),
            group: Group::Batch,
            dispatch: Dispatch::Gather,
            expert_dropout: 0.0,
            load_balancing_coef: 1e-2,
            z_loss_coef: 0.0,
            d_ff: None,
        }
    }
}

/// How tokens choose experts. The router itself is always float32.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Router {
    /// Top-1 of the softmax; the gate is the chosen probability (Switch Transformer, section 2.1).
    Switch {
        /// Noise of the choice while training.
        #[serde(default)]
        exploration: Exploration,
    },
}

impl Default for Router {
    fn default() -> Self {
        Router::Switch { exploration: Exploration::default() }
    }
}

impl Router {
    /// Experts that each token chooses.
    pub fn experts_per_token(&self) -> usize {
        match self {
            Router::Switch { .. } => 1,
        }
    }
}

/// Noise in the router while training; evaluation has none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Exploration {
    /// No noise.
    Argmax,
    /// The router's input is multiplied by `uniform(1 - epsilon, 1 + epsilon)`; the experts' is not.
    InputJitter {
        /// Half the width of the interval.
        #[serde(default = "default_jitter")]
        epsilon: f64,
    },
}

fn default_jitter() -> f64 {
    1e-2
}

impl Default for Exploration {
    fn default() -> Self {
        Exploration::InputJitter { epsilon: default_jitter() }
    }
}

/// Slots of one expert for one group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capacity {
    /// Slots over the even share, in training.
    pub train_factor: f64,
    /// Slots over the even share, in evaluation.
    pub eval_factor: f64,
    /// How `factor * tokens / experts` becomes whole.
    pub rounding: Rounding,
    /// Fewest slots.
    pub minimum: usize,
    /// Slots are rounded up to a multiple of this (8 or 128 fills TPU tiles).
    pub multiple: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { train_factor: 1.25, eval_factor: 2.0, rounding: Rounding::Floor, minimum: 4, multiple: 1 }
    }
}

/// How a capacity becomes whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Down (Mesh TensorFlow).
    Floor,
    /// Up.
    Ceil,
    /// To the nearest, halves to even (flaxformer).
    NearestEven,
}

/// Tokens that compete for the same capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// All tokens of a microbatch.
    Batch,
    /// Each sequence for itself.
    Sequence,
    /// At most so many tokens.
    Tokens(usize),
}

/// How tokens move to expert slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dispatch {
    /// Products with masks `[groups, tokens, experts, capacity]` (the paper's form).
    Einsum,
    /// Row moves by index tables `[groups, experts, capacity]`.
    Gather,
}

/// How the tokens of a batch fall into groups: `num_groups * tokens_per_group` is their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// G.
    pub num_groups: usize,
    /// S.
    pub tokens_per_group: usize,
}

impl MoeConfig {
    /// Whether block `layer` (from 0) of a stack is sparse.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.num_experts > 0 && layer.checked_rem(self.every) == Some(self.sparse_offset())
    }

    /// Position of the sparse block in each run of `every`.
    pub fn sparse_offset(&self) -> usize {
        self.offset.unwrap_or(self.every.saturating_sub(1))
    }

    /// Slots per expert and group: `factor * tokens_per_group / num_experts`, rounded by the rule, raised to the
    /// minimum, then to the multiple; never above `tokens_per_group` (which no expert can exceed), never 0.
    ///
    /// Computed in float64 in this order, as Mesh TensorFlow and flaxformer do.
    /// Source: Switch Transformer, section 2.2, equation 3.
    pub fn capacity_for(&self, tokens_per_group: usize, train: bool) -> usize {
        let rule = &self.capacity;
        let factor = if train { rule.train_factor } else { rule.eval_factor };
        let share = factor * tokens_per_group as f64 / self.num_experts as f64;
        let whole = match rule.rounding {
            Rounding::Floor => share.floor(),
            Rounding::Ceil => share.ceil(),
            Rounding::NearestEven => share.round_ties_even(),
        };
        // The cast saturates: an infinite share (no experts) is cut to the group below.
        let slots = (whole as usize).max(rule.minimum);
        let padded = slots.checked_next_multiple_of(rule.multiple.max(1)).unwrap_or(usize::MAX);
        padded.min(tokens_per_group).max(1)
    }

    /// Groups of a microbatch of `sequences` rows of `length` tokens; see [`Group::split`].
    pub fn groups(&self, sequences: usize, length: usize) -> Groups {
        self.group.split(sequences, length)
    }
}

impl Group {
    /// Splits `sequences * length` tokens, in row order, into groups of equal size.
    ///
    /// `Tokens(n)` gives the smallest number of groups that divides the tokens evenly with at most `n` in each,
    /// so a group can be smaller than `n` and can hold parts of sequences.
    pub fn split(self, sequences: usize, length: usize) -> Groups {
        let tokens = sequences.saturating_mul(length);
        match self {
            Group::Batch => Groups { num_groups: 1, tokens_per_group: tokens },
            Group::Sequence => Groups { num_groups: sequences, tokens_per_group: length },
            Group::Tokens(limit) => {
                let size = largest_divisor_up_to(tokens, limit);
                Groups { num_groups: tokens.checked_div(size).unwrap_or(0), tokens_per_group: size }
            }
        }
    }
}

/// The largest divisor of `number` that is at most `limit` (at least 1); 0 for the number 0.
fn largest_divisor_up_to(number: usize, limit: usize) -> usize {
    let limit = limit.max(1);
    if number <= limit {
        return number;
    }
    let mut best = 1;
    // Divisors come in pairs (small, number / small): stepping to the root finds all.
    for small in (1..=number.isqrt()).filter(|small| number.is_multiple_of(*small)) {
        let candidates = [small, number / small];
        best = candidates.into_iter().filter(|divisor| *divisor <= limit).fold(best, usize::max);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(tokens: usize, experts: usize, factor: f64, rounding: Rounding, minimum: usize) -> usize {
        let capacity = Capacity { train_factor: factor, rounding, minimum, ..Capacity::default() };
        let moe = MoeConfig { num_experts: experts, capacity, ..MoeConfig::default() };
        moe.capacity_for(tokens, true)
    }

    #[test]
    fn capacities_are_those_of_mesh_tensorflow_and_flaxformer() {
        // (tokens, experts, factor) -> floor / half to even, before their minimum of 4.
        let cases = [
            (8192, 128, 1.25, 80, 80),
            (100, 8, 1.25, 15, 16), // 15.625
            (14, 4, 1.0, 3, 4),     // 3.5
            (10, 4, 1.0, 2, 2),     // 2.5
            (64, 64, 1.25, 1, 1),   // 1.25
        ];
        for (tokens, experts, factor, floor, even) in cases {
            assert_eq!(capacity(tokens, experts, factor, Rounding::Floor, 1), floor);
            assert_eq!(capacity(tokens, experts, factor, Rounding::NearestEven, 1), even);
        }
        assert_eq!(capacity(64, 64, 1.25, Rounding::Floor, 4), 4);
        assert_eq!(capacity(10, 4, 1.0, Rounding::Ceil, 1), 3);
        assert_eq!(capacity(8, 4, 1.0, Rounding::Ceil, 1), 2);
    }

    #[test]
    fn evaluation_has_its_own_factor() {
        let moe = MoeConfig { num_experts: 4, ..MoeConfig::default() };
        // 1.25 * 64 / 4 = 20, 2 * 64 / 4 = 32.
        assert_eq!((moe.capacity_for(64, true), moe.capacity_for(64, false)), (20, 32));
    }

    #[test]
    fn capacity_is_raised_to_the_multiple_then_cut_to_the_group_and_is_never_zero() {
        let rule = Capacity { train_factor: 1.0, multiple: 8, minimum: 1, ..Capacity::default() };
        let moe = MoeConfig { num_experts: 4, capacity: rule, ..MoeConfig::default() };
        assert_eq!(moe.capacity_for(32, true), 8);
        assert_eq!(moe.capacity_for(36, true), 16); // 9 -> 16
        assert_eq!(moe.capacity_for(5, true), 5); // 1 -> 8 -> 5 tokens
        assert_eq!(moe.capacity_for(0, true), 1);
    }

    #[test]
    fn absurd_numbers_give_a_capacity_within_the_group() {
        for factor in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            for (tokens, experts) in [(0, 0), (7, 0), (7, usize::MAX), (usize::MAX, 1)] {
                let found = capacity(tokens, experts, factor, Rounding::Ceil, 1);
                assert!((1..=tokens.max(1)).contains(&found));
            }
        }
    }

    #[test]
    fn groups_of_tokens_are_the_fewest_that_divide_evenly() {
        let split = |limit, sequences, length| {
            let groups = Group::Tokens(limit).split(sequences, length);
            (groups.num_groups, groups.tokens_per_group)
        };
        assert_eq!(split(8192, 16, 512), (1, 8192));
        assert_eq!(split(8192, 16, 114), (1, 1824));
        assert_eq!(split(4, 2, 5), (5, 2)); // 10 tokens: 3 groups do not divide, 5 of 2 do
        assert_eq!(split(5, 2, 5), (2, 5));
        assert_eq!(split(3, 1, 7), (7, 1)); // a prime number
        assert_eq!(split(6, 6, 6), (6, 6)); // the root itself
        assert_eq!(split(1, 3, 3), (9, 1));
        assert_eq!(split(0, 1, 2), (2, 1));
        assert_eq!(split(4, 0, 5), (0, 0));
    }

    #[test]
    fn batches_and_sequences_are_groups() {
        assert_eq!(Group::Batch.split(3, 5), Groups { num_groups: 1, tokens_per_group: 15 });
        assert_eq!(Group::Sequence.split(3, 5), Groups { num_groups: 3, tokens_per_group: 5 });
    }

    #[test]
    fn the_last_block_of_each_run_is_sparse_unless_told_otherwise() {
        let sparse = |moe: &MoeConfig| (0..6).filter(|layer| moe.is_sparse(*layer)).collect::<Vec<_>>();
        let moe = MoeConfig { num_experts: 2, ..MoeConfig::default() };
        assert_eq!(sparse(&moe), [1, 3, 5]);
        assert_eq!(sparse(&MoeConfig { offset: Some(0), every: 3, ..moe.clone() }), [0, 3]);
        assert_eq!(sparse(&MoeConfig { every: 1, ..moe.clone() }), [0, 1, 2, 3, 4, 5]);
        assert_eq!(sparse(&MoeConfig { num_experts: 0, ..moe.clone() }), [0_usize; 0]);
        assert_eq!(sparse(&MoeConfig { every: 0, ..moe }), [0_usize; 0]);
    }
}
