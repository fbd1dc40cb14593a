//! Configurations that differ from one another in a few fields.

use serde_json::Value;
use switchyard::config::RunConfig;

/// The configuration of a JSON text after these changes, which name fields by paths such as `model.moe.every`.
pub fn config(base: &str, changes: &[(&str, Value)]) -> RunConfig {
    let mut json: Value = serde_json::from_str(base).unwrap();
    for (path, value) in changes {
        let mut place = &mut json;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.clone();
    }
    RunConfig::from_json(&json.to_string()).unwrap()
}
