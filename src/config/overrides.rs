//! `key=value` settings on top of a file.

use serde_json::{Map, Value};

use super::error::{ConfigError, shortened};
use super::json;
use super::schema::{join, template, unknown, variants};

/// Applies `path.to.field=value` settings to a tree, in order. Values are JSON; what is not JSON is a string.
///
/// Settings of a `kind` come first: a new kind replaces the object, whose other fields belong to the old one.
/// Objects on the way that the file omits are made, with their default kind.
pub(super) fn apply(tree: &mut Value, settings: &[String]) -> Result<(), ConfigError> {
    let mut parsed = settings.iter().map(|text| Setting::parse(text)).collect::<Result<Vec<_>, _>>()?;
    // Outer kinds before inner ones, then all else as given: the sort is stable.
    parsed.sort_by_key(|setting| match setting.keys.as_slice() {
        keys if keys.last() == Some(&"kind") => keys.len(),
        _ => usize::MAX,
    });
    parsed.iter().try_for_each(|setting| setting.apply(tree))
}

struct Setting<'a> {
    text: &'a str,
    keys: Vec<&'a str>,
    value: Value,
}

impl<'a> Setting<'a> {
    fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let (path, value) =
            text.split_once('=').ok_or_else(|| refused(text, "expected key=value, for example seed=1"))?;
        let keys: Vec<&str> = path.trim().split('.').collect();
        if keys.iter().any(|key| key.is_empty()) {
            return Err(refused(
                text,
                "expected field names joined by dots before =, for example model.d_ff=512",
            ));
        }
        let value = json::parse(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { text, keys, value })
    }

    fn apply(&self, tree: &mut Value) -> Result<(), ConfigError> {
        let Some((last, parents)) = self.keys.split_last() else { return Ok(()) };
        let (mut here, mut path, mut default) = (tree, String::new(), template());
        for key in parents {
            // Checked before anything is made, so that an unknown section is named as it was given.
            let inner = join(&path, key);
            let object = self.object(here, &path)?;
            let allowed = allowed_keys(object, &default, &path);
            default = allowed.get(*key).cloned().ok_or_else(|| unknown(inner.clone(), key, &allowed))?;
            here = object.entry(*key).or_insert_with(|| started(&default));
            path = inner;
        }
        let object = self.object(here, &path)?;
        if *last == "kind" && object.get("kind") != Some(&self.value) && !variants(&path).is_empty() {
            object.clear();
        }
        object.insert((*last).to_owned(), self.value.clone());
        Ok(())
    }

    fn object<'t>(
        &self,
        value: &'t mut Value,
        path: &str,
    ) -> Result<&'t mut Map<String, Value>, ConfigError> {
        let found = shortened(&value.to_string(), 60);
        let reason = format!("expected an object at `{path}`, found {found}");
        value.as_object_mut().ok_or_else(|| refused(self.text, &reason))
    }
}

/// The fields of the object at `path`: those of its variant, where it is a choice.
fn allowed_keys(object: &Map<String, Value>, default: &Value, path: &str) -> Map<String, Value> {
    let variant = variants(path).into_iter().find(|variant| variant.get("kind") == object.get("kind"));
    match variant.unwrap_or_else(|| default.clone()) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// An omitted object: empty but for its default kind.
fn started(default: &Value) -> Value {
    let kind = default.get("kind").map(|kind| ("kind".to_owned(), kind.clone()));
    Value::Object(kind.into_iter().collect())
}

fn refused(text: &str, reason: &str) -> ConfigError {
    ConfigError::Override { text: shortened(text, 120), reason: reason.to_owned() }
}
