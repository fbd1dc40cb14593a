//! What stands before the path of a layer in a backward pass: `grad/encoder/block_1/moe`.

use std::collections::HashMap;
use std::sync::Arc;

/// Before the paths of derivatives.
pub(crate) const GRAD: &str = "grad";
/// Before the paths of what is computed again for derivatives.
pub(crate) const REMAT: &str = "remat";

/// Whether a path has one of these.
pub(crate) fn is_backward(path: &str) -> bool {
    path.split('/').any(|part| part == GRAD || part == REMAT)
}

/// The path of a forward node as one of `half`, [`GRAD`] or [`REMAT`].
pub(crate) fn below(half: &str, path: &str) -> Arc<str> {
    if path.is_empty() { half.into() } else { format!("{half}/{path}").into() }
}

/// The paths of a graph that becomes part of another, each made once.
#[derive(Default)]
pub(crate) struct Moved(HashMap<(&'static str, Arc<str>), Arc<str>>);

impl Moved {
    /// `path` in a place of this path: in a backward pass it is one of that, unless it is already.
    pub fn to(&mut self, place: &str, path: &Arc<str>) -> Arc<str> {
        let half = match place.split('/').next() {
            Some(GRAD) => GRAD,
            Some(REMAT) => REMAT,
            _ => return path.clone(),
        };
        if is_backward(path) {
            return path.clone();
        }
        self.0.entry((half, path.clone())).or_insert_with(|| below(half, path)).clone()
    }
}
