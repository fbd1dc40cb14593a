//! How tokens choose experts, or experts tokens.

use serde::{Deserialize, Serialize};

/// Which experts a token goes to, and with what weight. The router itself is always float32.
///
/// `docs/routing.md` has the formulas beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Router {
    /// Top-1 of the softmax; the gate is the chosen probability (Switch Transformer, section 2.1).
    Switch {
        /// Noise of the choice while training.
        #[serde(default)]
        exploration: Exploration,
        /// Which tokens take slots first.
        #[serde(default)]
        priority: Priority,
    },
    /// Top-k of the softmax; gates are the chosen probabilities as they are (flaxformer).
    TopK {
        /// Experts per token.
        #[serde(default = "two")]
        k: usize,
        /// Noise of the choice while training.
        #[serde(default = "no_noise")]
        exploration: Exploration,
        /// Which tokens take slots first.
        #[serde(default)]
        priority: Priority,
        /// Whether first choices of all tokens come before second ones.
        #[serde(default)]
        placement: Placement,
    },
    /// Top-2 whose gates add up to one before any choice is dropped (GShard; the MoE baseline of Switch Transformer).
    Gshard {
        /// When a token takes up its second expert in training.
        #[serde(default)]
        second: Second,
        /// The same in evaluation; as in training by default, but always taken where that is random.
        #[serde(default)]
        second_eval: Option<Second>,
        /// Noise of the choice while training.
        #[serde(default = "no_noise")]
        exploration: Exploration,
        /// Which tokens take slots first.
        #[serde(default)]
        priority: Priority,
    },
    /// Each expert takes the tokens that give it the highest probabilities until it is full (Zhou et al., 2022).
    /// Not causal: which tokens are taken hangs on later ones.
    ExpertChoice {},
    /// As `switch`, but a token whose expert is full tries its next choices (Switch Transformer, appendix B).
    NoTokenLeftBehind {
        /// Choices that a token tries.
        #[serde(default = "four")]
        rounds: usize,
        /// Noise of the choice while training.
        #[serde(default = "no_noise")]
        exploration: Exploration,
        /// Which tokens take slots first.
        #[serde(default)]
        priority: Priority,
    },
    /// Top-k of the logits; gates are the softmax over the k chosen logits (Mixtral).
    Mixtral {
        /// Experts per token.
        #[serde(default = "two")]
        k: usize,
        /// Noise of the choice while training.
        #[serde(default = "no_noise")]
        exploration: Exploration,
        /// Which tokens take slots first.
        #[serde(default)]
        priority: Priority,
        /// Whether first choices of all tokens come before second ones.
        #[serde(default)]
        placement: Placement,
    },
    /// Top-k of sigmoid scores plus a bias that balances the load without a loss (DeepSeek-V3, section 2.1.2).
    DeepseekV3 {
        /// Experts per token.
        #[serde(default = "eight")]
        k: usize,
        /// Groups that the experts are divided into; 1 for none.
        #[serde(default = "one")]
        n_routing_groups: usize,
        /// Groups from which a token chooses: those with the greatest sum of their two best scores.
        #[serde(default = "one")]
        topk_routing_group: usize,
        /// Whether the chosen scores are divided by their sum.
        #[serde(default = "yes")]
        norm_topk_prob: bool,
        /// Factor of the gates.
        #[serde(default = "default_scaling")]
        routed_scaling_factor: f64,
        /// By how much a step moves the bias of each expert towards the mean load.
        #[serde(default = "default_bias_rate")]
        routed_bias_update_rate: f64,
        /// Which tokens take slots first.
        #[serde(default)]
        priority: Priority,
        /// Whether first choices of all tokens come before second ones.
        #[serde(default)]
        placement: Placement,
    },
}

impl Default for Router {
    fn default() -> Self {
        Router::Switch { exploration: Exploration::default(), priority: Priority::default() }
    }
}

impl Router {
    /// One value of each kind, with its defaults; the first is the default router.
    pub const KINDS: [Router; 7] = [
        Router::Switch { exploration: Exploration::JITTER, priority: Priority::Position },
        Router::TopK {
            k: 2,
            exploration: Exploration::Argmax,
            priority: Priority::Position,
            placement: Placement::ChoiceMajor,
        },
        Router::Gshard {
            second: Second::RANDOM,
            second_eval: None,
            exploration: Exploration::Argmax,
            priority: Priority::Position,
        },
        Router::ExpertChoice {},
        Router::NoTokenLeftBehind {
            rounds: 4,
            exploration: Exploration::Argmax,
            priority: Priority::Position,
        },
        Router::Mixtral {
            k: 2,
            exploration: Exploration::Argmax,
            priority: Priority::Position,
            placement: Placement::ChoiceMajor,
        },
        Router::DeepseekV3 {
            k: 8,
            n_routing_groups: 1,
            topk_routing_group: 1,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            routed_bias_update_rate: 1e-3,
            priority: Priority::Position,
            placement: Placement::ChoiceMajor,
        },
    ];

    /// Experts that a token can be sent to at once; `None` where experts choose.
    pub fn experts_per_token(&self) -> Option<usize> {
        match *self {
            Router::Switch { .. } | Router::NoTokenLeftBehind { .. } => Some(1),
            Router::Gshard { .. } => Some(2),
            Router::TopK { k, .. } | Router::Mixtral { k, .. } | Router::DeepseekV3 { k, .. } => Some(k),
            Router::ExpertChoice {} => None,
        }
    }

    /// Experts that a token ranks; `None` where experts choose.
    pub fn choices(&self) -> Option<usize> {
        match *self {
            Router::NoTokenLeftBehind { rounds, .. } => Some(rounds),
            _ => self.experts_per_token(),
        }
    }

    /// Noise of the choice while training.
    pub fn exploration(&self) -> Exploration {
        match *self {
            Router::Switch { exploration, .. }
            | Router::TopK { exploration, .. }
            | Router::Gshard { exploration, .. }
            | Router::NoTokenLeftBehind { exploration, .. }
            | Router::Mixtral { exploration, .. } => exploration,
            Router::ExpertChoice {} | Router::DeepseekV3 { .. } => Exploration::Argmax,
        }
    }

    /// Which tokens take slots first.
    pub fn priority(&self) -> Priority {
        match *self {
            Router::Switch { priority, .. }
            | Router::TopK { priority, .. }
            | Router::Gshard { priority, .. }
            | Router::NoTokenLeftBehind { priority, .. }
            | Router::Mixtral { priority, .. }
            | Router::DeepseekV3 { priority, .. } => priority,
            Router::ExpertChoice {} => Priority::Probability,
        }
    }

    /// The order of the choices of one token among those of others.
    pub fn placement(&self) -> Placement {
        match *self {
            Router::TopK { placement, .. }
            | Router::Mixtral { placement, .. }
            | Router::DeepseekV3 { placement, .. } => placement,
            _ => Placement::ChoiceMajor,
        }
    }

    /// By how much a step moves the selection bias of each expert, where there is one.
    pub fn bias_update_rate(&self) -> Option<f64> {
        match *self {
            Router::DeepseekV3 { routed_bias_update_rate, .. } => Some(routed_bias_update_rate),
            _ => None,
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
    /// Dropout on the router's input; the experts' has none.
    InputDropout {
        /// Share of elements that are zeroed.
        #[serde(default = "default_dropout")]
        rate: f64,
    },
    /// The choice is drawn from the softmax, without replacement; the gate is what it would be for that choice.
    Sample {
        /// The logits are divided by this before drawing.
        #[serde(default = "default_temperature")]
        temperature: f64,
    },
}

impl Exploration {
    /// The paper's default.
    const JITTER: Exploration = Exploration::InputJitter { epsilon: 1e-2 };
}

impl Default for Exploration {
    fn default() -> Self {
        Exploration::JITTER
    }
}

/// When a token takes up its second expert (Mesh TensorFlow's second policy).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Second {
    /// With probability `min(1, gate / threshold)`.
    Random {
        /// The gate from which the second expert is always taken.
        #[serde(default = "default_threshold")]
        threshold: f64,
    },
    /// Where its gate is above the threshold.
    Threshold {
        /// The least gate.
        #[serde(default = "default_threshold")]
        threshold: f64,
    },
    /// Always.
    All,
}

impl Second {
    /// What holds in evaluation, unless it is given.
    pub fn in_evaluation(self) -> Second {
        match self {
            Second::Random { .. } => Second::All,
            fixed => fixed,
        }
    }

    /// Mesh TensorFlow's default.
    pub const RANDOM: Second = Second::Random { threshold: 0.2 };
}

impl Default for Second {
    fn default() -> Self {
        Second::RANDOM
    }
}

/// Which tokens take slots first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Those that come first in the group.
    #[default]
    Position,
    /// Those with the highest router probability (batch-prioritised routing; Riquelme et al., 2021). Not causal.
    Probability,
}

/// The order in which the choices of one token take slots among those of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// First choices of all tokens, then second ones, and so on (Mesh TensorFlow, flaxformer).
    #[default]
    ChoiceMajor,
    /// All choices of the first token, then those of the second, and so on (MaxText).
    TokenMajor,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn four() -> usize {
    4
}

fn eight() -> usize {
    8
}

fn yes() -> bool {
    true
}

fn no_noise() -> Exploration {
    Exploration::Argmax
}

fn default_jitter() -> f64 {
    1e-2
}

fn default_dropout() -> f64 {
    0.1
}

fn default_temperature() -> f64 {
    1.0
}

fn default_threshold() -> f64 {
    0.2
}

fn default_scaling() -> f64 {
    2.5
}

fn default_bias_rate() -> f64 {
    1e-3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_alone_has_the_defaults_that_are_listed() {
        for router in Router::KINDS {
            let kind = serde_json::to_value(router).unwrap()["kind"].clone();
            let read: Router = serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
            assert_eq!(read, router);
        }
        assert_eq!(Router::KINDS[0], Router::default());
    }
}
