//! What a training step does with its stacks of parameters.

use crate::artifact;
use crate::config::RunConfig;
use crate::hlo::{HloInstructionProto, HloModuleProto};

const STACK: &str = "encoder/block_0/mlp/wi";
const PLAIN: &str = r#"{"kind": "adafactor", "min_dim_size_to_factor": 2}"#;

/// A module of a training step with three scanned blocks, and the position of [`STACK`] in its state.
fn step(optimizer: &str, accumulation: usize) -> (HloModuleProto, usize) {
    let text = format!(
        r#"{{"model": {{"vocab_size": 384, "d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_encoder_layers": 3,
            "num_decoder_layers": 1, "scan_blocks": true, "moe": {{"num_experts": 0}}}},
            "batch": {{"sequences": 2, "input_length": 8, "target_length": 8, "accumulation": {accumulation}}},
            "optimizer": {optimizer}}}"#
    );
    let config = RunConfig::from_json(&text).unwrap();
    let (program, module) = artifact::compile_program(&config, "train_step").unwrap();
    let place = program.outputs.iter().position(|port| port.name == STACK).unwrap();
    assert_eq!(program.outputs[place].alias, Some(place));
    (module, place)
}

/// The instructions of the entry, and the one that makes output `place`.
fn output(module: &HloModuleProto, place: usize) -> (&[HloInstructionProto], &HloInstructionProto) {
    let entry = module.computations.iter().find(|c| c.id == module.entry_computation_id).unwrap();
    let find = |id: i64| entry.instructions.iter().find(|i| i.id == id).unwrap();
    (&entry.instructions, find(find(entry.root_id).operand_ids[place]))
}

#[test]
fn a_stack_is_updated_in_the_loop_that_makes_its_gradient_where_it_lies() {
    let (module, place) = step(PLAIN, 1);
    let (entry, new) = output(&module, place);
    let find = |id: i64| entry.iter().find(|i| i.id == id).unwrap();
    assert_eq!(new.opcode, "get-tuple-element");
    let last = find(new.operand_ids[0]);
    assert_eq!(last.opcode, "while");
    // The element of the state that is returned is the parameter at the start.
    let start = find(find(last.operand_ids[0]).operand_ids[new.tuple_index as usize]);
    assert_eq!((start.opcode.as_str(), start.parameter_number as usize), ("parameter", place));
    // Neither it nor a gradient of its shape is in the state of that loop once more.
    let shape = start.shape.as_ref().unwrap();
    let state = &last.shape.as_ref().unwrap().tuple_shapes;
    assert_eq!(state.iter().filter(|element| element.same_dimensions(shape)).count(), 1);
}

#[test]
fn gradients_that_are_clipped_or_added_up_are_stacked_first() {
    let limited = r#"{"kind": "adafactor", "min_dim_size_to_factor": 2, "clip_global_norm": 1.0}"#;
    for (optimizer, accumulation) in [(limited, 1), (PLAIN, 2)] {
        let (module, place) = step(optimizer, accumulation);
        let (_, new) = output(&module, place);
        assert_ne!(new.opcode, "get-tuple-element", "{optimizer}, {accumulation}");
    }
}
