//! The first state, made on the device from a seed.

use super::program::{Assembly, Output, Role};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, Graph, TensorType, Value};
use crate::layers::{Init, ParamDef};

/// `seed u32[2]` -> the state. Every tensor has a random stream of its own, named after it.
pub(super) fn build(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    let seed = a.input("seed", TensorType::new(DType::U32, [2]), Role::Input)?;
    let b = &mut a.b;
    let mut outputs = vec![];
    for def in &a.layout.params {
        let value = b.scoped(&def.name, |b| parameter(b, def, seed))?;
        outputs.push(Output::State(def.name.clone(), value));
    }
    for slot in &a.layout.slots {
        outputs.push(Output::State(slot.name.clone(), b.zeros(&slot.ty)?));
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
        Ok(vec![b.scoped(&def.name, |b| parameter(b, def, seed[0]))?])
    })
}

fn parameter(b: &mut Builder, def: &ParamDef, seed: Value) -> Result<Value, BuildError> {
    match def.init {
        Init::Constant(value) => b.full(&def.ty(), value),
        Init::TruncatedNormal(deviation) => {
            let key = b.fold_in_scope(seed)?;
            let normal = b.random_truncated_normal(key, &def.shape)?;
            b.mul_scalar(normal, deviation)
        }
    }
}
