//! Programs of generation: `prefill` reads what is given, `decode_step` one token per row. Between them the cache stays on the
//! devices, each of which has its rows of it, of the heads that it has.

use super::program::{Assembly, Output, Role};
use crate::build::BuildError;
use crate::config::{Architecture, Group, ModelConfig, Router, RunConfig, Second};
use crate::ir::{DType, TensorType};
use crate::model::{
    Cache, CacheShape, CacheTensor, Prompt, decode, prefill_decoder, prefill_encoder, token_logits,
};

/// Parameters and inputs (or a prompt) -> the cache; of a prompt also the logits `f32[batch, vocabulary]` after its last token.
pub(super) fn prefill(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    let values = a.params()?;
    let weights = a.weights(&values);
    let shape = CacheShape::new(a.config);
    let config = &a.config.model;
    let rows = |dtype, length| TensorType::new(dtype, [shape.batch, length]);
    match config.architecture {
        Architecture::EncoderDecoder => {
            let inputs = a.input_rows("inputs", rows(DType::S32, shape.inputs))?;
            let cx = a.evaluation(config, &weights)?;
            let cache = prefill_encoder(&mut a.b, &cx, &a.layout.params, shape, inputs)?;
            outputs(a, &cache)
        }
        Architecture::DecoderOnly => {
            let tokens = a.input_rows("prompt", rows(DType::S32, shape.slots))?;
            let real = a.input_rows("prompt_real", rows(DType::F32, shape.slots))?;
            let cx = a.evaluation(config, &weights)?;
            let prompt = Prompt { tokens, real };
            let (cache, hidden) = prefill_decoder(&mut a.b, &cx, &a.layout.params, prompt)?;
            let logits = token_logits(&mut a.b, &cx, hidden)?;
            let mut outputs = outputs(a, &cache)?;
            outputs.push(Output::Rows("logits".into(), logits, 0));
            Ok(outputs)
        }
    }
}

/// Parameters, the cache, `token s32[batch]` and its `slot s32[]` -> the cache and the logits `f32[batch, vocabulary]` after the
/// token.
pub(super) fn decode_step(a: &mut Assembly) -> Result<Vec<Output>, BuildError> {
    let values = a.params()?;
    let weights = a.weights(&values);
    let shape = CacheShape::new(a.config);
    let config = decoding(&a.config.model);
    let mut cache = vec![];
    for CacheTensor { name, ty, partition } in tensors(a.config) {
        let value = a.split_input(&name, ty, partition, Role::Cache)?;
        cache.push((name, value));
    }
    let token = a.input_rows("token", TensorType::new(DType::S32, [shape.batch]))?;
    let slot = a.input("slot", TensorType::scalar(DType::S32), Role::Input)?;
    let cx = a.evaluation(&config, &weights)?;
    let (cache, hidden) = decode(&mut a.b, &cx, &a.layout.params, Cache::new(cache), (token, slot))?;
    let logits = token_logits(&mut a.b, &cx, hidden)?;
    let mut outputs = outputs(a, &cache)?;
    outputs.push(Output::Rows("logits".into(), logits, 0));
    Ok(outputs)
}

/// The model with each row as a group: a token alone is never dropped, whatever the capacity. No second choice is drawn: each step
/// would draw the same.
pub fn decoding(config: &ModelConfig) -> ModelConfig {
    let mut config = config.clone();
    config.moe.group = Group::Sequence;
    let routers = [Some(&mut config.moe.router), config.moe.decoder_router.as_mut()];
    for router in routers.into_iter().flatten() {
        if let Router::Gshard { second_eval, .. } = router {
            *second_eval = second_eval.map(Second::in_evaluation);
        }
    }
    config
}

fn tensors(config: &RunConfig) -> Vec<CacheTensor> {
    CacheShape::new(config).tensors(&config.model)
}

/// The tensors of the cache, in order.
fn outputs(a: &Assembly, cache: &Cache) -> Result<Vec<Output>, BuildError> {
    let output = |tensor: CacheTensor| {
        let value = cache.get(&tensor.name)?;
        Ok(Output::Cache(tensor.name, value, tensor.partition))
    };
    tensors(a.config).into_iter().map(output).collect()
}
