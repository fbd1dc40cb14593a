//! One model whose numbers in `transformers` 5.23 are written down here.

use super::folder::{self, Place};
use super::network::Network;
use switchyard::ir::Literal;

/// The printed digits, in float32.
const TOLERANCE: f64 = 2e-5;

fn batch() -> Vec<(String, Literal)> {
    let inputs = [3, 7, 12, 5, 9, 1, 4, 22, 6, 1, 0, 0];
    let targets = [5, 8, 2, 1, 9, 1, 0, 0];
    let named = |name: &str, literal| (name.to_string(), literal);
    vec![
        named("inputs", Literal::new([2, 6], &inputs).unwrap()),
        named("targets", Literal::new([2, 4], &targets).unwrap()),
    ]
}

fn network(place: &Place, capacity: usize) -> Network {
    let mut settings = folder::settings();
    settings["expert_capacity"] = capacity.into();
    let there = place.path(&format!("there {capacity}"));
    folder::write(&there, &settings, &folder::tensors());
    Network::import(&there, &place.path(&format!("here {capacity}")), &batch())
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{found}, expected {expected}");
}

#[test]
fn logits_losses_and_choices_are_those_of_the_other_library() {
    let place = Place::new(&folder::settings(), &folder::tensors());
    for (capacity, loss, first_logits) in [
        (2, 3.8543236, [0.680810, 0.670242, 0.358824, -0.113659]),
        (64, 3.8023720, [0.677664, 0.655310, 0.338808, -0.129774]),
    ] {
        let outputs = network(&place, capacity).run("forward", &batch());
        close(outputs["loss"].to_f64()[0], loss);
        let logits = outputs["logits"].to_f64();
        (0..4).for_each(|i| close(logits[i], first_logits[i]));
        if capacity == 2 {
            close(outputs["cross_entropy"].to_f64()[0], 3.8326092);
            let at = (4 + 1) * 32;
            let expected = [0.566138, -0.321513, -1.064847, -1.330205];
            (0..4).for_each(|i| close(logits[at + i], expected[i]));
            // Experts 0 2 0 0 3 3 and 3 3 0 2 3 3 were wanted.
            let encoder = [0, 2, 0, -1, 3, 3, 3, 3, 0, 2, -1, -1];
            assert_eq!(outputs["encoder/decisions"].to_f64(), encoder.map(f64::from));
            let decoder = [3, 3, 0, -1, 2, 2, 3, -1];
            assert_eq!(outputs["decoder/decisions"].to_f64(), decoder.map(f64::from));
        }
    }
    close(network(&place, 1).run("forward", &batch())["loss"].to_f64()[0], 3.8571866);
}

#[test]
fn gradients_have_the_norms_of_the_other_library() {
    let place = Place::new(&folder::settings(), &folder::tensors());
    let gradients = network(&place, 2).gradients(&batch(), &place.path("work"));
    let square = |name: &str| gradients.tensor(name).unwrap().to_f64().iter().map(|x| x * x).sum::<f64>();
    for (name, norm) in [
        ("shared.weight", 3.586941),
        ("encoder.block.1.layer.1.mlp.router.classifier.weight", 0.0827690),
        ("encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight", 0.0767683),
        ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 0.6841182),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", 0.3114922),
        ("decoder.final_layer_norm.weight", 0.3759106),
    ] {
        close(square(name).sqrt(), norm);
    }
    close(gradients.tensors().map(|(name, _)| square(name)).sum::<f64>().sqrt(), 9.830423);
}
