//! Layer kinds from paths: `grad/encoder/block_3/moe/experts/wi` is the backward half of `encoder/block_*/moe/experts`.

use crate::ir::scope::GRAD;

/// The layer kind of a path, and whether it is under a `grad` scope.
pub fn layer_kind(op_name: &str) -> (String, bool) {
    let mut parts: Vec<&str> = op_name.split('/').filter(|p| !p.is_empty()).collect();
    let backward = parts.contains(&GRAD);
    parts.retain(|p| *p != GRAD);
    parts.pop(); // the operation itself
    if parts.is_empty() {
        return ("(no scope)".into(), backward);
    }
    let names: Vec<String> = parts.iter().map(|p| numberless(p)).collect();
    (names.join("/"), backward)
}

/// `block_3` as `block_*`; names that only contain digits inside stay.
fn numberless(part: &str) -> String {
    match part.rsplit_once('_') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{name}_*")
        }
        _ => part.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fall_together_and_gradients_apart() {
        assert_eq!(
            layer_kind("encoder/block_3/moe/router/logits"),
            ("encoder/block_*/moe/router".into(), false)
        );
        assert_eq!(
            layer_kind("grad/encoder/block_12/attention/q"),
            ("encoder/block_*/attention".into(), true)
        );
        assert_eq!(layer_kind(""), ("(no scope)".into(), false));
        assert_eq!(layer_kind("grad/x"), ("(no scope)".into(), true));
    }
}
