//! Tokens that choose experts: the k best of each token, and their gates.

use super::{Scores, noise};
use crate::build::{BuildError, Builder};
use crate::config::{Router, Second};
use crate::ir::{Reducer, TensorType, Value};
use crate::layers::{Context, Phase};

/// Up to so many choices, passes over the experts beat a sort: each is two reductions that fuse with what precedes them.
const MOST_PASSES: usize = 8;

/// The choices of all tokens, best first.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Each `s32[G, S]`.
    pub experts: Vec<Value>,
    /// Each `[G, S]`.
    pub gates: Vec<Value>,
    /// Each `pred[G, S]`: whether the token wants a slot for the choice; never for padding.
    pub wanted: Vec<Value>,
    /// `[G, S, E]`: 1 where the load-balancing loss counts the expert for the token; not always that of a choice.
    pub counted: Value,
    /// `[G, S, E]`: 1 where the token wants a slot of the expert.
    pub demand: Value,
}

/// Scores of `logits [G, S, E]`; `bias [E]` is added to what the router chooses by.
pub fn scores(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    logits: Value,
    bias: Option<Value>,
) -> Result<Scores, BuildError> {
    if let &Router::DeepseekV3 { n_routing_groups, topk_routing_group, .. } = router {
        return sigmoid_scores(b, logits, bias, (n_routing_groups, topk_routing_group));
    }
    let probs = b.softmax(logits)?;
    let probs = b.name(probs, "router_probs", &["groups", "tokens", "experts"]);
    let weight = if let Router::Mixtral { .. } = router { logits } else { probs };
    let choice = noise::on_choice(b, cx, router.exploration(), (weight, logits))?;
    Ok(Scores { logits, probs, choice, weight })
}

/// Sigmoids, chosen with the bias and within the best groups of experts (DeepSeek-V3, equations 13 to 16).
fn sigmoid_scores(
    b: &mut Builder,
    logits: Value,
    bias: Option<Value>,
    (groups, chosen): (usize, usize),
) -> Result<Scores, BuildError> {
    let shape = b.shape(logits);
    let weight = b.logistic(logits)?;
    let sum = b.sum(weight, &[2])?;
    let sum = b.unreduce(sum, &shape, &[2])?;
    let probs = b.div(weight, sum)?;
    let probs = b.name(probs, "router_probs", &["groups", "tokens", "experts"]);
    let mut choice = b.stop_gradient(weight)?;
    if let Some(bias) = bias {
        let bias = b.broadcast_in_dim(bias, &shape, &[2])?;
        choice = b.add(choice, bias)?;
    }
    let choice = limit_groups(b, choice, groups, chosen)?;
    Ok(Scores { logits, probs, choice, weight })
}

/// `scores [G, S, E]` with minus infinity outside the `chosen` groups of experts whose two best scores have the greatest sums.
pub fn limit_groups(
    b: &mut Builder,
    scores: Value,
    groups: usize,
    chosen: usize,
) -> Result<Value, BuildError> {
    if chosen == groups {
        return Ok(scores);
    }
    let shape = b.shape(scores);
    let grouped = [shape[0], shape[1], groups, shape[2] / groups.max(1)];
    let scores = b.reshape(scores, &grouped)?;
    let best = b.reduce(scores, &[3], Reducer::Max)?;
    let first = b.argmax(scores)?;
    let first = b.one_hot_mask(first, grouped[3])?;
    let others = lower(b, first, scores)?;
    let second = b.reduce(others, &[3], Reducer::Max)?;
    let rank = b.add(best, second)?; // [G, S, groups]
    let mut open = None;
    for group in top_k(b, rank, chosen)? {
        let hot = b.one_hot_mask(group, groups)?;
        open = Some(match open {
            Some(open) => b.or(open, hot)?,
            None => hot,
        });
    }
    let Some(open) = open else { return Err(no_choice()) };
    let open = b.broadcast_in_dim(open, &grouped, &[0, 1, 2])?;
    let limited = b.mask(open, scores, f64::NEG_INFINITY)?;
    b.reshape(limited, &shape)
}

/// The choices for these scores; `real [G, S]` is 1 for tokens and 0 for padding.
pub fn choose(
    b: &mut Builder,
    cx: &Context,
    router: &Router,
    scores: Scores,
    real: Value,
) -> Result<Choices, BuildError> {
    let experts = top_k(b, scores.choice, router.choices().unwrap_or(1))?;
    let num_experts = b.shape(scores.probs)[2];
    let dtype = b.dtype(scores.probs);
    let hots: Vec<Value> =
        experts.iter().map(|&e| b.one_hot(e, num_experts, dtype)).collect::<Result<_, _>>()?;
    let weights: Vec<Value> =
        hots.iter().map(|&hot| pick(b, hot, scores.weight)).collect::<Result<_, _>>()?;
    let gates = gates(b, router, weights)?;
    let is_real = b.compare_scalar(crate::ir::Direction::Gt, real, 0.0)?;
    let mut wanted = vec![is_real; experts.len()];
    if let &Router::Gshard { second, second_eval, .. } = router {
        let second = match cx.phase {
            Phase::Train => second,
            Phase::Eval => second_eval.unwrap_or(second.in_evaluation()),
        };
        let taken = takes_second(b, cx, second, gates[1])?;
        wanted[1] = b.and(is_real, taken)?;
    }
    let marks: Vec<Value> = hots
        .iter()
        .zip(&wanted)
        .map(|(&hot, &wanted)| where_wanted(b, hot, wanted))
        .collect::<Result<_, _>>()?;
    let all = sum(b, &marks)?;
    let (counted, demand) = match router {
        Router::Gshard { .. } => (marks[0], all),
        // Later choices are tried only where the first one fails.
        Router::NoTokenLeftBehind { .. } => (all, marks[0]),
        // The report counts the k greatest affinities, whatever bias and groups make of them.
        Router::DeepseekV3 { k, .. } => (greatest(b, scores.weight, *k, is_real)?, all),
        _ => (all, all),
    };
    Ok(Choices { experts, gates, wanted, counted, demand })
}

/// `[G, S, E]`: 1 where the expert is among the `k` with the greatest `scores [G, S, E]` of a token of `is_real pred[G, S]`.
fn greatest(b: &mut Builder, scores: Value, k: usize, is_real: Value) -> Result<Value, BuildError> {
    let (experts, dtype) = (b.shape(scores)[2], b.dtype(scores));
    let marks = top_k(b, scores, k)?.into_iter().map(|expert| {
        let hot = b.one_hot(expert, experts, dtype)?;
        where_wanted(b, hot, is_real)
    });
    let marks: Vec<Value> = marks.collect::<Result<_, BuildError>>()?;
    sum(b, &marks)
}

/// What the router makes of the weights of its choices, each `[G, S]`.
fn gates(b: &mut Builder, router: &Router, weights: Vec<Value>) -> Result<Vec<Value>, BuildError> {
    match *router {
        Router::Gshard { .. } => over_sum(b, &weights, 1e-9),
        Router::Mixtral { .. } => {
            let logits = stack_last(b, &weights)?;
            let probs = b.softmax(logits)?;
            unstack_last(b, probs)
        }
        Router::DeepseekV3 { norm_topk_prob, routed_scaling_factor, .. } => {
            let weights = if norm_topk_prob { over_sum(b, &weights, 1e-20)? } else { weights };
            weights.iter().map(|&w| b.mul_scalar(w, routed_scaling_factor)).collect()
        }
        _ => Ok(weights),
    }
}

/// Each of `xs` over their sum, to which `epsilon` is added.
fn over_sum(b: &mut Builder, xs: &[Value], epsilon: f64) -> Result<Vec<Value>, BuildError> {
    let total = sum(b, xs)?;
    let total = b.add_scalar(total, epsilon)?;
    xs.iter().map(|&x| b.div(x, total)).collect()
}

/// Whether the token takes up its second expert, whose gate is given: `pred[G, S]`.
fn takes_second(b: &mut Builder, cx: &Context, second: Second, gate: Value) -> Result<Value, BuildError> {
    use crate::ir::Direction::{Gt, Lt};
    let gate = b.stop_gradient(gate)?;
    match second {
        Second::Threshold { threshold } => b.compare_scalar(Gt, gate, threshold),
        Second::Random { threshold } => {
            let uniform = noise::uniform(b, cx, "second", gate)?;
            let odds = b.mul_scalar(gate, 1.0 / threshold)?;
            b.compare(Lt, uniform, odds)
        }
        Second::All => {
            let zero = b.full_like(gate, -1.0)?;
            b.compare(Gt, gate, zero)
        }
    }
}

/// Indices of the `k` greatest elements of the last axis, the greatest first and the lowest index first among equals.
pub fn top_k(b: &mut Builder, scores: Value, k: usize) -> Result<Vec<Value>, BuildError> {
    if k > MOST_PASSES {
        return sorted_top_k(b, scores, k);
    }
    let mut left = b.stop_gradient(scores)?;
    let size = b.shape(scores).last().copied().unwrap_or(0);
    let mut found = vec![];
    for _ in 0..k {
        if let Some(&last) = found.last() {
            let taken = b.one_hot_mask(last, size)?;
            left = lower(b, taken, left)?;
        }
        found.push(b.argmax(left)?);
    }
    Ok(found)
}

/// As [`top_k`], by one stable sort.
pub fn sorted_top_k(b: &mut Builder, scores: Value, k: usize) -> Result<Vec<Value>, BuildError> {
    let scores = b.stop_gradient(scores)?;
    let last = b.ty(scores).rank() - 1;
    let index = b.iota(TensorType::new(crate::ir::DType::S32, b.shape(scores)), last)?;
    let order = b.sort_by_key(scores, &[index], last, true)?[1];
    let best = b.slice_axis(order, last, 0, k)?;
    unstack_last(b, best)
}

/// `x`, but minus infinity where `taken`.
fn lower(b: &mut Builder, taken: Value, x: Value) -> Result<Value, BuildError> {
    let lowest = b.full_like(x, f64::NEG_INFINITY)?;
    b.select(taken, lowest, x)
}

/// The element of `x [G, S, E]` that `hot [G, S, E]` marks: `[G, S]`.
fn pick(b: &mut Builder, hot: Value, x: Value) -> Result<Value, BuildError> {
    let marked = b.mul(hot, x)?;
    b.sum(marked, &[2])
}

/// `hot [G, S, E]`, zero where `wanted pred[G, S]` is not.
fn where_wanted(b: &mut Builder, hot: Value, wanted: Value) -> Result<Value, BuildError> {
    let shape = b.shape(hot);
    let wanted = b.broadcast_in_dim(wanted, &shape, &[0, 1])?;
    b.mask(wanted, hot, 0.0)
}

fn sum(b: &mut Builder, xs: &[Value]) -> Result<Value, BuildError> {
    let (&first, rest) = xs.split_first().ok_or_else(no_choice)?;
    rest.iter().try_fold(first, |sum, &x| b.add(sum, x))
}

fn no_choice() -> BuildError {
    BuildError::Invalid("internal: a token has at least one choice".into())
}

/// Values of one shape along a new last axis.
pub fn stack_last(b: &mut Builder, xs: &[Value]) -> Result<Value, BuildError> {
    let mut columns = vec![];
    for &x in xs {
        let rank = b.ty(x).rank();
        columns.push(b.expand_dim(x, rank)?);
    }
    match columns[..] {
        [only] => Ok(only),
        _ => {
            let last = b.ty(xs[0]).rank();
            b.concatenate(&columns, last)
        }
    }
}

/// The elements along the last axis.
pub fn unstack_last(b: &mut Builder, x: Value) -> Result<Vec<Value>, BuildError> {
    let shape = b.shape(x);
    let (&size, element) = shape.split_last().ok_or_else(no_choice)?;
    (0..size)
        .map(|i| {
            let column = b.slice_axis(x, element.len(), i, i + 1)?;
            b.reshape(column, element)
        })
        .collect()
}
