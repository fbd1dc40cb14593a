//! The first state, made on the device from a seed.

use super::program::{Assembly, Output, Role};
use crate::build::{BuildError, Builder, ScanInputs, stream_of};
use crate::ir::{DType, Graph, Literal, TensorType, Value};
use crate::layers::{Init, ParamDef};
use crate::model;
use crate::shard::Mesh;

/// `seed u32[2]` -> the state. Every tensor has a random stream of its own, named after it.
pub(super) fn build(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    let seed = a.input("seed", TensorType::new(DType::U32, [2]), Role::Input)?;
    let mesh = a.config.mesh;
    let b = &mut a.b;
    let mut outputs = vec![];
    let params = parameters(b, mesh, &a.layout.params, seed)?;
    let params = model::split(b, &a.config.model, a.config.target, &a.layout.params, &params)?;
    for (def, value) in a.layout.held.iter().zip(params) {
        outputs.push(Output::State(def.name.clone(), value));
    }
    for slot in &a.layout.slots {
        let block = slot.partition.block(&mesh, &slot.ty)?;
        outputs.push(Output::State(slot.name.clone(), b.zeros(&block)?));
    }
    let step = b.scalar(DType::S32, 0.0)?;
    outputs.push(Output::State("step".into(), step));
    let key = b.fold_in(seed, 0)?;
    outputs.push(Output::State("key".into(), key));
    Ok(outputs)
}

/// The program of one parameter alone: `seed u32[2]` -> its first value, as `init` makes it.
pub fn fresh(def: &ParamDef) -> Result<Graph, BuildError> {
    Builder::graph(&[TensorType::new(DType::U32, [2])], |b, seed| {
        parameters(b, Mesh::default(), std::slice::from_ref(def), seed[0])
    })
}

/// The parameters, or what this device holds of them.
fn parameters(b: &mut Builder, mesh: Mesh, defs: &[ParamDef], seed: Value) -> Result<Vec<Value>, BuildError> {
    let mut values = vec![];
    for (index, def) in defs.iter().enumerate() {
        match def.init {
            Init::Constant(value) => values.push((index, b.full(&def.block(&mesh)?, value)?)),
            Init::TruncatedNormal(_) => (),
        }
    }
    for alike in random_alike(defs) {
        let named: Vec<(&ParamDef, f64)> =
            alike.iter().map(|&(i, deviation)| (&defs[i], deviation)).collect();
        let drawn = b.scoped("init", |b| random(b, mesh, &named, seed))?;
        values.extend(alike.iter().map(|&(i, _)| i).zip(drawn));
    }
    values.sort_by_key(|(index, _)| *index);
    Ok(values.into_iter().map(|(_, value)| value).collect())
}

/// Random parameters with their deviations, those of one shape and partition together.
fn random_alike(defs: &[ParamDef]) -> Vec<Vec<(usize, f64)>> {
    let mut kinds: Vec<Vec<(usize, f64)>> = vec![];
    for (index, def) in defs.iter().enumerate() {
        let Init::TruncatedNormal(deviation) = def.init else { continue };
        let alike = |first: &ParamDef| first.shape == def.shape && first.partition == def.partition;
        match kinds.iter_mut().find(|kind| alike(&defs[kind[0].0])) {
            Some(kind) => kind.push((index, deviation)),
            None => kinds.push(vec![(index, deviation)]),
        }
    }
    kinds
}

/// Draws parameters of one shape and partition. A loop over them, since a compiler takes long over the generator: it is written
/// once for each shape, not for each tensor.
fn random(
    b: &mut Builder,
    mesh: Mesh,
    alike: &[(&ParamDef, f64)],
    seed: Value,
) -> Result<Vec<Value>, BuildError> {
    let Some((first, _)) = alike.first() else { return Ok(vec![]) };
    let block = first.block(&mesh)?;
    let streams: Vec<u32> = alike.iter().map(|(def, _)| stream_of(&def.name)).collect();
    let deviations: Vec<f32> = alike.iter().map(|&(_, deviation)| deviation as f32).collect();
    let streams = b.constant(Literal::new([alike.len()], &streams)?)?;
    let deviations = b.constant(Literal::new([alike.len()], &deviations)?)?;
    let inputs = ScanInputs { consts: &[seed], xs: &[streams, deviations], ..Default::default() };
    let (_, drawn) = b.scan(inputs, |b, consts, _, xs| {
        let key = b.fold_in_value(consts[0], xs[0])?;
        let window = mesh.window(b, &block.shape, &first.partition)?;
        let normal = b.random_truncated_normal(key, &window)?;
        Ok((vec![], vec![b.scale(normal, xs[1])?]))
    })?;
    b.unstack(drawn[0])
}
