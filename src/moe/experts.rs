//! The experts: one feed-forward network each, run as batched products over `[experts, slots, d_model]`.

use crate::build::{BuildError, Builder};
use crate::config::ModelConfig;
use crate::ir::Value;
use crate::layers::{Context, Params, dropout, feed_forward};

pub fn declare(params: &mut Params, config: &ModelConfig) {
    let [experts, model, inner] = [config.moe.num_experts, config.d_model, config.expert_d_ff()];
    for name in feed_forward::inputs(config.feed_forward) {
        params.expert_matrices(name, [experts, model, inner], config.init_scale);
    }
    params.expert_matrices("wo", [experts, inner, model], config.init_scale);
}

/// Each expert's network on its own slots: `[experts, slots, d_model]` -> the same. Expert dropout is on the hidden activation
/// only (Switch Transformer, section 2.4).
pub fn apply(b: &mut Builder, cx: &Context, x: Value) -> Result<Value, BuildError> {
    let hidden = feed_forward::hidden(b, cx, "etd,edf->etf", x)?;
    let hidden = dropout::dropout(b, cx, "hidden", cx.config.moe.expert_dropout, hidden)?;
    let wo = cx.weight(b, "wo")?;
    b.einsum("etf,efd->etd", hidden, wo)
}

/// Experts that every token goes to: together one network of their joint hidden width.
pub fn declare_shared(params: &mut Params, config: &ModelConfig) {
    let (model, inner) = (config.d_model, shared_d_ff(config));
    for name in feed_forward::inputs(config.feed_forward) {
        params.matrix(name, [model, inner], config.init_scale);
    }
    params.matrix("wo", [inner, model], config.init_scale);
}

/// `[batch, length, d_model]` -> the same.
pub fn apply_shared(b: &mut Builder, cx: &Context, x: Value) -> Result<Value, BuildError> {
    let hidden = feed_forward::hidden(b, cx, "bld,df->blf", x)?;
    let hidden = dropout::dropout(b, cx, "hidden", cx.config.moe.expert_dropout, hidden)?;
    let wo = cx.weight(b, "wo")?;
    b.einsum("blf,fd->bld", hidden, wo)
}

fn shared_d_ff(config: &ModelConfig) -> usize {
    config.moe.shared_experts * config.expert_d_ff()
}
