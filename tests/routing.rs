//! Emitted programs have the dispatch and combine tensors that the capacity arithmetic asks for, for every router, capacity and
//! group, in both forms.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use switchyard::artifact::{self, Artifact};
use switchyard::build::{BuildError, Builder};
use switchyard::config::{Group, Mesh, ModelConfig, MoeConfig, Router, RunConfig, Side};
use switchyard::eval::evaluate;
use switchyard::inspect;
use switchyard::ir::{Combiner, DType, Literal, Reducer, ScatterDims, TensorType, Value as Node};

/// 2 rows of 16 and 7 tokens, 8 experts, one sparse block in each stack.
fn compiled(moe: &Value, programs: &[&str]) -> Artifact {
    compiled_on(&json!({}), moe, programs)
}

fn compiled_on(mesh: &Value, moe: &Value, programs: &[&str]) -> Artifact {
    let mut json = json!({
        "mesh": mesh,
        "model": {
            "vocab_size": 384, "d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_encoder_layers": 1,
            "num_decoder_layers": 1, "scan_blocks": true,
            "moe": {"num_experts": 8, "every": 1, "decoder_router": {"kind": "top_k"}}
        },
        "batch": {"sequences": 2, "input_length": 16, "target_length": 7}
    });
    for (key, value) in moe.as_object().unwrap() {
        json["model"]["moe"][key] = value.clone();
    }
    let config = RunConfig::from_json(&json.to_string()).unwrap();
    artifact::compile_programs(&config, programs).unwrap()
}

/// The capacities of encoder and decoder in `program`, all of whose shape checks hold.
fn checked(artifact: &Artifact, program: &str) -> Vec<usize> {
    let (_, module) = artifact.program(program).unwrap();
    assert_eq!(inspect::inspect(module).unwrap().failures(), [""; 0]);
    let expected = artifact.manifest.expected_shapes(program);
    assert!(expected.len() >= 8, "two layers of at least four tensors");
    for check in inspect::check_moe(module, &expected) {
        assert!(check.ok, "{program}: {} must be {}, found {:?}", check.path, check.expected, check.found);
    }
    artifact.manifest.layers_of(program).map(|layer| layer.capacity).collect()
}

#[test]
fn every_router_has_the_shapes_of_its_capacity_in_both_forms() {
    for router in Router::KINDS {
        for form in ["einsum", "gather"] {
            let artifact =
                compiled(&json!({"router": router, "dispatch": form}), &["train_step", "eval_step"]);
            // Training: 1.25 * 32 / 8 = 5, 1.25 * 14 / 8 = 2 raised to 4; evaluation: 2 * 32 / 8 = 8, 2 * 14 / 8 = 3 to 4.
            assert_eq!(checked(&artifact, "train_step"), [5, 4], "{router:?}");
            assert_eq!(checked(&artifact, "eval_step"), [8, 4], "{router:?}");
        }
    }
}

#[test]
fn every_capacity_and_group_has_its_shapes() {
    let absolute = json!({"kind": "absolute", "train": 3, "eval": 5, "multiple": 4});
    let cases = [
        (json!({"capacity": {"kind": "dropless"}}), [32, 14]),
        (json!({"capacity": {"kind": "dropless"}, "group": "sequence"}), [16, 7]),
        (json!({"capacity": absolute}), [4, 4]),
        (json!({"capacity": absolute, "group": {"tokens": 8}}), [4, 4]),
        // 1.25 * 16 / 8 = 2.5, 1.25 * 7 / 8 = 1.1.
        (json!({"capacity": {"rounding": "nearest_even", "minimum": 1}, "group": "sequence"}), [2, 1]),
        (json!({"capacity": {"rounding": "ceil", "minimum": 1, "multiple": 8}, "group": "sequence"}), [8, 7]),
    ];
    for (moe, capacities) in cases {
        let artifact = compiled(&moe, &["train_step"]);
        assert_eq!(checked(&artifact, "train_step"), capacities, "{moe}");
    }
}

#[test]
fn slots_that_have_travelled_have_the_shapes_of_the_mesh() {
    for form in ["einsum", "gather"] {
        let moe = json!({"dispatch": form, "sublayers": "both"});
        let artifact = compiled_on(&json!({"expert": 2, "model": 2}), &moe, &["train_step"]);
        // One row on each device: 1.25 * 16 / 8 = 2 and 1.25 * 7 / 8 = 1, raised to 4.
        assert_eq!(checked(&artifact, "train_step"), [4; 4]);
        let shapes = artifact.manifest.expected_shapes("train_step");
        let of = |role: &str| {
            let rows = shapes.iter().filter(|row| row.role == role);
            rows.map(|row| row.shape.clone()).collect::<Vec<_>>()
        };
        // The slots of two devices for each of four experts; back, those of one for all eight.
        assert_eq!(of("dispatch/exchanged_inputs"), vec![[4, 2 * 4, 8]; 4]);
        assert_eq!(of("combine/exchanged_outputs"), vec![[8, 4, 8]; 2]);
    }
}

#[test]
fn every_router_says_of_each_sparse_layer_what_it_did() {
    // Encoder and decoder have one block each, with two sparse layers.
    const LAYERS: usize = 4;
    let scalars = ["dropped", "dropped_choices", "router_entropy", "load_balancing_loss", "router_z_loss"];
    let scalars = scalars.map(|name| (format!("layers/{name}"), vec![LAYERS]));
    let load = ("layers/expert_load".to_owned(), vec![LAYERS, 8]);
    let expected: BTreeMap<String, Vec<usize>> = scalars.into_iter().chain([load]).collect();
    for router in Router::KINDS {
        let programs = ["train_step", "eval_step", "forward"];
        let artifact = compiled(&json!({"router": router, "sublayers": "both"}), &programs);
        for program in programs {
            let (spec, _) = artifact.program(program).unwrap();
            let outputs = spec.outputs.iter().filter(|port| port.name.starts_with("layers/"));
            let found = outputs.map(|port| (port.name.clone(), port.shape.clone())).collect();
            assert_eq!(expected, found, "{router:?}: {program}");
        }
    }
}

#[test]
fn experts_in_attention_have_the_shapes_of_their_capacity() {
    for (sublayers, layers) in [("attention", 1), ("both", 2)] {
        for form in ["einsum", "gather"] {
            let artifact = compiled(&json!({"sublayers": sublayers, "dispatch": form}), &["train_step"]);
            let expected = [vec![5; layers], vec![4; layers]].concat();
            assert_eq!(checked(&artifact, "train_step"), expected, "{sublayers}, {form}");
        }
    }
}

#[test]
fn slots_that_only_fill_a_multiple_are_reported() {
    // 2 * 32 / 8 = 8 slots fill a multiple of 8; in training 5 are raised to it.
    let artifact = compiled(&json!({"capacity": {"multiple": 8}}), &["train_step", "eval_step"]);
    let layer = |program: &str| artifact.manifest.layers_of(program).next().unwrap();
    let training = layer("train_step");
    assert_eq!((training.asked_capacity, training.capacity, training.padding_share()), (5, 8, 0.375));
    assert_eq!(layer("eval_step").padding_share(), 0.0);
    assert_eq!(
        training.arithmetic(),
        "encoder/block_0/moe: 1 x 32 tokens, 8 experts x 8 slots (factor), 64 slots, 2.00 per token, 37.5 % of them padding"
    );
}

#[test]
fn the_selection_bias_is_state_without_slots_that_training_returns() {
    let artifact =
        compiled(&json!({"router": {"kind": "deepseek_v3", "k": 2}}), &["init", "train_step", "forward"]);
    let name = "encoder/block_0/moe/router_bias";
    for (program, returned) in [("init", true), ("train_step", true), ("forward", false)] {
        let (spec, _) = artifact.program(program).unwrap();
        let found = |ports: &[artifact::PortSpec]| {
            ports
                .iter()
                .filter(|port| port.name.ends_with("router_bias"))
                .map(|p| p.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&spec.inputs), if program == "init" { vec![] } else { vec![name.to_owned()] });
        assert_eq!(found(&spec.outputs), if returned { vec![name.to_owned()] } else { vec![] });
    }
}

#[test]
fn devices_and_groups_are_as_many_as_published() {
    // flaxformer has at least one group per expert and replica: as here, where each device has groups of its own.
    for (limit, experts, replicas, groups) in
        [(8, 2, 1, 4), (9, 2, 1, 4), (16, 4, 2, 8), (32, 2, 1, 2), (64, 2, 1, 2)]
    {
        let mesh = Mesh { data: replicas, expert: experts, ..Mesh::default() };
        let own = Group::Tokens(limit).split(1, 32 / mesh.batch_parts());
        assert_eq!(own.num_groups * mesh.batch_parts(), groups, "at most {limit} of 32 tokens");
    }
    // Of four devices, those that the partitions of experts and of models leave over are replicas.
    for (expert, model, data) in [(1, 1, 4), (2, 1, 2), (2, 2, 1), (4, 1, 1)] {
        assert_eq!(Mesh { data, expert, model, ..Mesh::default() }.num_replicas(), 4);
    }
}

#[test]
fn sparse_layers_lie_where_published() {
    let places = |every: usize, num_dense_layers: usize, layers: usize| {
        let moe = MoeConfig { num_experts: 2, every, ..MoeConfig::default() };
        let model =
            ModelConfig { moe, num_dense_layers, num_decoder_layers: layers, ..ModelConfig::default() };
        let places = model.places(Side::Decoder);
        let sparse: Vec<usize> = (0..layers).filter(|&layer| places[layer].sparse).collect();
        (sparse, model.segments(Side::Decoder)[0].repeats)
    };
    // Twelve layers: three mixed with the others, one at the top, all; 24 layers of which three are sparse are three runs.
    assert_eq!(places(4, 0, 12).0, [3, 7, 11]);
    assert_eq!(places(1, 11, 12).0, [11]);
    assert_eq!(places(1, 0, 12).0, (0..12).collect::<Vec<_>>());
    assert_eq!(places(8, 0, 24), (vec![7, 15, 23], 3));
}

/// What `body` makes of `x`.
fn evaluated(x: Literal, body: impl FnOnce(&mut Builder, Node) -> Result<Node, BuildError>) -> Literal {
    let graph = Builder::graph(&[x.ty().clone()], |b, inputs| Ok(vec![body(b, inputs[0])?])).unwrap();
    evaluate(&graph, &[x]).unwrap().remove(0)
}

#[test]
fn prefix_sums_are_the_published_offsets_of_exchanged_rows() {
    // Device i sends sizes[i][j] rows to device j.
    let sizes = Literal::new([4, 4], &[1, 2, 0, 3, 4, 0, 1, 2, 0, 3, 2, 1, 2, 1, 4, 0]).unwrap();
    let within = evaluated(sizes.clone(), |b, x| b.cumsum(x, 1, true, false));
    assert_eq!(within.to_f64(), [0, 1, 3, 3, 0, 4, 4, 5, 0, 0, 3, 5, 0, 2, 3, 7].map(f64::from));
    let before = evaluated(sizes, |b, x| b.cumsum(x, 0, true, false));
    assert_eq!(before.to_f64(), [0, 0, 0, 0, 1, 2, 0, 3, 5, 2, 1, 5, 5, 5, 3, 6].map(f64::from));
}

#[test]
fn a_scatter_adds_what_meets_and_skips_what_lies_outside() {
    // Updates 1, 2, 3 at place 1, 4 behind the last.
    let found = evaluated(Literal::new([4], &[1f32, 2.0, 3.0, 4.0]).unwrap(), |b, updates| {
        let zeros = b.zeros(&TensorType::new(DType::F32, [3]))?;
        let places = b.constant(Literal::new([4, 1], &[1, 1, 1, 3])?)?;
        let dims = ScatterDims {
            inserted_window_dims: vec![0],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 1,
            ..Default::default()
        };
        b.scatter((zeros, places, updates), dims, Combiner::Reduce(Reducer::Add), false)
    });
    assert_eq!(found.to_f64(), [0.0, 6.0, 0.0]);
}
