//! The keys that a tree may have, taken from the types themselves: a printed value names all its fields.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::attention::{Attention, GroupedQuery, Latent, Positions, Rotary, Yarn};
use super::capacity::Capacity;
use super::data::{Objective, TokenizerSpec};
use super::error::{ConfigError, shortened};
use super::router::{Exploration, Router, Second};
use super::run::RunConfig;
use super::training::{OptimizerConfig, Schedule};

/// The default configuration as a tree: every field, and the default variant of each choice.
pub(super) fn template() -> Value {
    tree_of(&RunConfig::default())
}

/// One tree per variant of the choice at `path`; empty where no choice is.
pub(super) fn variants(path: &str) -> Vec<Value> {
    match path {
        "model.attention" => {
            let latent = Latent { query_rank: Some(64), ..Latent::default() };
            let grouped = Attention::GroupedQuery(GroupedQuery::default());
            trees(&[Attention::default(), grouped, Attention::Latent(latent)])
        }
        "model.positions" => {
            let rotary = Rotary { yarn: Some(Yarn::default()), ..Rotary::default() };
            trees(&[Positions::default(), Positions::Rotary(rotary)])
        }
        "model.moe.router" | "model.moe.decoder_router" => trees(&Router::KINDS),
        "model.moe.router.exploration" | "model.moe.decoder_router.exploration" => trees(&[
            Exploration::default(),
            Exploration::Argmax,
            Exploration::InputDropout { rate: 0.1 },
            Exploration::Sample { temperature: 1.0 },
        ]),
        "model.moe.router.second"
        | "model.moe.router.second_eval"
        | "model.moe.decoder_router.second"
        | "model.moe.decoder_router.second_eval" => {
            trees(&[Second::default(), Second::Threshold { threshold: 0.2 }, Second::All])
        }
        "model.moe.capacity" => trees(&Capacity::KINDS),
        "optimizer" => trees(&[OptimizerConfig::default(), OptimizerConfig::adamw()]),
        "schedule" => trees(&[Schedule::default(), Schedule::cosine(), Schedule::constant()]),
        "data.objective" => trees(&[Objective::default(), Objective::Causal, Objective::text_to_text()]),
        "data.tokenizer" => {
            let (path, eos_token) = ("tokenizer.json".to_owned(), Some("</s>".to_owned()));
            trees(&[TokenizerSpec::Bytes, TokenizerSpec::HuggingFace { path, eos_token }])
        }
        _ => Vec::new(),
    }
}

fn trees<T: Serialize>(values: &[T]) -> Vec<Value> {
    values.iter().map(tree_of).collect()
}

/// The types here always print; should one not, its keys are unknown rather than a panic.
fn tree_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Names the kind of a capacity that is given by its factors alone, as most files do.
pub(super) fn name_capacity(tree: &mut Value) {
    let capacity = tree.pointer_mut("/model/moe/capacity").and_then(Value::as_object_mut);
    if let (Some(capacity), Some(kind)) = (capacity, template().pointer("/model/moe/capacity/kind")) {
        capacity.entry("kind").or_insert_with(|| kind.clone());
    }
}

/// Refuses keys that no field has, and choices without a known `kind`. Types of values are left to `serde`.
pub(super) fn check_keys(tree: &Value) -> Result<(), ConfigError> {
    check_object(tree, &template(), "")
}

fn check_object(found: &Value, template: &Value, path: &str) -> Result<(), ConfigError> {
    let Value::Object(found) = found else { return Ok(()) };
    let variants = variants(path);
    let allowed = match template {
        _ if !variants.is_empty() => variant(found, &variants, path)?,
        Value::Object(default) => default,
        _ => return Ok(()),
    };
    for (key, value) in found {
        let inner = join(path, key);
        match allowed.get(key) {
            Some(template) => check_object(value, template, &inner)?,
            None => return Err(unknown(inner, key, allowed)),
        }
    }
    Ok(())
}

/// The template of the variant that `found` names.
fn variant<'a>(
    found: &Map<String, Value>,
    variants: &'a [Value],
    path: &str,
) -> Result<&'a Map<String, Value>, ConfigError> {
    let kind = found.get("kind");
    let matching = variants.iter().filter_map(Value::as_object).find(|object| object.get("kind") == kind);
    matching.ok_or_else(|| ConfigError::Value {
        path: join(path, "kind"),
        found: kind.map_or("nothing".to_owned(), |kind| shortened(&kind.to_string(), 60)),
        expected: format!("one of {}", kinds(variants).join(", ")),
        example: kinds(variants).first().cloned().unwrap_or_default(),
    })
}

fn kinds(variants: &[Value]) -> Vec<String> {
    variants.iter().filter_map(|object| object.get("kind")).map(Value::to_string).collect()
}

/// The error for `key`, whose full path is `path`.
pub(super) fn unknown(path: String, key: &str, allowed: &Map<String, Value>) -> ConfigError {
    let closest = closest(key, allowed.keys().map(String::as_str)).map(str::to_owned);
    ConfigError::UnknownField {
        path: shortened(&path, 200),
        allowed: allowed.keys().cloned().collect(),
        closest,
    }
}

/// The path of a field of the object at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads a tree whose keys are known; an error names the field.
pub(super) fn typed<T: DeserializeOwned>(tree: &Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let mut path = error.path().to_string();
        let message = shortened(&error.inner().to_string(), 200);
        if path == "." {
            path = "config".to_owned();
        } else if !variants(&path).is_empty() {
            path = culprit::<T>(tree, &path, &error.inner().to_string()).unwrap_or(path);
        }
        let example = example(tree, &path).map(|value| value.to_string());
        ConfigError::Type { path: shortened(&path, 200), message, example }
    })
}

/// The field inside the choice at `path` that causes `message`: `serde` buffers choices and loses their paths.
///
/// It is the field without which (all but the kind have defaults or complain otherwise) the message changes.
fn culprit<T: DeserializeOwned>(tree: &Value, path: &str, message: &str) -> Option<String> {
    let pointer = pointer(path);
    let keys: Vec<&String> =
        tree.pointer(&pointer)?.as_object()?.keys().filter(|key| *key != "kind").collect();
    let key = keys.into_iter().find(|key| {
        let mut without = tree.clone();
        let object = without.pointer_mut(&pointer).and_then(Value::as_object_mut);
        object.and_then(|object| object.remove(*key));
        serde_path_to_error::deserialize::<_, T>(&without)
            .map_or_else(|error| error.inner().to_string() != message, |_| true)
    })?;
    let inner = join(path, key);
    if variants(&inner).is_empty() {
        Some(inner)
    } else {
        culprit::<T>(tree, &inner, message).or(Some(inner))
    }
}

/// A value that fits at `path`: that of the default configuration or of the variant which the tree names.
fn example(tree: &Value, path: &str) -> Option<Value> {
    let from_default = || template().pointer(&pointer(path)).cloned();
    let Some((parent, key)) = path.rsplit_once('.') else { return from_default() };
    let kind = tree.pointer(&pointer(parent)).and_then(|object| object.get("kind"));
    let variant = variants(parent).into_iter().find(|variant| variant.get("kind") == kind);
    let value = variant.and_then(|variant| variant.get(key).cloned()).or_else(from_default)?;
    // An optional number has no value by default.
    Some(if value.is_null() { Value::from(1) } else { value })
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

/// The name that takes fewest edits to reach, if that is at most a third of its letters (and 2 for short names).
fn closest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Distances cost the product of lengths; no field name is longer than this.
    if wrong.len() > 64 {
        return None;
    }
    let near = names.map(|name| (edits(wrong, name), name));
    near.filter(|(distance, name)| *distance <= (name.len() / 3).max(2))
        .min_by_key(|near| near.0)
        .map(|near| near.1)
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut next = vec![i + 1];
        let mut previous = i + 1;
        for ((b, diagonal), above) in right.iter().zip(&row).zip(row.iter().skip(1)) {
            previous = (diagonal + usize::from(a != *b)).min(above + 1).min(previous + 1);
            next.push(previous);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_insertions_deletions_and_replacements() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("d_model", "d_model"), 0);
    }

    #[test]
    fn only_near_names_are_proposed() {
        let names = ["num_experts", "every", "d_ff"];
        assert_eq!(closest("num_expert", names.into_iter()), Some("num_experts"));
        assert_eq!(closest("dff", names.into_iter()), Some("d_ff"));
        assert_eq!(closest("temperature", names.into_iter()), None);
    }

    #[test]
    fn the_first_variant_of_each_choice_is_the_default() {
        fn walk(value: &Value, path: &str) {
            if let Some(first) = variants(path).first().filter(|_| !value.is_null()) {
                assert_eq!(first, value, "{path}");
            }
            for (key, inner) in value.as_object().into_iter().flatten() {
                walk(inner, &join(path, key));
            }
        }
        walk(&template(), "");
    }
}
