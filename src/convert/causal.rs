//! Decoders alone: Mixtral and DeepSeek-V3. Settings and names.

use super::error::Problem;
use super::families::{Family, Source};
use super::origin::HEAD;
use super::plan::{self, Plan, Row, Table, linear, same};
use super::rope::{self, Scores};
use super::settings::Settings;
use crate::config::{
    Aggregation, Architecture, Attention, Capacity, ComputeDtype, DecoderInputs, Exploration, FeedForward,
    Group, GroupedQuery, Latent, ModelConfig, MoeConfig, Objective, Padding, Pairing, Placement, Positions,
    Priority, Rotary, Router, RunConfig, ScoreScale, Side,
};
use serde_json::{Map, Value, json};

const EMBEDDING: &str = "model.embed_tokens.weight";

const OUTSIDE: &[Row] = &[
    same("shared/embedding", EMBEDDING),
    same("decoder/final_norm", "model.norm.weight"),
    same("head", HEAD),
];

const MIXTRAL: &[Row] = &[
    same("attention/norm", "model.layers.{layer}.input_layernorm.weight"),
    linear("attention/q", "model.layers.{layer}.self_attn.q_proj.weight"),
    linear("attention/k", "model.layers.{layer}.self_attn.k_proj.weight"),
    linear("attention/v", "model.layers.{layer}.self_attn.v_proj.weight"),
    linear("attention/o", "model.layers.{layer}.self_attn.o_proj.weight"),
    same("moe/norm", "model.layers.{layer}.post_attention_layernorm.weight"),
    linear("moe/router", "model.layers.{layer}.block_sparse_moe.gate.weight"),
    linear("moe/experts/wi_0", "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"),
    linear("moe/experts/wi_1", "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight"),
    linear("moe/experts/wo", "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"),
];

const DEEPSEEK: &[Row] = &[
    same("attention/norm", "model.layers.{layer}.input_layernorm.weight"),
    linear("attention/q", "model.layers.{layer}.self_attn.q_proj.weight"),
    linear("attention/q_down", "model.layers.{layer}.self_attn.q_a_proj.weight"),
    same("attention/q_norm", "model.layers.{layer}.self_attn.q_a_layernorm.weight"),
    linear("attention/q_up", "model.layers.{layer}.self_attn.q_b_proj.weight"),
    linear("attention/kv_down", "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight"),
    same("attention/kv_norm", "model.layers.{layer}.self_attn.kv_a_layernorm.weight"),
    linear("attention/kv_up", "model.layers.{layer}.self_attn.kv_b_proj.weight"),
    linear("attention/o", "model.layers.{layer}.self_attn.o_proj.weight"),
    same("mlp/norm", "model.layers.{layer}.post_attention_layernorm.weight"),
    linear("mlp/wi_0", "model.layers.{layer}.mlp.gate_proj.weight"),
    linear("mlp/wi_1", "model.layers.{layer}.mlp.up_proj.weight"),
    linear("mlp/wo", "model.layers.{layer}.mlp.down_proj.weight"),
    same("moe/norm", "model.layers.{layer}.post_attention_layernorm.weight"),
    linear("moe/router", "model.layers.{layer}.mlp.gate.weight"),
    same("moe/router_bias", "model.layers.{layer}.mlp.gate.e_score_correction_bias"),
    linear("moe/experts/wi_0", "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"),
    linear("moe/experts/wi_1", "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"),
    linear("moe/experts/wo", "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"),
    linear("moe/shared_experts/wi_0", "model.layers.{layer}.mlp.shared_experts.gate_proj.weight"),
    linear("moe/shared_experts/wi_1", "model.layers.{layer}.mlp.shared_experts.up_proj.weight"),
    linear("moe/shared_experts/wo", "model.layers.{layer}.mlp.shared_experts.down_proj.weight"),
];

/// Names and layouts of all tensors of a model whose settings fit.
pub fn plan(family: Family, config: &RunConfig, source: Option<Source>) -> Plan {
    let model = &config.model;
    let rows = if family == Family::Mixtral { MIXTRAL } else { DEEPSEEK };
    let table = Table { side: Side::Decoder, words: &[], rows };
    let (mut targets, unmapped) = plan::targets(model, &[table], OUTSIDE);
    let tied = source.is_some_and(|source| source.settings.get("tie_word_embeddings") == Some(&true.into()));
    if tied {
        // Logits of a tied head are not scaled there, so it becomes a table of its own.
        let head = targets.iter_mut().filter(|target| target.name == "head");
        head.flat_map(|target| &mut target.pieces).for_each(|piece| piece.name = EMBEDDING.into());
    }
    let copies = if tied { vec![EMBEDDING, HEAD] } else { vec![EMBEDDING] };
    let ignored = match family {
        // What predicts tokens further ahead: behind the last block, and read by no forward pass.
        Family::DeepseekV3 => vec![format!("model.layers.{}.", model.num_decoder_layers)],
        _ => vec![],
    };
    Plan { targets, unmapped, copies, optional: &[EMBEDDING, HEAD], ignored }
}

/// The configuration for these settings.
pub fn config(family: Family, settings: &mut Settings) -> RunConfig {
    settings.only("hidden_act", "silu");
    settings.only("attention_dropout", 0.0);
    // Present where weights are packed into fewer bits, whatever the method.
    settings.absent("quantization_config", "none: weights in float32, bfloat16 or float16");
    let mut model = ModelConfig {
        architecture: Architecture::DecoderOnly,
        num_encoder_layers: 0,
        feed_forward: FeedForward::GatedSilu,
        decoder_inputs: DecoderInputs::Tokens,
        tie_embeddings: false,
        pad_id: settings.optional_count("pad_token_id"),
        padding: Padding::Excluded,
        dropout: 0.0,
        compute_dtype: ComputeDtype::Float32,
        ..ModelConfig::default()
    };
    match family {
        Family::Mixtral => mixtral(settings, &mut model),
        _ => deepseek(settings, &mut model),
    }
    let mut config = RunConfig { model, ..RunConfig::default() };
    config.data.objective = Objective::Causal;
    config.loss.z_loss = 0.0;
    config
}

/// What both have: settings are flags of the whole model, so a group is the batch.
fn experts() -> MoeConfig {
    MoeConfig {
        every: 1,
        offset: Some(0),
        capacity: Capacity::Dropless {},
        group: Group::Batch,
        aggregation: Aggregation::Pooled,
        z_loss_coef: 0.0,
        ..MoeConfig::default()
    }
}

fn mixtral(settings: &mut Settings, model: &mut ModelConfig) {
    settings.only("sliding_window", Value::Null);
    model.vocab_size = settings.count("vocab_size", 32000);
    model.d_model = settings.count("hidden_size", 4096);
    model.d_ff = settings.count("intermediate_size", 14336);
    model.num_decoder_layers = settings.count("num_hidden_layers", 32);
    model.num_heads = settings.count("num_attention_heads", 32);
    let shared = model.d_model.checked_div(model.num_heads).unwrap_or(0);
    model.d_kv = settings.count("head_dim", shared);
    let num_kv_heads = settings.count("num_key_value_heads", 8);
    model.attention = Attention::GroupedQuery(GroupedQuery { num_kv_heads });
    model.norm_epsilon = settings.number("rms_norm_eps", 1e-5);
    model.positions = Positions::Rotary(rope::read(settings, Scores::ByWidth, 1e6, Pairing::Halves));
    let exploration = match settings.number("router_jitter_noise", 0.0) {
        0.0 => Exploration::Argmax,
        epsilon => Exploration::InputJitter { epsilon },
    };
    let (priority, placement) = (Priority::Position, Placement::ChoiceMajor);
    let k = settings.count("num_experts_per_tok", 2);
    model.moe = MoeConfig {
        num_experts: settings.count("num_local_experts", 8),
        router: Router::Mixtral { k, exploration, priority, placement },
        load_balancing_coef: settings.number("router_aux_loss_coef", 1e-3),
        ..experts()
    };
}

fn deepseek(settings: &mut Settings, model: &mut ModelConfig) {
    settings.only("attention_bias", false);
    settings.only("scoring_func", "sigmoid");
    settings.only("topk_method", "noaux_tc");
    settings.only("moe_layer_freq", 1);
    model.vocab_size = settings.count("vocab_size", 129_280);
    model.d_model = settings.count("hidden_size", 7168);
    model.d_ff = settings.count("intermediate_size", 18432);
    model.num_decoder_layers = settings.count("num_hidden_layers", 61);
    model.num_heads = settings.count("num_attention_heads", 128);
    settings.only("num_key_value_heads", model.num_heads);
    model.norm_epsilon = settings.number("rms_norm_eps", 1e-6);
    // Of published settings, the rank is null where queries have no latent; absent it has a default.
    let query_rank =
        if settings.has("q_lora_rank") { settings.optional_count("q_lora_rank") } else { Some(1536) };
    let latent = Latent {
        query_rank,
        kv_rank: settings.count("kv_lora_rank", 512),
        nope_dim: settings.count("qk_nope_head_dim", 128),
        rope_dim: settings.count("qk_rope_head_dim", 64),
        value_dim: settings.count("v_head_dim", 128),
    };
    model.attention = Attention::Latent(latent);
    model.d_kv = latent.value_dim;
    let pairing = if settings.flag("rope_interleave", true) { Pairing::Interleaved } else { Pairing::Halves };
    model.positions = Positions::Rotary(rope::read(settings, Scores::ByTemperature, 1e4, pairing));
    model.num_dense_layers = settings.count("first_k_dense_replace", 3);
    let router = Router::DeepseekV3 {
        k: settings.count("num_experts_per_tok", 8),
        n_routing_groups: settings.count("n_group", 8),
        topk_routing_group: settings.count("topk_group", 4),
        norm_topk_prob: settings.flag("norm_topk_prob", true),
        routed_scaling_factor: settings.number("routed_scaling_factor", 2.5),
        // Nothing there moves the bias, as in the last part of its pre-training.
        routed_bias_update_rate: 0.0,
        priority: Priority::Position,
        placement: Placement::ChoiceMajor,
    };
    model.moe = MoeConfig {
        num_experts: settings.count("n_routed_experts", 256),
        router,
        // There is no loss of the router there.
        load_balancing_coef: 0.0,
        d_ff: Some(settings.count("moe_intermediate_size", 2048)),
        shared_experts: settings.count("n_shared_experts", 1),
        ..experts()
    };
}

/// The settings for a configuration; `before` are those that were imported.
pub fn settings(
    family: Family,
    config: &RunConfig,
    before: &Map<String, Value>,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let model = &config.model;
    let mut refuse = |ours, found: String, expected: &str| {
        let (model, expected) = (family.name(), expected.to_string());
        problems.push(Problem::NotExpressible { ours, found, model, expected });
    };
    if model.feed_forward != FeedForward::GatedSilu {
        refuse("model.feed_forward", named(&model.feed_forward), "gated_silu");
    }
    if model.decoder_inputs != DecoderInputs::Tokens {
        refuse("model.decoder_inputs", named(&model.decoder_inputs), "tokens");
    }
    if model.tie_embeddings {
        refuse("model.tie_embeddings", "true".into(), "false: its logits are not scaled");
    }
    if model.score_scale() != ScoreScale::InverseSqrt {
        refuse("model.score_scale", "none".into(), "inverse_sqrt");
    }
    if model.moe.num_experts == 0 || model.moe.every != 1 || model.dense_after_sparse {
        let found = format!("{} experts in one block of {}", model.moe.num_experts, model.moe.every);
        refuse("model.moe.every", found, "experts in place of the feed-forward network of every block");
    }
    let mut all = object(json!({
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.num_decoder_layers,
        "num_attention_heads": model.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "pad_token_id": model.pad_id,
        "tie_word_embeddings": before.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
    }));
    all.extend(match family {
        Family::Mixtral => mixtral_settings(model, &mut refuse),
        _ => deepseek_settings(model, &mut refuse),
    });
    let (scores, theta) = match family {
        Family::Mixtral => (Scores::ByWidth, 1e6),
        _ => (Scores::ByTemperature, 1e4),
    };
    match model.positions {
        Positions::Rotary(rotary) => all.extend(rope::settings(rotary, scores, theta, before, &mut refuse)),
        Positions::RelativeBuckets(_) => refuse("model.positions.kind", "relative_buckets".into(), "rotary"),
    }
    all
}

/// A refusal: the field, what it is, what it would have to be.
type Refuse<'a> = dyn FnMut(&'static str, String, &str) + 'a;

fn mixtral_settings(model: &ModelConfig, refuse: &mut Refuse) -> Map<String, Value> {
    let moe = &model.moe;
    let num_kv_heads = match model.attention {
        Attention::GroupedQuery(grouped) => grouped.num_kv_heads,
        // The family of models with latents is another one.
        Attention::MultiHead | Attention::Latent(_) => model.num_heads,
    };
    if model.num_dense_layers > 0 {
        refuse("model.num_dense_layers", model.num_dense_layers.to_string(), "0");
    }
    if moe.shared_experts > 0 {
        refuse("model.moe.shared_experts", moe.shared_experts.to_string(), "none");
    }
    if model.expert_d_ff() != model.d_ff {
        refuse("model.moe.d_ff", model.expert_d_ff().to_string(), "one width, model.d_ff");
    }
    let Router::Mixtral { k, exploration, .. } = moe.router else {
        refuse("model.moe.router", named(&moe.router), "mixtral");
        return Map::new();
    };
    let jitter = match exploration {
        Exploration::InputJitter { epsilon } => epsilon,
        _ => 0.0,
    };
    object(json!({
        "num_key_value_heads": num_kv_heads,
        "head_dim": model.d_kv,
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": k,
        "router_jitter_noise": jitter,
        "router_aux_loss_coef": moe.load_balancing_coef,
        "sliding_window": null,
    }))
}

fn deepseek_settings(model: &ModelConfig, refuse: &mut Refuse) -> Map<String, Value> {
    let moe = &model.moe;
    let Attention::Latent(latent) = model.attention else {
        refuse("model.attention.kind", named(&model.attention), "latent");
        return Map::new();
    };
    let Router::DeepseekV3 {
        k,
        n_routing_groups,
        topk_routing_group,
        norm_topk_prob,
        routed_scaling_factor,
        ..
    } = moe.router
    else {
        refuse("model.moe.router", named(&moe.router), "deepseek_v3");
        return Map::new();
    };
    let pairing = match model.positions {
        Positions::Rotary(Rotary { pairing, .. }) => pairing,
        Positions::RelativeBuckets(_) => Pairing::Interleaved,
    };
    object(json!({
        "num_key_value_heads": model.num_heads,
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "rope_interleave": pairing == Pairing::Interleaved,
        "first_k_dense_replace": model.num_dense_layers,
        "n_routed_experts": moe.num_experts,
        "n_shared_experts": moe.shared_experts,
        "moe_intermediate_size": model.expert_d_ff(),
        "num_experts_per_tok": k,
        "n_group": n_routing_groups,
        "topk_group": topk_routing_group,
        "norm_topk_prob": norm_topk_prob,
        "routed_scaling_factor": routed_scaling_factor,
        "attention_bias": false,
    }))
}

/// Where the model behaves otherwise there.
pub fn differences(config: &RunConfig) -> Vec<String> {
    let (model, moe) = (&config.model, &config.model.moe);
    let mut found = vec![];
    if moe.capacity != (Capacity::Dropless {}) {
        found.push("no token is dropped there".into());
    }
    if !matches!(moe.router.exploration(), Exploration::InputJitter { .. } | Exploration::Argmax) {
        found.push("its only noise in training is jitter".into());
    }
    if moe.z_loss_coef > 0.0 {
        found.push("it has no z-loss of the router".into());
    }
    let balanced = matches!(moe.router, Router::DeepseekV3 { .. });
    if balanced && moe.load_balancing_coef > 0.0 {
        found.push("it has no load-balancing loss".into());
    }
    if balanced && moe.router.bias_update_rate() != Some(0.0) {
        found.push("no step moves the router's bias there".into());
    }
    if !balanced && moe.aggregation != Aggregation::Pooled {
        found.push("its load-balancing loss is that of all layers together".into());
    }
    if model.padding != Padding::Excluded {
        found.push("padding counts in no loss there, and no token attends to it".into());
    }
    found
}

fn named(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn object(tree: Value) -> Map<String, Value> {
    match tree {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
