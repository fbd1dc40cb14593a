//! T5 and Switch Transformers: settings and names.

use super::error::Problem;
use super::families::Family;
use super::origin::HEAD;
use super::plan::{self, Plan, Row, Table, linear, same};
use super::settings::Settings;
use super::weights::Weights;
use crate::config::{
    Aggregation, Architecture, Attention, Capacity, Exploration, FeedForward, Group, ModelConfig, MoeConfig,
    Objective, Padding, Positions, Priority, RelativeBuckets, Router, RunConfig, ScoreScale, Side, Spacing,
};
use serde_json::{Map, Value, json};

const EMBEDDING: &str = "shared.weight";
const COPIES: &[&str] = &[EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD];

/// Old files have a table that no layer reads.
const IGNORED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

const OUTSIDE: &[Row] = &[
    same("shared/embedding", EMBEDDING),
    same("head", HEAD),
    same("encoder/relative_bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    same("decoder/relative_bias", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    same("encoder/final_norm", "encoder.final_layer_norm.weight"),
    same("decoder/final_norm", "decoder.final_layer_norm.weight"),
];

/// `{stack}` is the stack, `{ff}` the number of the feed-forward layer in a block, `{mlp}` its name.
const BLOCK: &[Row] = &[
    same("attention/norm", "{stack}.block.{layer}.layer.0.layer_norm.weight"),
    linear("attention/q", "{stack}.block.{layer}.layer.0.SelfAttention.q.weight"),
    linear("attention/k", "{stack}.block.{layer}.layer.0.SelfAttention.k.weight"),
    linear("attention/v", "{stack}.block.{layer}.layer.0.SelfAttention.v.weight"),
    linear("attention/o", "{stack}.block.{layer}.layer.0.SelfAttention.o.weight"),
    same("cross_attention/norm", "{stack}.block.{layer}.layer.1.layer_norm.weight"),
    linear("cross_attention/q", "{stack}.block.{layer}.layer.1.EncDecAttention.q.weight"),
    linear("cross_attention/k", "{stack}.block.{layer}.layer.1.EncDecAttention.k.weight"),
    linear("cross_attention/v", "{stack}.block.{layer}.layer.1.EncDecAttention.v.weight"),
    linear("cross_attention/o", "{stack}.block.{layer}.layer.1.EncDecAttention.o.weight"),
    same("mlp/norm", "{stack}.block.{layer}.layer.{ff}.layer_norm.weight"),
    linear("mlp/wi", "{stack}.block.{layer}.layer.{ff}.{mlp}.wi.weight"),
    linear("mlp/wi_0", "{stack}.block.{layer}.layer.{ff}.{mlp}.wi_0.weight"),
    linear("mlp/wi_1", "{stack}.block.{layer}.layer.{ff}.{mlp}.wi_1.weight"),
    linear("mlp/wo", "{stack}.block.{layer}.layer.{ff}.{mlp}.wo.weight"),
    same("moe/norm", "{stack}.block.{layer}.layer.{ff}.layer_norm.weight"),
    linear("moe/router", "{stack}.block.{layer}.layer.{ff}.mlp.router.classifier.weight"),
    linear("moe/experts/wi", "{stack}.block.{layer}.layer.{ff}.mlp.experts.expert_{expert}.wi.weight"),
    linear("moe/experts/wo", "{stack}.block.{layer}.layer.{ff}.mlp.experts.expert_{expert}.wo.weight"),
];

/// Names and layouts of all tensors of a model whose settings fit.
pub fn plan(family: Family, config: &RunConfig, weights: Option<&Weights>) -> Plan {
    let model = &config.model;
    let mlp = if family == Family::Switch { "mlp" } else { "DenseReluDense" };
    let encoder = [("{stack}", "encoder"), ("{ff}", "1"), ("{mlp}", mlp)];
    let decoder = [("{stack}", "decoder"), ("{ff}", "2"), ("{mlp}", mlp)];
    let tables = [
        Table { side: Side::Encoder, words: &encoder, rows: BLOCK },
        Table { side: Side::Decoder, words: &decoder, rows: BLOCK },
    ];
    let (mut targets, unmapped) = plan::targets(model, &tables, OUTSIDE);
    let mut copies = COPIES.to_vec();
    if !model.tie_embeddings {
        copies.retain(|name| *name != HEAD);
    }
    if !model.tie_embeddings && weights.is_some_and(|weights| weights.ty(HEAD).is_none()) {
        // A head that is tied, yet not scaled, becomes a table of its own.
        let head = targets.iter_mut().filter(|target| target.name == "head");
        head.flat_map(|target| &mut target.pieces).for_each(|piece| piece.name = EMBEDDING.into());
    }
    Plan { targets, unmapped, copies, optional: COPIES, ignored: vec![IGNORED.into()] }
}

/// The configuration for these settings.
pub fn config(family: Family, settings: &mut Settings) -> RunConfig {
    settings.only("is_encoder_decoder", true);
    settings.only("decoder_start_token_id", 0);
    settings.only("pad_token_id", 0);
    let dropout = settings.number("dropout_rate", 0.1);
    let d_model = if family == Family::Switch { 768 } else { 512 };
    let layers = if family == Family::Switch { 12 } else { 6 };
    let num_encoder_layers = settings.count("num_layers", layers);
    let mut model = ModelConfig {
        architecture: Architecture::EncoderDecoder,
        vocab_size: settings.count("vocab_size", 32128),
        d_model: settings.count("d_model", d_model),
        d_ff: settings.count("d_ff", 2048),
        d_kv: settings.count("d_kv", 64),
        num_heads: settings.count("num_heads", d_model / 64),
        num_encoder_layers,
        num_decoder_layers: settings.count("num_decoder_layers", num_encoder_layers),
        positions: Positions::RelativeBuckets(RelativeBuckets {
            num_buckets: settings.count("relative_attention_num_buckets", 32),
            max_distance: settings.count("relative_attention_max_distance", 128),
        }),
        tie_embeddings: settings.flag("tie_word_embeddings", true),
        norm_epsilon: settings.number("layer_norm_epsilon", 1e-6),
        dropout,
        padding: Padding::Included,
        ..ModelConfig::default()
    };
    match family {
        Family::Switch => switch(settings, &mut model),
        _ => {
            let known = [
                ("relu", FeedForward::Relu),
                ("gated-gelu", FeedForward::GatedGelu),
                ("gated-silu", FeedForward::GatedSilu),
            ];
            model.feed_forward = settings.choice("feed_forward_proj", &known, FeedForward::Relu);
            // Newer versions keep under this name what they then no longer call tied.
            model.tie_embeddings = settings.flag("scale_decoder_outputs", model.tie_embeddings);
        }
    }
    let mut config = RunConfig { model, ..RunConfig::default() };
    config.data.objective = Objective::text_to_text();
    config.loss.z_loss = 0.0;
    config
}

fn switch(settings: &mut Settings, model: &mut ModelConfig) {
    settings.only("dense_act_fn", "relu");
    settings.only("feed_forward_proj", "relu");
    settings.only("router_bias", false);
    settings.only("router_dtype", "float32");
    let jitter = settings.number("router_jitter_noise", 0.01);
    let exploration = match jitter {
        0.0 => Exploration::Argmax,
        epsilon => Exploration::InputJitter { epsilon },
    };
    let mut spacing = |side: Side, key: &str| {
        let layers = side.layers(model);
        spacing_of(sparse_step(layers, settings.count(key, 3)))
    };
    let encoder = spacing(Side::Encoder, "num_sparse_encoder_layers");
    let decoder = spacing(Side::Decoder, "num_sparse_decoder_layers");
    if encoder.every == 0 && decoder.every == 0 {
        settings.refuse("num_sparse_encoder_layers", "a sparse block in the encoder or in the decoder");
    }
    let slots = settings.count("expert_capacity", 64);
    model.moe = MoeConfig {
        num_experts: settings.count("num_experts", 8),
        every: encoder.every,
        offset: Some(encoder.offset),
        decoder_every: (decoder != encoder).then_some(decoder.every),
        decoder_offset: (decoder != encoder).then_some(decoder.offset),
        router: Router::Switch { exploration, priority: Priority::Position },
        capacity: Capacity::Absolute { train: slots, eval: slots, multiple: 1 },
        group: Group::Sequence,
        expert_dropout: model.dropout,
        load_balancing_coef: settings.number("router_aux_loss_coef", 1e-3),
        z_loss_coef: settings.number("router_z_loss_coef", 1e-3),
        aggregation: Aggregation::PooledMixed,
        ..MoeConfig::default()
    };
}

/// Blocks from one sparse one to the next, as that library counts: the quotient rounded down, and all blocks for none.
fn sparse_step(layers: usize, sparse: usize) -> usize {
    layers.checked_div(sparse).unwrap_or(layers)
}

/// Whether block `layer` is sparse there.
fn is_sparse(step: usize, layer: usize) -> bool {
    step == 1 || layer.checked_rem(step) == Some(1)
}

/// The same blocks by our rule: the second of each run, or all.
fn spacing_of(step: usize) -> Spacing {
    Spacing { every: step, offset: usize::from(step > 1) }
}

/// The settings for a configuration.
pub fn settings(family: Family, config: &RunConfig, problems: &mut Vec<Problem>) -> Map<String, Value> {
    let model = &config.model;
    let mut refuse = |ours, found: String, expected: &str| {
        let (model, expected) = (family.name(), expected.to_string());
        problems.push(Problem::NotExpressible { ours, found, model, expected });
    };
    let buckets = match model.positions {
        Positions::RelativeBuckets(buckets) => buckets,
        Positions::Rotary(_) => {
            refuse("model.positions.kind", "rotary".into(), "relative_buckets");
            RelativeBuckets::default()
        }
    };
    if model.attention != Attention::MultiHead {
        refuse("model.attention.kind", "grouped_query".into(), "multi_head");
    }
    if model.score_scale() != ScoreScale::None {
        refuse("model.score_scale", "inverse_sqrt".into(), "none");
    }
    if model.pad_id != Some(0) {
        refuse("model.pad_id", format!("{:?}", model.pad_id), "0");
    }
    if model.moe.num_experts > 0 && model.dense_after_sparse {
        refuse("model.dense_after_sparse", "true".into(), "false");
    }
    let mut tree = json!({
        "is_encoder_decoder": true,
        "vocab_size": model.vocab_size,
        "d_model": model.d_model,
        "d_ff": model.d_ff,
        "d_kv": model.d_kv,
        "num_heads": model.num_heads,
        "num_layers": model.num_encoder_layers,
        "num_decoder_layers": model.num_decoder_layers,
        "relative_attention_num_buckets": buckets.num_buckets,
        "relative_attention_max_distance": buckets.max_distance,
        "layer_norm_epsilon": model.norm_epsilon,
        "dropout_rate": model.dropout,
        "tie_word_embeddings": model.tie_embeddings,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    });
    let own = match family {
        Family::Switch => switch_settings(config, &mut refuse),
        _ => {
            let form = match model.feed_forward {
                FeedForward::Relu => "relu",
                FeedForward::GatedGelu => "gated-gelu",
                FeedForward::GatedSilu => "gated-silu",
            };
            json!({ "feed_forward_proj": form, "scale_decoder_outputs": model.tie_embeddings })
        }
    };
    let mut all = Map::new();
    for tree in [tree.take(), own] {
        all.extend(tree.as_object().cloned().unwrap_or_default());
    }
    all
}

fn switch_settings(config: &RunConfig, refuse: &mut impl FnMut(&'static str, String, &str)) -> Value {
    let (model, moe) = (&config.model, &config.model.moe);
    if model.feed_forward != FeedForward::Relu {
        refuse("model.feed_forward", "a gated form".into(), "relu");
    }
    if model.expert_d_ff() != model.d_ff {
        refuse("model.moe.d_ff", model.expert_d_ff().to_string(), "one width, model.d_ff");
    }
    let routers = Side::BOTH.map(|side| side.router(model));
    if !routers.iter().all(|router| matches!(router, Router::Switch { priority: Priority::Position, .. })) {
        let kind = serde_json::to_string(&routers).unwrap_or_default();
        refuse("model.moe.router", kind, "switch, by position, in both stacks");
    }
    if moe.shared_experts > 0 {
        refuse("model.moe.shared_experts", moe.shared_experts.to_string(), "none");
    }
    let jitter = match moe.router.exploration() {
        Exploration::InputJitter { epsilon } => epsilon,
        _ => 0.0,
    };
    let [Some(encoder), Some(decoder)] = Side::BOTH.map(|side| num_sparse(model, side)) else {
        let found = Side::BOTH.map(|side| moe.spacing(side));
        let found = found.map(|Spacing { every, offset }| format!("{every} with the offset {offset}"));
        let found = format!("{} and, of the decoder, {}", found[0], found[1]);
        refuse("model.moe.every", found, "the second of each run of blocks sparse, or all blocks");
        return Value::Null;
    };
    json!({
        "num_experts": moe.num_experts,
        "expert_capacity": absolute_capacity(config),
        "num_sparse_encoder_layers": encoder,
        "num_sparse_decoder_layers": decoder,
        "encoder_sparse_step": sparse_step(model.num_encoder_layers, encoder),
        "decoder_sparse_step": sparse_step(model.num_decoder_layers, decoder),
        "router_jitter_noise": jitter,
        "router_bias": false,
        "router_dtype": "float32",
        "router_ignore_padding_tokens": false,
        "dense_act_fn": "relu",
        "router_aux_loss_coef": moe.load_balancing_coef,
        "router_z_loss_coef": moe.z_loss_coef,
    })
}

/// The number of sparse blocks from which that library derives the same places; more than there are make none.
fn num_sparse(model: &ModelConfig, side: Side) -> Option<usize> {
    let (layers, places) = (side.layers(model), model.places(side));
    let fits = |&sparse: &usize| {
        let step = sparse_step(layers, sparse);
        places.iter().enumerate().all(|(i, place)| is_sparse(step, i) == place.sparse)
    };
    (1..=layers + 1).find(fits)
}

/// Slots per expert and sequence: as given, or those of an evaluation.
fn absolute_capacity(config: &RunConfig) -> usize {
    match config.model.moe.capacity {
        Capacity::Absolute { eval, .. } => eval,
        _ => config.model.moe.capacity_for(config.groups(Side::Encoder).tokens_per_group, false),
    }
}

/// Where Switch Transformers behaves otherwise there.
pub fn differences(config: &RunConfig) -> Vec<String> {
    let (model, moe) = (&config.model, &config.model.moe);
    let mut found = vec![];
    if !matches!(moe.capacity, Capacity::Absolute { train, eval, multiple: 1 } if train == eval) {
        let tokens = config.groups(Side::Encoder).tokens_per_group;
        found.push(format!(
            "its capacity is one number: {}, that of groups of {tokens} tokens in evaluation",
            absolute_capacity(config)
        ));
    }
    if moe.group != Group::Sequence {
        found.push("its capacity is that of a sequence, not of model.moe.group".into());
    }
    if !matches!(moe.router.exploration(), Exploration::InputJitter { .. } | Exploration::Argmax) {
        found.push("its only noise in training is jitter".into());
    }
    if model.padding != Padding::Included {
        found.push("padding takes capacity and counts in the router's losses there".into());
    }
    let all_sparse = |side: &Side| model.sparse_blocks(*side) == side.layers(model);
    let as_there = match moe.aggregation {
        Aggregation::PooledMixed => true,
        Aggregation::Pooled => !Side::BOTH.iter().any(all_sparse),
        Aggregation::Sum | Aggregation::Mean => false,
    };
    if !as_there {
        let which = "that of all layers of a stack together, and none where every block is sparse";
        found.push(format!("its load-balancing loss is {which}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_blocks_are_those_of_the_other_library() {
        let blocks = |layers: usize, sparse: usize| {
            let step = sparse_step(layers, sparse);
            (0..layers).filter(|&i| is_sparse(step, i)).collect::<Vec<_>>()
        };
        assert_eq!(blocks(12, 6), [1, 3, 5, 7, 9, 11]);
        assert_eq!(blocks(12, 3), [1, 5, 9]);
        // 5 / 2 is 2, so that block 3 is sparse too.
        assert_eq!(blocks(5, 2), [1, 3]);
        assert_eq!(blocks(3, 3), [0, 1, 2]);
        // None asked for, yet there is one.
        assert_eq!(blocks(12, 0), [1]);
        assert_eq!(blocks(1, 0), [0]);
        assert_eq!(blocks(2, 3), [0_usize; 0]);
    }

    #[test]
    fn both_rules_give_the_same_blocks() {
        for step in 0..5 {
            let Spacing { every, offset } = spacing_of(step);
            for layer in 0..12 {
                assert_eq!(
                    is_sparse(step, layer),
                    layer.checked_rem(every) == Some(offset),
                    "{step}: {layer}"
                );
            }
        }
    }

    #[test]
    fn the_number_of_sparse_blocks_comes_back_from_their_places() {
        let moe = MoeConfig { num_experts: 2, every: 4, offset: Some(1), ..MoeConfig::default() };
        let mut model =
            ModelConfig { num_encoder_layers: 8, num_decoder_layers: 6, moe, ..ModelConfig::default() };
        let found = |model: &ModelConfig| Side::BOTH.map(|side| num_sparse(model, side));
        // Blocks 1 and 5 of either stack; there 6 / 1 = 6 means block 1 alone.
        assert_eq!(found(&model), [Some(2), None]);
        (model.moe.decoder_every, model.moe.decoder_offset) = (Some(3), Some(1));
        assert_eq!(found(&model), [Some(2), Some(2)]);
        (model.moe.decoder_every, model.moe.decoder_offset) = (Some(0), None);
        assert_eq!(found(&model), [Some(2), Some(7)]);
    }
}
