//! Rotary positions in `config.json`: `rope_theta` with `rope_scaling`, or all of it in `rope_parameters`.

use super::settings::Settings;
use crate::config::{Pairing, Rotary, Yarn};
use serde_json::{Map, Value, json};

/// What scores are multiplied with there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// One over the root of the width of a key (Mixtral).
    ByWidth,
    /// That, and the squared temperature of `mscale_all_dim` (DeepSeek).
    ByTemperature,
}

/// The positions that the settings describe; `theta` where they name none.
pub fn read(settings: &mut Settings, scores: Scores, theta: f64, pairing: Pairing) -> Rotary {
    settings.only("partial_rotary_factor", 1.0);
    let theta = settings.number("rope_theta", theta);
    let longest = settings.count("max_position_embeddings", 4096);
    // Where both are there, the older name is taken.
    let key = if settings.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" };
    let Some(mut rope) = settings.nested(key) else { return Rotary { theta, pairing, yarn: None } };
    let theta = rope.number("rope_theta", theta);
    rope.only("partial_rotary_factor", 1.0);
    let kind = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    let stretched = rope.choice(kind, &[("default", false), ("yarn", true)], false);
    let yarn = stretched.then(|| yarn(&mut rope, scores, longest));
    Rotary { theta, pairing, yarn }
}

fn yarn(rope: &mut Settings, scores: Scores, longest: usize) -> Yarn {
    rope.only("truncate", true);
    rope.absent("attention_factor", "none: it follows from factor and mscale");
    let original_length = rope.count("original_max_position_embeddings", longest);
    if scores == Scores::ByWidth {
        rope.only("mscale_all_dim", 0.0);
    }
    Yarn {
        factor: rope.number("factor", longest as f64 / original_length.max(1) as f64),
        original_length,
        beta_fast: rope.number("beta_fast", 32.0),
        beta_slow: rope.number("beta_slow", 1.0),
        mscale: rope.number("mscale", 0.0),
        mscale_all_dim: rope.number("mscale_all_dim", 0.0),
    }
}

/// The settings for these positions: none where those `before` say the same already, in whatever form.
pub fn settings(
    rotary: Rotary,
    scores: Scores,
    theta: f64,
    before: &Map<String, Value>,
    refuse: &mut impl FnMut(&'static str, String, &str),
) -> Map<String, Value> {
    let mut problems = vec![];
    let said = read(&mut Settings::new(before, &mut problems), scores, theta, rotary.pairing);
    if !before.is_empty() && problems.is_empty() && said == rotary {
        return Map::new();
    }
    if scores == Scores::ByWidth && rotary.pairing != Pairing::Halves {
        refuse("model.positions.pairing", "interleaved".into(), "halves");
    }
    let mut rope = json!({ "rope_type": "default", "rope_theta": rotary.theta });
    if let Some(yarn) = rotary.yarn {
        if scores == Scores::ByWidth && yarn.mscale_all_dim != 0.0 {
            refuse("model.positions.yarn.mscale_all_dim", yarn.mscale_all_dim.to_string(), "0");
        }
        rope = json!({
            "rope_type": "yarn",
            "rope_theta": rotary.theta,
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_length,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "mscale": yarn.mscale,
            "mscale_all_dim": yarn.mscale_all_dim,
        });
    }
    // Under both names, so that older versions find them too.
    let scaling = if rotary.yarn.is_some() { rope.clone() } else { Value::Null };
    let all = [("rope_theta", rotary.theta.into()), ("rope_scaling", scaling), ("rope_parameters", rope)];
    all.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}
