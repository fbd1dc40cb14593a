//! Sparse layers: routers that fit the experts and the stack, capacities, groups.

use super::{Checked, MAX_LAYERS, MAX_WIDTH, S32_MAX, count, positive, rate, require, weight};
use crate::config::attention::Attention;
use crate::config::capacity::{Capacity, Group};
use crate::config::model::{Architecture, ModelConfig};
use crate::config::moe::{MoeConfig, Sublayers};
use crate::config::router::{Exploration, Priority, Router, Second};
use crate::config::run::RunConfig;
use crate::config::side::Side;
use serde_json::json;

pub(super) fn check(model: &ModelConfig) -> Checked {
    let moe = &model.moe;
    count("model.moe.num_experts", moe.num_experts, 0..=1 << 20, 8)?;
    spacing(model)?;
    if let Some(d_ff) = moe.d_ff {
        count("model.moe.d_ff", d_ff, 1..=MAX_WIDTH, 2048)?;
    }
    count("model.moe.shared_experts", moe.shared_experts, 0..=1 << 10, 1)?;
    sublayers(model)?;
    routers(model)?;
    capacity(&moe.capacity)?;
    if let Group::Tokens(tokens) = moe.group {
        count("model.moe.group.tokens", tokens, 1..=S32_MAX, 4096)?;
    }
    rate("model.moe.expert_dropout", moe.expert_dropout, 0.4)?;
    weight("model.moe.load_balancing_coef", moe.load_balancing_coef, 0.01)?;
    weight("model.moe.z_loss_coef", moe.z_loss_coef, 0.001)
}

/// A sparse block stands inside its run, and a decoder alone has the encoder's fields.
fn spacing(model: &ModelConfig) -> Checked {
    let moe = &model.moe;
    count("model.moe.every", moe.every, 0..=MAX_LAYERS, 2)?;
    within("model.moe.offset", moe.offset, moe.every)?;
    let every = moe.decoder_every.unwrap_or(moe.every);
    count("model.moe.decoder_every", every, 0..=MAX_LAYERS, 2)?;
    within("model.moe.decoder_offset", moe.decoder_offset, every)?;
    if model.architecture == Architecture::EncoderDecoder {
        return Ok(());
    }
    let fields = [
        ("model.moe.decoder_every", moe.decoder_every, "every"),
        ("model.moe.decoder_offset", moe.decoder_offset, "offset"),
    ];
    fields.into_iter().try_for_each(|(path, found, field)| {
        let expected = format!("null in a decoder_only model, which has model.moe.{field}");
        require(found.is_none(), path, found.unwrap_or(0), &expected, format_args!("null"))
    })
}

/// A position in a run of so many blocks.
fn within(path: &str, offset: Option<usize>, every: usize) -> Checked {
    let last = every.saturating_sub(1);
    offset.map_or(Ok(()), |offset| count(path, offset, 0..=last, last))
}

/// Experts in attention make what its heads need, and stand for no feed-forward network.
fn sublayers(model: &ModelConfig) -> Checked {
    let (moe, path) = (&model.moe, "model.moe.sublayers");
    let found = match moe.sublayers {
        Sublayers::FeedForward => return Ok(()),
        Sublayers::Attention => "attention",
        Sublayers::Both => "both",
    };
    let heads = !matches!(model.attention, Attention::Latent(_));
    let expected =
        "feed_forward, since model.attention is latent: experts make queries, keys and values of heads";
    require(heads, path, found, expected, "feed_forward")?;
    let others = [
        ("model.moe.shared_experts", moe.shared_experts > 0),
        ("model.dense_after_sparse", model.dense_after_sparse),
    ];
    others.into_iter().try_for_each(|(field, set)| {
        let expected = format!("both, since {field} belongs to experts of the feed-forward network");
        require(!set || moe.sublayers.feed_forward(), path, found, &expected, "both")
    })
}

fn routers(model: &ModelConfig) -> Checked {
    let (moe, alone) = (&model.moe, model.architecture == Architecture::DecoderOnly);
    router("model.moe.router", &moe.router, moe)?;
    let Some(decoder) = &moe.decoder_router else {
        return if alone { causal("model.moe.router", &moe.router) } else { causal_default(model) };
    };
    let expected = "null in a decoder_only model, whose router is model.moe.router";
    let found = json!(decoder);
    require(!alone, "model.moe.decoder_router", format_args!("{found}"), expected, format_args!("null"))?;
    router("model.moe.decoder_router", decoder, moe)?;
    causal("model.moe.decoder_router", decoder)
}

/// What one router needs of its numbers, and of the experts if there are any.
fn router(path: &str, router: &Router, moe: &MoeConfig) -> Checked {
    exploration(&format!("{path}.exploration"), router.exploration())?;
    match *router {
        Router::Gshard { second, second_eval, .. } => {
            second_choice(&format!("{path}.second"), second)?;
            second_eval.map_or(Ok(()), |second| second_choice(&format!("{path}.second_eval"), second))?;
        }
        Router::DeepseekV3 { routed_scaling_factor, routed_bias_update_rate, .. } => {
            positive(&format!("{path}.routed_scaling_factor"), routed_scaling_factor, 2.5)?;
            weight(&format!("{path}.routed_bias_update_rate"), routed_bias_update_rate, 0.001)?;
        }
        _ => {}
    }
    if moe.num_experts == 0 {
        return Ok(());
    }
    choices(path, router, moe.num_experts)?;
    routing_groups(path, router, moe.num_experts)
}

fn exploration(path: &str, exploration: Exploration) -> Checked {
    match exploration {
        Exploration::Argmax => Ok(()),
        Exploration::InputJitter { epsilon } => rate(&format!("{path}.epsilon"), epsilon, 0.01),
        Exploration::InputDropout { rate: share } => rate(&format!("{path}.rate"), share, 0.1),
        Exploration::Sample { temperature } => positive(&format!("{path}.temperature"), temperature, 1.0),
    }
}

fn second_choice(path: &str, second: Second) -> Checked {
    let path = format!("{path}.threshold");
    match second {
        Second::All => Ok(()),
        Second::Threshold { threshold } => rate(&path, threshold, 0.2),
        // Gates are divided by it.
        Second::Random { threshold } => {
            positive(&path, threshold, 0.2)?;
            rate(&path, threshold, 0.2)
        }
    }
}

/// A token ranks no more experts than there are.
fn choices(path: &str, router: &Router, experts: usize) -> Checked {
    let field = match router {
        Router::ExpertChoice {} | Router::Switch { .. } => return Ok(()),
        Router::Gshard { .. } => {
            let expected = "at least 2 experts, since the router gshard chooses two";
            return require(experts >= 2, "model.moe.num_experts", experts, expected, 8);
        }
        Router::NoTokenLeftBehind { .. } => "rounds",
        Router::TopK { .. } | Router::Mixtral { .. } | Router::DeepseekV3 { .. } => "k",
    };
    let found = router.choices().unwrap_or(1);
    let expected = format!("from 1 to model.moe.num_experts = {experts}");
    require((1..=experts).contains(&found), &format!("{path}.{field}"), found, &expected, experts.min(2))
}

/// Groups of experts are equal, have the two experts that rank them, and hold enough to choose from.
fn routing_groups(path: &str, router: &Router, experts: usize) -> Checked {
    let &Router::DeepseekV3 { k, n_routing_groups: groups, topk_routing_group: chosen, .. } = router else {
        return Ok(());
    };
    let path_of = |field: &str| format!("{path}.{field}");
    let divides = groups > 0 && experts.is_multiple_of(groups);
    let expected = format!("a divisor of model.moe.num_experts = {experts}");
    let near = (1..=groups.min(experts)).rev().find(|n| experts.is_multiple_of(*n));
    require(divides, &path_of("n_routing_groups"), groups, &expected, near.unwrap_or(1))?;
    count(&path_of("topk_routing_group"), chosen, 1..=groups, groups.div_ceil(2))?;
    let size = experts / groups;
    let expected =
        format!("at most {}, so that each group has two experts whose scores rank it", experts / 2);
    require(chosen == groups || size >= 2, &path_of("n_routing_groups"), groups, &expected, 1)?;
    let expected =
        format!("at least {}, since {k} experts are chosen from groups of {size}", k.div_ceil(size));
    require(chosen * size >= k, &path_of("topk_routing_group"), chosen, &expected, k.div_ceil(size))
}

/// In a causal stack no token's expert may hang on later tokens.
fn causal(path: &str, router: &Router) -> Checked {
    if let Router::ExpertChoice {} = router {
        let expected = "a router whose tokens choose: experts that choose look at later tokens, which a decoder must not";
        return require(false, &format!("{path}.kind"), "expert_choice", expected, "switch");
    }
    let expected = "position: the order of probabilities looks at later tokens, which a decoder must not";
    let fits = router.priority() == Priority::Position;
    require(fits, &format!("{path}.priority"), "probability", expected, "position")
}

/// As [`causal`], for a decoder that has no router of its own yet.
fn causal_default(model: &ModelConfig) -> Checked {
    if model.sparse_blocks(Side::Decoder) == 0 || causal("", &model.moe.router).is_ok() {
        return Ok(());
    }
    let expected = "a causal router, since model.moe.router looks at later tokens, which a decoder must not";
    let example = json!({ "kind": "switch" });
    require(false, "model.moe.decoder_router", format_args!("null"), expected, format_args!("{example}"))
}

fn capacity(capacity: &Capacity) -> Checked {
    let path = |field: &str| format!("model.moe.capacity.{field}");
    let multiple = match *capacity {
        Capacity::Factor { train_factor, eval_factor, rounding: _, minimum, multiple } => {
            positive(&path("train_factor"), train_factor, 1.25)?;
            positive(&path("eval_factor"), eval_factor, 2.0)?;
            count(&path("minimum"), minimum, 1..=S32_MAX, 4)?;
            multiple
        }
        Capacity::Absolute { train, eval, multiple } => {
            count(&path("train"), train, 1..=S32_MAX, 64)?;
            count(&path("eval"), eval, 1..=S32_MAX, 64)?;
            multiple
        }
        Capacity::Dropless {} => return Ok(()),
    };
    count(&path("multiple"), multiple, 1..=1 << 20, 8)
}

/// Groups of so many tokens exist: a batch without a divisor near the limit would fall into tiny ones.
pub(super) fn groups(config: &RunConfig) -> Checked {
    let Group::Tokens(limit) = config.model.moe.group else { return Ok(()) };
    let sequences = config.sequences_per_replica();
    let mut sides = Side::BOTH.into_iter().filter(|side| config.model.sparse_blocks(*side) > 0);
    sides.try_for_each(|side| {
        let length = config.row_length(side);
        let tokens = sequences * length;
        let size = config.groups(side).tokens_per_group;
        let near = size >= limit.div_ceil(2) || size == tokens;
        let each = if config.mesh.batch_parts() > 1 { " on a device" } else { "" };
        let expected = format!(
            "a size near a divisor of the {tokens} tokens ({sequences} x {length}) of a microbatch{each}, \
             whose largest divisor up to it is {size}"
        );
        require(near, "model.moe.group.tokens", limit, &expected, size.max(length))
    })
}
