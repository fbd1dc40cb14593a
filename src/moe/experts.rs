//! The experts: one feed-forward network each, run as batched products over `[experts, slots, d_model]`.

use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::Value;
use crate::layers::{Context, Params, dropout, feed_forward};
use crate::shard::{Axis, MODEL};

/// How `[experts, slots, d_ff]` is split over the mesh: the slots of all groups of the devices along `expert` are here.
const HIDDEN: &[(usize, &[Axis])] = &[(0, &[Axis::Expert]), (1, &[Axis::Data]), (2, MODEL)];

pub fn declare(params: &mut Params, config: &ModelConfig) {
    let [experts, model, inner] = [config.moe.num_experts, config.d_model, config.expert_d_ff()];
    for name in feed_forward::inputs(config.feed_forward) {
        params.expert_matrices(name, [experts, model, inner], config.init_scale).split(-1, Axis::Model);
    }
    params.expert_matrices("wo", [experts, inner, model], config.init_scale).split(-2, Axis::Model);
}

/// Each expert's network on its own slots: `[experts, slots, d_model]` -> the same, of this device's experts; a part of the sum
/// over `model`. Expert dropout is on the hidden activation only (Switch Transformer, section 2.4).
pub fn apply(b: &mut Builder, cx: &Context, x: Value) -> Result<Value, BuildError> {
    let hidden = feed_forward::hidden(b, cx, "etd,edf->etf", x)?;
    let hidden = dropout::dropout_split(b, cx, ("hidden", cx.config.moe.expert_dropout), hidden, HIDDEN)?;
    let wo = cx.weight(b, "wo")?;
    b.einsum("etf,efd->etd", hidden, wo)
}

/// Experts that every token goes to: together one network of their joint hidden width.
pub fn declare_shared(params: &mut Params, config: &ModelConfig) {
    let (model, inner) = (config.d_model, shared_d_ff(config));
    for name in feed_forward::inputs(config.feed_forward) {
        params.matrix(name, [model, inner], config.init_scale).split(-1, Axis::Model);
    }
    params.matrix("wo", [inner, model], config.init_scale).split(-2, Axis::Model);
}

/// `[batch, length, d_model]` -> the same; a part of the sum over `model`.
pub fn apply_shared(b: &mut Builder, cx: &Context, x: Value) -> Result<Value, BuildError> {
    let hidden = feed_forward::hidden(b, cx, "bld,df->blf", x)?;
    let site = ("hidden", cx.config.moe.expert_dropout);
    let hidden = dropout::dropout_split(b, cx, site, hidden, feed_forward::HIDDEN)?;
    let wo = cx.weight(b, "wo")?;
    b.einsum("blf,fd->bld", hidden, wo)
}

fn shared_d_ff(config: &ModelConfig) -> usize {
    config.moe.shared_experts * config.expert_d_ff()
}
