//! How many tokens an expert takes, and from which group of tokens.

use serde::{Deserialize, Serialize};

/// Slots of one expert for one group; never more than the group has tokens, which no expert can exceed, and never 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Capacity {
    /// A multiple of the even share `tokens_per_group / num_experts`.
    Factor {
        /// Slots over the even share, in training.
        #[serde(default = "default_train_factor")]
        train_factor: f64,
        /// Slots over the even share, in evaluation.
        #[serde(default = "default_eval_factor")]
        eval_factor: f64,
        /// How `factor * tokens_per_group / num_experts` becomes whole.
        #[serde(default)]
        rounding: Rounding,
        /// Fewest slots.
        #[serde(default = "default_minimum")]
        minimum: usize,
        /// Slots are rounded up to a multiple of this (8 or 128 fills TPU tiles).
        #[serde(default = "one")]
        multiple: usize,
    },
    /// So many slots, whatever the group (Hugging Face, whose groups are sequences).
    Absolute {
        /// Slots in training.
        #[serde(default = "default_slots")]
        train: usize,
        /// Slots in evaluation.
        #[serde(default = "default_slots")]
        eval: usize,
        /// Slots are rounded up to a multiple of this.
        #[serde(default = "one")]
        multiple: usize,
    },
    /// As many slots as the group has tokens: the static worst case, in which nothing is dropped.
    Dropless {},
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity::KINDS[0]
    }
}

/// What a capacity rule comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// What the rule asks for, before it is rounded up to the multiple.
    pub asked: usize,
    /// Slots per expert and group.
    pub capacity: usize,
}

impl Capacity {
    /// One value of each kind, with its defaults; the first is the default capacity.
    pub const KINDS: [Capacity; 3] = [
        Capacity::Factor {
            train_factor: 1.25,
            eval_factor: 2.0,
            rounding: Rounding::Floor,
            minimum: 4,
            multiple: 1,
        },
        Capacity::Absolute { train: 64, eval: 64, multiple: 1 },
        Capacity::Dropless {},
    ];

    /// The slots of one of `experts` for a group of `tokens`: the rule's number, raised to the minimum, then to the multiple,
    /// cut to the tokens.
    ///
    /// Computed in float64 in this order, as Mesh TensorFlow and flaxformer do.
    /// Source: Switch Transformer, section 2.2, equation 3.
    pub fn slots(&self, tokens: usize, experts: usize, train: bool) -> Slots {
        let (slots, multiple) = match *self {
            Capacity::Factor { train_factor, eval_factor, rounding, minimum, multiple } => {
                let factor = if train { train_factor } else { eval_factor };
                let share = rounding.apply(factor * tokens as f64 / experts as f64);
                // The cast saturates: an infinite share (no experts) is cut to the group below.
                ((share as usize).max(minimum), multiple)
            }
            Capacity::Absolute { train: slots, multiple, .. } if train => (slots, multiple),
            Capacity::Absolute { eval: slots, multiple, .. } => (slots, multiple),
            Capacity::Dropless {} => (tokens, 1),
        };
        let padded = slots.checked_next_multiple_of(multiple.max(1)).unwrap_or(usize::MAX);
        let within = |slots: usize| slots.min(tokens).max(1);
        Slots { asked: within(slots), capacity: within(padded) }
    }

    /// The field that decides on the slots.
    pub(super) fn path(&self, train: bool) -> &'static str {
        match self {
            Capacity::Factor { .. } if train => "model.moe.capacity.train_factor",
            Capacity::Factor { .. } => "model.moe.capacity.eval_factor",
            Capacity::Absolute { .. } if train => "model.moe.capacity.train",
            Capacity::Absolute { .. } => "model.moe.capacity.eval",
            Capacity::Dropless {} => "model.moe.capacity.kind",
        }
    }
}

fn one() -> usize {
    1
}

fn default_train_factor() -> f64 {
    1.25
}

fn default_eval_factor() -> f64 {
    2.0
}

fn default_minimum() -> usize {
    4
}

fn default_slots() -> usize {
    64
}

/// How a capacity becomes whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Down (Mesh TensorFlow).
    #[default]
    Floor,
    /// Up.
    Ceil,
    /// To the nearest, halves to even (flaxformer).
    NearestEven,
}

impl Rounding {
    fn apply(self, share: f64) -> f64 {
        match self {
            Rounding::Floor => share.floor(),
            Rounding::Ceil => share.ceil(),
            Rounding::NearestEven => share.round_ties_even(),
        }
    }
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

/// How the tokens of a batch fall into groups: `num_groups * tokens_per_group` is their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// G.
    pub num_groups: usize,
    /// S.
    pub tokens_per_group: usize,
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

    fn factor(train_factor: f64, rounding: Rounding, minimum: usize, multiple: usize) -> Capacity {
        Capacity::Factor { train_factor, eval_factor: 2.0, rounding, minimum, multiple }
    }

    fn capacity(
        tokens: usize,
        experts: usize,
        train_factor: f64,
        rounding: Rounding,
        minimum: usize,
    ) -> usize {
        factor(train_factor, rounding, minimum, 1).slots(tokens, experts, true).capacity
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
    fn evaluation_has_its_own_factor_and_its_own_number() {
        // 1.25 * 64 / 4 = 20, 2 * 64 / 4 = 32.
        let both = |rule: Capacity| [true, false].map(|train| rule.slots(64, 4, train).capacity);
        assert_eq!(both(Capacity::default()), [20, 32]);
        assert_eq!(both(Capacity::Absolute { train: 3, eval: 7, multiple: 1 }), [3, 7]);
    }

    #[test]
    fn capacity_is_raised_to_the_multiple_then_cut_to_the_group_and_is_never_zero() {
        let rule = factor(1.0, Rounding::Floor, 1, 8);
        let slots = |tokens: usize| rule.slots(tokens, 4, true);
        assert_eq!(slots(32), Slots { asked: 8, capacity: 8 });
        assert_eq!(slots(36), Slots { asked: 9, capacity: 16 });
        assert_eq!(slots(5), Slots { asked: 1, capacity: 5 }); // 1 -> 8 -> 5 tokens
        assert_eq!(slots(0), Slots { asked: 1, capacity: 1 });
    }

    #[test]
    fn an_absolute_capacity_is_cut_to_the_group_and_a_dropless_one_is_the_group() {
        let absolute = Capacity::Absolute { train: 64, eval: 10, multiple: 8 };
        assert_eq!(absolute.slots(100, 7, false), Slots { asked: 10, capacity: 16 });
        assert_eq!(absolute.slots(6, 7, true), Slots { asked: 6, capacity: 6 });
        assert_eq!(Capacity::Dropless {}.slots(100, 7, true), Slots { asked: 100, capacity: 100 });
    }

    #[test]
    fn maxtext_counts_the_choices_which_a_factor_times_k_does_here() {
        // ceil(100 * 2 / 8) = 25 slots for two choices of 100 tokens among 8 experts.
        assert_eq!(capacity(100, 8, 2.0, Rounding::Ceil, 1), 25);
    }

    #[test]
    fn a_kind_alone_has_the_defaults_that_are_listed() {
        for rule in Capacity::KINDS {
            let kind = serde_json::to_value(rule).unwrap()["kind"].clone();
            let read: Capacity = serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
            assert_eq!(read, rule);
        }
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
}
