//! What a step has to hold at once if it computes its activations again: counted in modules, for the memory that is measured to be compared
//! with.

use super::MeasureError;
use super::ready::PROGRAM;
use crate::artifact;
use crate::config::{Remat, RunConfig};
use crate::hlo::HloModuleProto;
use crate::inspect;
use serde::Serialize;

/// Bytes beside the state, by what they are for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Needed {
    /// What the forward pass keeps under full rematerialisation: the input of each run of blocks, the gradient of the head, whose
    /// loss is differentiated at once.
    pub kept: u64,
    /// The activations of one run of blocks, as they are kept without rematerialisation.
    pub recomputed: u64,
    /// The largest result of a matrix product: a block of logits, or the gradient of one tensor.
    pub product: u64,
}

impl Needed {
    /// Counts for one device that takes its batch at once; `None` for other configurations. Blocks count as scanned, of which one
    /// iteration shows what one run of blocks keeps.
    ///
    /// Errors: [`MeasureError`] if the step cannot be built.
    pub fn of(config: &RunConfig) -> Result<Option<Self>, MeasureError> {
        let at_once = config.batch.accumulation <= 1 && config.mesh.num_replicas() == 1;
        if !at_once {
            return Ok(None);
        }
        let module = |remat: Remat| {
            let mut config = config.clone();
            config.model.remat = remat;
            config.model.scan_blocks = Some(true);
            artifact::compile_program(&config, PROGRAM).map(|(_, module)| module)
        };
        let (full, none) = (module(Remat::Full)?, module(Remat::None)?);
        Ok(Some(Self {
            kept: inspect::inspect(&full)?.memory.kept_bytes,
            recomputed: inspect::inspect(&none)?.memory.kept_per_iteration_bytes,
            product: largest_product(&full),
        }))
    }

    pub fn total(&self) -> u64 {
        self.kept + self.recomputed + self.product
    }
}

fn largest_product(module: &HloModuleProto) -> u64 {
    let all = module.computations.iter().flat_map(|computation| &computation.instructions);
    let products = all.filter(|instruction| instruction.opcode == "dot");
    products.filter_map(|product| product.shape.as_ref()).map(|shape| shape.bytes()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_from_the_shapes_of_the_blocks() {
        let text = r#"{"model": {"vocab_size": 384, "d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_encoder_layers": 3,
            "num_decoder_layers": 3, "moe": {"num_experts": 0}},
            "batch": {"sequences": 2, "input_length": 8, "target_length": 8}}"#;
        let needed = |text: &str| Needed::of(&RunConfig::from_json(text).unwrap()).unwrap();
        let found = needed(text).unwrap();
        // Logits [16,384] against the head's gradient [384,8] and smaller ones, float32.
        assert_eq!(found.product, 16 * 384 * 4);
        // Inputs [2,8,8] of three blocks of each side and the gradient of the head at least.
        assert!(found.kept >= (2 * 3 * 128 + 384 * 8) * 4, "{found:?}");
        // A decoder block has hidden activations [2,8,16] and probabilities [2,2,8,8] of two attentions at least.
        assert!(found.recomputed >= (256 + 2 * 256) * 4, "{found:?}");
        let deeper = needed(&text.replace(": 3,", ": 6,")).unwrap();
        assert_eq!(deeper.recomputed, found.recomputed);
        let unrolled = needed(&text.replace(r#""moe""#, r#""scan_blocks": false, "moe""#)).unwrap();
        assert_eq!(unrolled.total(), found.total());
        assert!(needed(&text.replace(r#""sequences""#, r#""accumulation": 2, "sequences""#)).is_none());
    }
}
