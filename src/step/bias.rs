//! State that is neither trained nor an optimizer slot: the selection biases of routers.

use crate::build::{BuildError, Builder};
use crate::config::{RunConfig, Side};
use crate::ir::Value;
use crate::layers::{ParamDef, row_of};
use crate::moe;

/// The bias after a step: moved against the load of its sparse layers, which is the last of the step's `metrics`,
/// `f32[sparse layers, experts]`, encoder first. `bias`: `f32[its sparse layers, experts]`, or `f32[experts]` of one of them.
pub(super) fn updated(
    b: &mut Builder,
    config: &RunConfig,
    def: &ParamDef,
    bias: Value,
    metrics: &[Value],
) -> Result<Value, BuildError> {
    let missing =
        || BuildError::Invalid(format!("internal: `{}` is not trained, but no bias of a router", def.name));
    let (side, rows) = Side::sparse_rows(&def.name, &config.model).ok_or_else(missing)?;
    let rate = side.router(&config.model).bias_update_rate().ok_or_else(missing)?;
    let load = *metrics.last().ok_or_else(missing)?;
    let load = rows.of(b, load)?;
    let load = match row_of(&def.name) {
        Some((_, row)) => b.unstack(load)?.get(row).copied().ok_or_else(missing)?,
        None => load,
    };
    b.scoped(&def.name, |b| moe::update_bias(b, rate, bias, load))
}
