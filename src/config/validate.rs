//! Refuses values that no program can be built from.
//!
//! Counts are bounded so that no later product of a few of them leaves `usize`; `sizes` bounds whole tensors.

mod moe;

use std::fmt::Debug;
use std::ops::RangeInclusive;

use super::attention::{Attention, Latent, Positions, RelativeBuckets, Rotary, Yarn};
use super::data::{
    BYTES_VOCABULARY, DataConfig, NUM_SENTINELS, Objective, TokenizerSpec, span_corruption_lengths,
};
use super::distillation::Distillation;
use super::error::{ConfigError, shortened};
use super::mesh::Mesh;
use super::model::{Architecture, DecoderInputs, ModelConfig};
use super::moe::Spacing;
use super::run::RunConfig;
use super::side::Side;
use super::sizes;
use super::training::{BatchConfig, LossConfig, OptimizerConfig, Schedule};

/// XLA indices and step counters here are `s32`.
const S32_MAX: usize = i32::MAX as usize;
const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 24;
/// More than any machine has.
const MAX_REPLICAS: usize = 1 << 16;

type Checked = Result<(), ConfigError>;

impl RunConfig {
    /// Checks every field, then the sizes of all tensors; the first fault is returned.
    ///
    /// Errors: [`ConfigError::Value`] and [`ConfigError::TooLarge`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        name(&self.name)?;
        model(&self.model)?;
        batch(&self.batch)?;
        loss(&self.loss)?;
        optimizer(&self.optimizer)?;
        schedule(&self.schedule)?;
        data(&self.data)?;
        objective(self)?;
        distillation(self)?;
        vocabulary(self)?;
        mesh(self)?;
        moe::groups(self)?;
        sizes::check(self)
    }
}

fn name(name: &str) -> Checked {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits =
        name.len() <= 100 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(known);
    require(
        fits,
        "name",
        name,
        "1 to 100 letters, digits, dots, dashes and underscores, a letter or digit first",
        "demo",
    )
}

fn model(model: &ModelConfig) -> Checked {
    count("model.vocab_size", model.vocab_size, 2..=MAX_WIDTH, 32128)?;
    count("model.d_model", model.d_model, 1..=MAX_WIDTH, 512)?;
    count("model.d_ff", model.d_ff, 1..=MAX_WIDTH, 2048)?;
    count("model.d_kv", model.d_kv, 1..=1 << 16, 64)?;
    count("model.num_heads", model.num_heads, 1..=1 << 16, 8)?;
    layers(model)?;
    attention(model)?;
    positions(model)?;
    decoder(model)?;
    positive("model.norm_epsilon", model.norm_epsilon, 1e-6)?;
    rate("model.dropout", model.dropout, 0.1)?;
    positive("model.init_scale", model.init_scale, 0.1)?;
    moe::check(model)?;
    sparse_layers(model)
}

fn layers(model: &ModelConfig) -> Checked {
    count("model.num_decoder_layers", model.num_decoder_layers, 1..=MAX_LAYERS, 4)?;
    let path = "model.num_encoder_layers";
    match model.architecture {
        Architecture::EncoderDecoder => count(path, model.num_encoder_layers, 1..=MAX_LAYERS, 4),
        Architecture::DecoderOnly => require(
            model.num_encoder_layers == 0,
            path,
            model.num_encoder_layers,
            "0 in a decoder_only model",
            0,
        ),
    }
}

fn attention(model: &ModelConfig) -> Checked {
    match model.attention {
        Attention::MultiHead => Ok(()),
        Attention::GroupedQuery(grouped) => {
            let (path, heads) = ("model.attention.num_kv_heads", grouped.num_kv_heads);
            count(path, heads, 1..=model.num_heads, 1)?;
            let expected = format!("a divisor of model.num_heads = {}", model.num_heads);
            require(model.num_heads.is_multiple_of(heads), path, heads, &expected, 1)
        }
        Attention::Latent(widths) => latent(model, widths),
    }
}

fn latent(model: &ModelConfig, widths: Latent) -> Checked {
    let fits = model.architecture == Architecture::DecoderOnly;
    require(
        fits,
        "model.attention.kind",
        "latent",
        "another kind: latent attention is decoder_only",
        "multi_head",
    )?;
    let Latent { query_rank, kv_rank, nope_dim, rope_dim, value_dim } = widths;
    query_rank.map_or(Ok(()), |rank| count("model.attention.query_rank", rank, 1..=MAX_WIDTH, 1536))?;
    count("model.attention.kv_rank", kv_rank, 1..=MAX_WIDTH, 512)?;
    count("model.attention.nope_dim", nope_dim, 1..=1 << 16, 128)?;
    even("model.attention.rope_dim", rope_dim, 64)?;
    count("model.attention.value_dim", value_dim, 1..=1 << 16, 128)?;
    let rotary = matches!(model.positions, Positions::Rotary(_));
    require(
        rotary,
        "model.positions.kind",
        "relative_buckets",
        "rotary, which latent attention needs",
        "rotary",
    )
}

fn even(path: &str, found: usize, example: usize) -> Checked {
    count(path, found, 2..=1 << 16, example)?;
    require(found.is_multiple_of(2), path, found, "an even number: its elements turn in pairs", found + 1)
}

fn positions(model: &ModelConfig) -> Checked {
    match model.positions {
        Positions::RelativeBuckets(buckets) => relative(buckets),
        Positions::Rotary(rotary) => {
            if !matches!(model.attention, Attention::Latent(_)) {
                even("model.d_kv", model.d_kv, 64)?;
            }
            turns(rotary)
        }
    }
}

fn relative(positions: RelativeBuckets) -> Checked {
    let (buckets, path) = (positions.num_buckets, "model.positions.num_buckets");
    count(path, buckets, 4..=1 << 16, 32)?;
    require(
        buckets.is_multiple_of(2),
        path,
        buckets,
        "an even number: the encoder halves it by direction",
        buckets + 1,
    )?;
    // The logarithmic half of the decoder's buckets lies between num_buckets / 2 and the distance.
    count("model.positions.max_distance", positions.max_distance, buckets / 2 + 1..=S32_MAX, buckets * 4)
}

fn turns(rotary: Rotary) -> Checked {
    let above = |path: &str, found: f64, least: f64, example: f64| {
        let range = least..=f64::from(f32::MAX);
        let fits = range.contains(&found) && found > least;
        require(fits, path, found, &format!("a number above {least} that float32 holds"), example)
    };
    above("model.positions.theta", rotary.theta, 1.0, 1e4)?;
    let Some(Yarn { factor, original_length, beta_fast, beta_slow, mscale, mscale_all_dim }) = rotary.yarn
    else {
        return Ok(());
    };
    let path = "model.positions.yarn.factor";
    require((1.0..=1e6).contains(&factor), path, factor, "a number from 1 to 1000000", 40.0)?;
    count("model.positions.yarn.original_length", original_length, 1..=S32_MAX, 4096)?;
    positive("model.positions.yarn.beta_slow", beta_slow, 1.0)?;
    above("model.positions.yarn.beta_fast", beta_fast, beta_slow, beta_slow * 32.0)?;
    weight("model.positions.yarn.mscale", mscale, 1.0)?;
    weight("model.positions.yarn.mscale_all_dim", mscale_all_dim, 1.0)
}

/// What the decoder reads, and which token is padding.
fn decoder(model: &ModelConfig) -> Checked {
    let fits =
        model.decoder_inputs == DecoderInputs::ShiftRight || model.architecture == Architecture::DecoderOnly;
    let expected = "shift_right, since model.architecture is encoder_decoder";
    require(fits, "model.decoder_inputs", "tokens", expected, "shift_right")?;
    model.pad_id.map_or(Ok(()), |id| count("model.pad_id", id, 0..=model.vocab_size - 1, 0))
}

/// A model with experts has a sparse block somewhere.
fn sparse_layers(model: &ModelConfig) -> Checked {
    count("model.num_dense_layers", model.num_dense_layers, 0..=MAX_LAYERS, 0)?;
    if model.moe.num_experts == 0 || model.sparse_layers() > 0 {
        return Ok(());
    }
    let least = |side: Side| {
        let Spacing { every, offset } = model.moe.spacing(side);
        let wanted = side.layers(model) > 0 && every > 0;
        wanted.then_some((side, model.num_dense_layers + offset + 1))
    };
    let stacks = [Side::Decoder, Side::Encoder].into_iter().filter_map(least);
    match stacks.min_by_key(|(_, least)| *least) {
        Some((side, least)) => {
            let path = format!("model.num_{}_layers", side.name());
            let expected = format!("a stack of at least {least} blocks, the first with its sparse block");
            require(false, &path, side.layers(model), &expected, least)
        }
        None => {
            let expected = "a number above 0: a model with experts has a sparse block";
            require(false, "model.moe.every", model.moe.every, expected, 2)
        }
    }
}

fn batch(batch: &BatchConfig) -> Checked {
    count("batch.sequences", batch.sequences, 1..=MAX_WIDTH, 16)?;
    count("batch.input_length", batch.input_length, 1..=MAX_WIDTH, 128)?;
    count("batch.target_length", batch.target_length, 1..=MAX_WIDTH, 128)?;
    count("batch.accumulation", batch.accumulation, 1..=batch.sequences, 1)?;
    let divides = batch.sequences.is_multiple_of(batch.accumulation);
    let expected = format!("a divisor of batch.sequences = {}", batch.sequences);
    let near = (1..=batch.accumulation).rev().find(|count| batch.sequences.is_multiple_of(*count));
    require(divides, "batch.accumulation", batch.accumulation, &expected, near.unwrap_or(1))?;
    let longest = batch.input_length.max(batch.target_length);
    let most = S32_MAX / longest;
    let expected = format!("at most {most}, so that {longest} tokens each are indexed by s32");
    require(batch.sequences <= most, "batch.sequences", batch.sequences, &expected, most)
}

fn loss(loss: &LossConfig) -> Checked {
    weight("loss.z_loss", loss.z_loss, 1e-4)?;
    rate("loss.label_smoothing", loss.label_smoothing, 0.1)
}

fn optimizer(optimizer: &OptimizerConfig) -> Checked {
    let clip = match *optimizer {
        OptimizerConfig::Adafactor {
            decay_exponent,
            decay_offset,
            epsilon1,
            epsilon2,
            clip_threshold,
            min_dim_size_to_factor,
            multiply_by_parameter_scale: _,
            beta1,
            weight_decay,
            clip_global_norm,
        } => {
            positive("optimizer.decay_exponent", decay_exponent, 0.8)?;
            steps("optimizer.decay_offset", decay_offset, 0, 0)?;
            positive("optimizer.epsilon1", epsilon1, 1e-30)?;
            positive("optimizer.epsilon2", epsilon2, 1e-3)?;
            positive("optimizer.clip_threshold", clip_threshold, 1.0)?;
            count("optimizer.min_dim_size_to_factor", min_dim_size_to_factor, 1..=S32_MAX, 128)?;
            beta1.map_or(Ok(()), |beta1| rate("optimizer.beta1", beta1, 0.9))?;
            weight("optimizer.weight_decay", weight_decay, 0.01)?;
            clip_global_norm
        }
        OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay, clip_global_norm } => {
            rate("optimizer.beta1", beta1, 0.9)?;
            rate("optimizer.beta2", beta2, 0.999)?;
            positive("optimizer.epsilon", epsilon, 1e-8)?;
            weight("optimizer.weight_decay", weight_decay, 0.01)?;
            clip_global_norm
        }
    };
    clip.map_or(Ok(()), |norm| positive("optimizer.clip_global_norm", norm, 1.0))
}

fn schedule(schedule: &Schedule) -> Checked {
    match *schedule {
        Schedule::InverseSquareRoot { base, warmup_steps } => {
            weight("schedule.base", base, 1.0)?;
            steps("schedule.warmup_steps", warmup_steps, 1, 10_000)
        }
        Schedule::Cosine { peak, warmup_steps, total_steps, final_fraction } => {
            weight("schedule.peak", peak, 1e-3)?;
            steps("schedule.warmup_steps", warmup_steps, 0, 100)?;
            let after = warmup_steps + 1;
            steps("schedule.total_steps", total_steps, after, warmup_steps.saturating_mul(10).max(after))?;
            let fits = (0.0..=1.0).contains(&final_fraction);
            require(fits, "schedule.final_fraction", final_fraction, "a number from 0 to 1", 0.1)
        }
        Schedule::Constant { rate, warmup_steps } => {
            weight("schedule.rate", rate, 1e-3)?;
            steps("schedule.warmup_steps", warmup_steps, 0, 100)
        }
    }
}

fn data(data: &DataConfig) -> Checked {
    count("data.shuffle_examples", data.shuffle_examples, 1..=MAX_WIDTH, 1024)?;
    rate("data.held_out", data.held_out, 0.05)?;
    match &data.tokenizer {
        TokenizerSpec::Bytes => Ok(()),
        TokenizerSpec::HuggingFace { path, eos_token } => {
            require(!path.is_empty(), "data.tokenizer.path", path, "the path of a file", "tokenizer.json")?;
            let named = eos_token.as_ref().is_none_or(|token| !token.is_empty());
            require(named, "data.tokenizer.eos_token", "", "the text of a token, or null", "</s>")
        }
    }
}

/// The teacher predicts the same tokens from the same inputs.
fn distillation(config: &RunConfig) -> Checked {
    let Distillation { teacher, share, temperature, start_step } = &config.distillation;
    let expected = "a number from 0 to 1";
    require((0.0..=1.0).contains(share), "distillation.share", share, expected, 0.25)?;
    positive("distillation.temperature", *temperature, 1.0)?;
    steps("distillation.start_step", *start_step, 0, 0)?;
    let Some(teacher) = teacher else { return Ok(()) };
    model(teacher)?;
    let (found, own) = (teacher.vocab_size, config.model.vocab_size);
    let expected = format!("model.vocab_size = {own}: both predict the same tokens");
    require(found == own, "distillation.teacher.vocab_size", found, &expected, own)?;
    let (found, own) = (teacher.architecture, config.model.architecture);
    let expected = format!("{own:?}, as the student's: both read the same batch");
    require(found == own, "distillation.teacher.architecture", found, &expected, own)
}

/// The objective fits the architecture and the lengths of rows.
fn objective(config: &RunConfig) -> Checked {
    let varied = matches!(config.data.objective, Objective::TextToText { .. });
    let expected = "false: only examples of text_to_text can be shorter than a row";
    require(varied || !config.batch.packing, "batch.packing", config.batch.packing, expected, false)?;
    match (&config.data.objective, config.model.architecture) {
        (Objective::Causal, Architecture::DecoderOnly) => one_length(config, "each token predicts the next"),
        (Objective::SpanCorruption { noise_density, mean_span_length }, Architecture::EncoderDecoder) => {
            spans(config, *noise_density, *mean_span_length)
        }
        (Objective::TextToText { input_field, target_field }, Architecture::EncoderDecoder) => {
            pairs(config, input_field, target_field)
        }
        (Objective::Causal, Architecture::EncoderDecoder) => {
            let expected = "span_corruption or text_to_text, since model.architecture is encoder_decoder";
            require(false, "data.objective.kind", "causal", expected, "span_corruption")
        }
        (Objective::SpanCorruption { .. }, Architecture::DecoderOnly) => {
            let expected = "causal or text_to_text, since model.architecture is decoder_only";
            require(false, "data.objective.kind", "span_corruption", expected, "causal")
        }
        (Objective::TextToText { input_field, target_field }, Architecture::DecoderOnly) => {
            pairs(config, input_field, target_field)?;
            count("batch.input_length", config.batch.input_length, 3..=MAX_WIDTH, 128)?;
            one_length(config, "a target stands behind its input")
        }
    }
}

/// A decoder alone has rows of one length.
fn one_length(config: &RunConfig, reason: &str) -> Checked {
    let BatchConfig { input_length, target_length, .. } = config.batch;
    let expected = format!("batch.input_length = {input_length}: {reason}");
    let fits = target_length == input_length;
    require(fits, "batch.target_length", target_length, &expected, input_length)
}

/// Each side has room for a token and the end.
fn pairs(config: &RunConfig, input_field: &str, target_field: &str) -> Checked {
    let named = |path: &str, name: &str, example: &str| {
        require(!name.is_empty(), path, name, "the name of a field", example)
    };
    named("data.objective.input_field", input_field, "input")?;
    named("data.objective.target_field", target_field, "target")?;
    let expected = format!("another field than the input's, {input_field:?}");
    require(
        input_field != target_field,
        "data.objective.target_field",
        target_field,
        &expected,
        if input_field == "target" { "output" } else { "target" },
    )?;
    count("batch.input_length", config.batch.input_length, 2..=MAX_WIDTH, 128)?;
    count("batch.target_length", config.batch.target_length, 2..=MAX_WIDTH, 128)
}

fn spans(config: &RunConfig, density: f64, mean: f64) -> Checked {
    let path = "data.objective.noise_density";
    require(density > 0.0 && density < 1.0, path, density, "a number above 0 and below 1", 0.15)?;
    let mean_path = "data.objective.mean_span_length";
    require((1.0..=1e6).contains(&mean), mean_path, mean, "a number from 1 to 1000000", 3.0)?;
    let BatchConfig { input_length, target_length, .. } = config.batch;
    count("batch.input_length", input_length, 3..=MAX_WIDTH, 128)?;
    let exact = span_corruption_lengths(input_length, density, mean);
    let kept = exact.tokens.saturating_sub(exact.noise_tokens);
    let wanted = (exact.noise_tokens as f64 / mean).round_ties_even();
    let expected = format!("fewer replaced tokens: {wanted} spans need as many kept tokens, not {kept}");
    require(wanted <= kept as f64, path, density, &expected, 0.15)?;
    let expected =
        format!("at least {}, which span corruption fills from {input_length} inputs", exact.targets);
    require(target_length >= exact.targets, "batch.target_length", target_length, &expected, exact.targets)?;
    let enough = config.data.tokenizer != TokenizerSpec::Bytes || exact.spans <= NUM_SENTINELS;
    let expected = format!("longer spans: {} of them need more than {NUM_SENTINELS} sentinels", exact.spans);
    require(enough, mean_path, mean, &expected, mean_for_sentinels(input_length, density, exact.noise_tokens))
}

/// A whole mean length with which the sentinels suffice.
fn mean_for_sentinels(input_length: usize, density: f64, noise_tokens: usize) -> f64 {
    let first = noise_tokens.div_ceil(NUM_SENTINELS) as f64;
    // Longer spans leave room for more text, so the first guess can just fail.
    let guesses = (0..64).map(|power| first * 1.25_f64.powi(power)).map(f64::ceil);
    let fits = |mean: &f64| span_corruption_lengths(input_length, density, *mean).spans <= NUM_SENTINELS;
    guesses.into_iter().find(fits).unwrap_or(first)
}

fn vocabulary(config: &RunConfig) -> Checked {
    let found = config.model.vocab_size;
    let enough = config.data.tokenizer != TokenizerSpec::Bytes || found >= BYTES_VOCABULARY;
    let expected =
        format!("at least {BYTES_VOCABULARY}: 3 special ids, 256 bytes, {NUM_SENTINELS} sentinels");
    require(enough, "model.vocab_size", found, &expected, BYTES_VOCABULARY.next_multiple_of(128))
}

/// The mesh divides what is split over it.
fn mesh(config: &RunConfig) -> Checked {
    let Mesh { data, expert, model, shard_state: _, shard_vocabulary } = config.mesh;
    for (path, size) in [("mesh.data", data), ("mesh.expert", expert), ("mesh.model", model)] {
        count(path, size, 1..=MAX_REPLICAS, 1)?;
    }
    let (network, sequences) = (&config.model, config.batch.sequences_per_microbatch());
    let total = data.saturating_mul(expert).saturating_mul(model);
    let expected = format!("at most {MAX_REPLICAS} devices in all, not {total}");
    require(total <= MAX_REPLICAS, "mesh.data", data, &expected, (MAX_REPLICAS / expert / model).max(1))?;
    match network.moe.num_experts {
        0 => require(expert == 1, "mesh.expert", expert, "1, since the model has no experts", 1)?,
        experts => divides("mesh.expert", expert, "model.moe.num_experts", experts)?,
    }
    let rows = "batch.sequences / batch.accumulation";
    divides("mesh.expert", expert, rows, sequences)?;
    let rows = format!("{rows} / mesh.expert");
    divides("mesh.data", data, &rows, sequences / expert)?;
    divides("mesh.model", model, "model.num_heads", network.num_heads)?;
    if let Attention::GroupedQuery(grouped) = network.attention {
        divides("mesh.model", model, "model.attention.num_kv_heads", grouped.num_kv_heads)?;
    }
    if shard_vocabulary {
        divides("mesh.model", model, "model.vocab_size", network.vocab_size)?;
    }
    divides("mesh.model", model, "model.d_ff", network.d_ff)?;
    match network.moe.num_experts {
        0 => Ok(()),
        _ => divides("mesh.model", model, "model.moe.d_ff", network.expert_d_ff()),
    }
}

/// A size of the mesh divides what is split over its axis.
fn divides(path: &str, size: usize, whole: &str, count: usize) -> Checked {
    let below = (1..=size.min(count)).rev().find(|n| count.is_multiple_of(*n)).unwrap_or(1);
    let above = (size..=count).find(|n| count.is_multiple_of(*n));
    let near = above.map_or(below.to_string(), |above| format!("{below} or {above}"));
    let expected = format!("a divisor of {whole} = {count}, of which the nearest are {near}");
    require(size > 0 && count.is_multiple_of(size), path, size, &expected, below)
}

fn count(path: &str, found: usize, allowed: RangeInclusive<usize>, example: usize) -> Checked {
    let expected = format!("a whole number from {} to {}", allowed.start(), allowed.end());
    require(allowed.contains(&found), path, found, &expected, example.clamp(*allowed.start(), *allowed.end()))
}

fn steps(path: &str, found: u64, least: u64, example: u64) -> Checked {
    let most = S32_MAX as u64;
    let expected = format!("a number of steps from {least} to {most}");
    require((least..=most).contains(&found), path, found, &expected, example.min(most))
}

/// A share that leaves something: NaN is outside of every range.
fn rate(path: &str, found: f64, example: f64) -> Checked {
    require((0.0..1.0).contains(&found), path, found, "a number from 0 to below 1", example)
}

/// Programs hold these as float32, where a smaller number would be 0.
fn positive(path: &str, found: f64, example: f64) -> Checked {
    let range = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
    require(range.contains(&found), path, found, "a number above 0 that float32 holds", example)
}

fn weight(path: &str, found: f64, example: f64) -> Checked {
    let range = 0.0..=f64::from(f32::MAX);
    require(range.contains(&found), path, found, "0 or a larger number that float32 holds", example)
}

fn require(fits: bool, path: &str, found: impl Debug, expected: &str, example: impl Debug) -> Checked {
    if fits {
        return Ok(());
    }
    Err(ConfigError::Value {
        path: path.to_owned(),
        found: shortened(&format!("{found:?}"), 60),
        expected: expected.to_owned(),
        example: format!("{example:?}"),
    })
}
