//! Programs without an update: `eval_step`, `forward`, `gradients`.

use super::loss::{self, LAYER_METRICS, Losses, per_token};
use super::program::{Assembly, Output};
use super::state::Layout;
use crate::build::{BuildError, Builder};
use crate::config::RunConfig;
use crate::grad;
use crate::ir::Value;
use crate::layers::Context;
use crate::model::{self, Batch};

/// Parameters and batch -> sums over the batch's tokens (so that batches add up) and per-layer statistics.
pub(super) fn eval_step(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    with_network(a, |b, cx, a, batch| {
        let (losses, _) = loss::losses(b, a.config, cx, &a.layout.params, batch, None)?;
        let mut outputs = vec![];
        let sums = [
            ("cross_entropy_sum", losses.cross_entropy),
            ("correct_sum", losses.correct),
            ("tokens", losses.tokens),
            ("exact_sum", losses.exact),
            ("sequences", losses.sequences),
        ];
        outputs.extend(sums.map(|(name, value)| Output::Plain(name.into(), value)));
        let named = LAYER_METRICS.iter().zip(losses.layers);
        outputs.extend(named.map(|(name, value)| Output::Plain(format!("layers/{name}"), value)));
        Ok(outputs)
    })
}

/// Parameters and batch -> logits, losses, router decisions, statistics.
pub(super) fn forward(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    with_network(a, |b, cx, a, batch| {
        let (losses, forward) = loss::losses(b, a.config, cx, &a.layout.params, batch, None)?;
        let logits = forward.logits(b, cx)?;
        let cross_entropy = per_token(b, losses.cross_entropy, losses.tokens)?;
        let loss = total(b, &losses)?;
        let mut outputs = vec![
            Output::Rows("logits".into(), logits, 0),
            Output::Plain("loss".into(), loss),
            Output::Plain("cross_entropy".into(), cross_entropy),
        ];
        if let Some(memory) = forward.memory {
            outputs.push(Output::Rows("encoder_states".into(), memory, 0));
        }
        outputs.push(Output::Rows("decoder_states".into(), forward.hidden, 0));
        for (side, stats) in &forward.stats {
            // `s32[sparse layers, batch, length, choices]`, -1 where the choice was dropped.
            outputs.push(Output::Rows(format!("{}/decisions", side.name()), stats.decisions, 1));
        }
        let named = LAYER_METRICS.iter().zip(losses.layers);
        outputs.extend(named.map(|(name, value)| Output::Plain(format!("layers/{name}"), value)));
        Ok(outputs)
    })
}

/// The loss of an evaluation: the mean over tokens, and the auxiliary losses.
fn total(b: &mut Builder, losses: &Losses) -> Result<Value, BuildError> {
    let objective = per_token(b, losses.objective, losses.tokens)?;
    match losses.auxiliary {
        Some(auxiliary) => b.add(objective, auxiliary),
        None => Ok(objective),
    }
}

/// Parameters and batch -> the loss of `forward` and its derivative by every parameter, `gradients/<name>`.
pub(super) fn gradients(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    with_network(a, |b, cx, a, batch| {
        let (losses, _) = loss::losses(b, a.config, cx, &a.layout.params, batch, None)?;
        let loss = total(b, &losses)?;
        let held = a.layout.held.iter().map(|def| cx.weights.block(&def.name));
        let held: Vec<Value> = held.collect::<Result<_, _>>()?;
        let share = b.mul_scalar(loss, 1.0 / cx.mesh.num_replicas() as f64)?;
        let grads = grad::gradients(b, share, &held)?;
        let grads = model::join(b, &a.config.model, a.config.target, &a.layout.params, &grads)?;
        let mut outputs = vec![Output::Plain("loss".into(), loss)];
        for (def, grad) in a.layout.params.iter().zip(grads) {
            let grad = cx.mesh.sum(b, grad, &def.partition.copied())?;
            outputs.push(Output::Block(format!("gradients/{}", def.name), grad, def.partition.clone()));
        }
        Ok(outputs)
    })
}

/// What the body of a program knows of its assembly.
struct Known<'a> {
    config: &'a RunConfig,
    layout: &'a Layout,
}

/// Runs `body` with the network's surroundings in evaluation.
fn with_network(
    a: &mut Assembly,
    body: impl FnOnce(&mut Builder, &Context, Known, Batch) -> Result<Vec<Output>, BuildError>,
) -> Result<Vec<Output>, BuildError> {
    let values: Vec<Value> = a.params()?;
    let weights = a.weights(&values);
    let batch = a.batch(a.config.batch.sequences_per_microbatch())?;
    let cx = a.evaluation(&a.config.model, &weights)?;
    let known = Known { config: a.config, layout: a.layout };
    body(&mut a.b, &cx, known, batch)
}
