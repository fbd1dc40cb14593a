//! Parameters as programs take them and devices hold them: a stack is one tensor where a loop runs its blocks, and its rows where
//! every block is written out. Those need not be cut from a stack, nor put together again after an update.

use crate::build::{BuildError, Builder};
use crate::config::{ModelConfig, Target};
use crate::ir::Value;
use crate::layers::ParamDef;

/// The parameters that programs take instead of these.
pub fn held(config: &ModelConfig, target: Target, params: &[ParamDef]) -> Vec<ParamDef> {
    match config.scans_blocks(target) {
        true => params.to_vec(),
        false => params.iter().flat_map(ParamDef::rows).collect(),
    }
}

/// Values of parameters as values of those that are [`held`].
pub fn split(
    b: &mut Builder,
    config: &ModelConfig,
    target: Target,
    params: &[ParamDef],
    values: &[Value],
) -> Result<Vec<Value>, BuildError> {
    if config.scans_blocks(target) {
        return Ok(values.to_vec());
    }
    let mut all = vec![];
    for (def, &value) in params.iter().zip(values) {
        match def.stacked {
            true => all.extend(b.unstack(value)?),
            false => all.push(value),
        }
    }
    Ok(all)
}

/// Values of those parameters that are [`held`] as values of these.
pub fn join(
    b: &mut Builder,
    config: &ModelConfig,
    target: Target,
    params: &[ParamDef],
    held: &[Value],
) -> Result<Vec<Value>, BuildError> {
    if config.scans_blocks(target) {
        return Ok(held.to_vec());
    }
    let mut left = held.iter().copied();
    let join = |def: &ParamDef| match def.stacked {
        true => b.stack(&left.by_ref().take(def.shape[0]).collect::<Vec<_>>()),
        false => {
            left.next().ok_or_else(|| BuildError::Invalid(format!("internal: no value of `{}`", def.name)))
        }
    };
    params.iter().map(join).collect()
}
