//! Element counts of the largest tensors, before any is described.

use super::attention::Attention;
use super::capacity::Groups;
use super::error::ConfigError;
use super::model::ModelConfig;
use super::moe::Dispatch;
use super::run::RunConfig;
use super::side::Side;

/// With a byte size of at most 8 and at most 2^12 layers, every later product stays below 2^63.
const MAX_ELEMENTS: u128 = 1 << 48;

/// Slots are numbered by `s32`.
const MAX_SLOTS: u128 = 1 << 31;

struct Tensor<'a> {
    path: &'static str,
    name: &'static str,
    dims: &'a [usize],
    fields: &'static str,
    limit: u128,
}

/// Refuses the first tensor with more elements than can be counted later; wants fields within their ranges.
pub(super) fn check(config: &RunConfig) -> Result<(), ConfigError> {
    weights(config)?;
    activations(config)?;
    experts(config)
}

fn weights(config: &RunConfig) -> Result<(), ConfigError> {
    let model = &config.model;
    let layers = model.num_encoder_layers.max(model.num_decoder_layers);
    elements("model.vocab_size", "the embedding", &[model.vocab_size, model.d_model], "vocab_size, d_model")?;
    let widths = model.attention_widths();
    let heads = widths.queries.max(widths.keys).max(widths.output);
    let attention = [layers, model.d_model, heads];
    elements("model.d_model", "a stack's attention weight", &attention, "layers, d_model, num_heads, d_kv")?;
    latents(model, layers)?;
    let feed_forward = [layers, model.d_model, model.d_ff];
    elements("model.d_ff", "a stack's feed-forward weight", &feed_forward, "layers, d_model, d_ff")?;
    let experts = [layers, model.moe.num_experts, model.d_model, model.expert_d_ff()];
    let fields = "layers, moe.num_experts, d_model, moe.d_ff";
    elements("model.moe.num_experts", "a stack's expert weight", &experts, fields)?;
    if !model.moe.sublayers.attention() {
        return Ok(());
    }
    let experts = [layers, model.moe.num_experts, model.d_model, heads];
    let fields = "layers, moe.num_experts, d_model, num_heads, d_kv";
    elements("model.moe.sublayers", "a stack's expert weight in attention", &experts, fields)
}

/// The matrices between latents and heads.
fn latents(model: &ModelConfig, layers: usize) -> Result<(), ConfigError> {
    let Attention::Latent(latent) = model.attention else { return Ok(()) };
    let rank = latent.query_rank.unwrap_or(0).max(latent.kv_rank);
    let width = latent.nope_dim + latent.rope_dim.max(latent.value_dim);
    let dims = [layers, rank, model.num_heads, width];
    elements(
        "model.attention.kv_rank",
        "a stack's attention weight",
        &dims,
        "layers, ranks, num_heads, widths",
    )
}

fn activations(config: &RunConfig) -> Result<(), ConfigError> {
    let (model, batch) = (&config.model, &config.batch);
    let sequences = batch.sequences_per_microbatch();
    let length = batch.input_length.max(batch.target_length);
    let scores = [sequences, model.num_heads, length, length];
    elements(
        "batch.input_length",
        "attention scores",
        &scores,
        "sequences, num_heads, the longer length (twice)",
    )?;
    let widths = model.attention_widths();
    let widest = model.d_ff.max(model.d_model).max(widths.queries).max(widths.output);
    let fields = "sequences, the longer length, d_ff or d_model or num_heads x d_kv";
    elements("batch.sequences", "a hidden activation", &[sequences, length, widest], fields)?;
    let logits = [sequences, batch.target_length, model.vocab_size];
    elements("batch.target_length", "output logits", &logits, "sequences, target_length, vocab_size")
}

/// Buffers and masks of the sparse layers, in training and in evaluation, of both stacks.
fn experts(config: &RunConfig) -> Result<(), ConfigError> {
    let moe = &config.model.moe;
    if moe.num_experts == 0 {
        return Ok(());
    }
    let sparse = |side: &Side| config.model.sparse_blocks(*side) > 0;
    let sides: Vec<Side> = Side::BOTH.into_iter().filter(sparse).collect();
    for &side in &sides {
        let choices_of = side.router(&config.model).choices();
        choices(config.groups(side), choices_of.unwrap_or(moe.num_experts), moe.num_experts)?;
    }
    let groups = sides.iter().map(|side| config.groups(*side));
    for (groups, train) in groups.flat_map(|groups| [(groups, true), (groups, false)]) {
        let capacity = moe.capacity_for(groups.tokens_per_group, train);
        let path = moe.capacity.path(train);
        let fields = "groups, moe.num_experts, capacity";
        let dims = [groups.num_groups, moe.num_experts, capacity];
        bounded(Tensor {
            path,
            name: "the table of expert slots",
            dims: &dims,
            fields,
            limit: MAX_SLOTS - 1,
        })?;
        let width = expert_width(&config.model);
        let buffer = [groups.num_groups, moe.num_experts, capacity, width];
        elements(
            path,
            "the experts' activation",
            &buffer,
            "groups, moe.num_experts, capacity, moe.d_ff or d_model or num_heads x d_kv",
        )?;
        if moe.dispatch == Dispatch::Einsum {
            let mask = [groups.num_groups, groups.tokens_per_group, moe.num_experts, capacity];
            elements(path, "a dispatch mask", &mask, "groups, tokens per group, moe.num_experts, capacity")?;
        }
    }
    Ok(())
}

/// Of the widest activation of an expert: in attention, queries, keys and values beside one another.
fn expert_width(model: &ModelConfig) -> usize {
    let widest = model.expert_d_ff().max(model.d_model);
    let widths = model.attention_widths();
    let projections = widths.queries.saturating_add(widths.keys).saturating_add(widths.values);
    if model.moe.sublayers.attention() { widest.max(projections) } else { widest }
}

/// What ranks the tokens: choices are counted by `s32`, and marked one by one.
fn choices(groups: Groups, choices: usize, experts: usize) -> Result<(), ConfigError> {
    let Groups { num_groups, tokens_per_group } = groups;
    bounded(Tensor {
        path: "model.moe.router",
        name: "the table of choices",
        dims: &[num_groups, tokens_per_group, choices],
        fields: "groups, tokens per group, choices",
        limit: MAX_SLOTS - 1,
    })?;
    let marks = [num_groups, tokens_per_group, choices, experts];
    elements(
        "model.moe.router",
        "marks of choices",
        &marks,
        "groups, tokens per group, choices, moe.num_experts",
    )
}

fn elements(
    path: &'static str,
    name: &'static str,
    dims: &[usize],
    fields: &'static str,
) -> Result<(), ConfigError> {
    bounded(Tensor { path, name, dims, fields, limit: MAX_ELEMENTS })
}

fn bounded(tensor: Tensor<'_>) -> Result<(), ConfigError> {
    // Dimensions are below 2^32 and there are at most 4 of them.
    let elements = tensor.dims.iter().fold(1_u128, |all, dim| all.saturating_mul(*dim as u128));
    if elements <= tensor.limit {
        return Ok(());
    }
    let dims: Vec<String> = tensor.dims.iter().map(usize::to_string).collect();
    Err(ConfigError::TooLarge {
        path: tensor.path,
        tensor: tensor.name,
        dims: dims.join(" x "),
        elements,
        limit: tensor.limit,
        fields: tensor.fields,
    })
}
