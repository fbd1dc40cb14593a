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
