//! What the transform builds; that its values are right is shown by `tests/gradients`.

use super::{GradError, gradients, vjp};
use crate::build::{BuildError, Builder, ScanInputs};
use crate::ir::*;
use std::sync::Arc;

fn f32s(shape: impl Into<Vec<usize>>) -> TensorType {
    TensorType::new(DType::F32, shape)
}

fn scans(graph: &Graph) -> Vec<&Scan> {
    let scan = |node: &'_ Node| matches!(node.op, Op::Scan(_));
    graph
        .nodes()
        .iter()
        .filter(|n| scan(n))
        .filter_map(|n| if let Op::Scan(s) = &n.op { Some(s) } else { None })
        .collect()
}

fn count(graph: &Graph, name: &str) -> usize {
    graph.nodes().iter().filter(|node| node.op.name() == name).count()
}

/// Every node of a body serves an output.
fn assert_no_dead_code(graph: &Graph) {
    let live = super::extract::live(graph, &[], graph.outputs());
    for node in graph.nodes().iter().filter(|n| !matches!(n.op, Op::Parameter { .. })) {
        assert!(node.results.iter().any(|v| live[v.index()]), "{} is dead", node.op.name());
    }
}

/// Three layers `carry = tanh(carry . w + x)`, `y = 2 carry`, differentiated by all three.
fn layers(remat: RematPolicy) -> Graph {
    Builder::graph(&[f32s([4, 4]), f32s([2, 4]), f32s([3, 2, 4])], |b, v| {
        let inputs = ScanInputs { consts: &v[..1], carry: &v[1..2], xs: &v[2..], length: 3, remat };
        let (carry, ys) = b.scan(inputs, |b, consts, carry, xs| {
            let product = b.einsum("bi,ij->bj", carry[0], consts[0])?;
            let shifted = b.add(product, xs[0])?;
            let next = b.tanh(shifted)?;
            let y = b.mul_scalar(next, 2.0)?;
            Ok((vec![next], vec![y]))
        })?;
        let (a, c) = (b.sum_all(carry[0])?, b.sum_all(ys[0])?);
        let loss = b.add(a, c)?;
        gradients(b, loss, v)
    })
    .unwrap()
}

/// Stacked values that the forward scan got beside its own y, and the scans.
fn residuals(graph: &Graph) -> (usize, &Scan, &Scan) {
    let [forward, backward] = scans(graph)[..] else { panic!("expected two scans") };
    assert!(!forward.reverse && backward.reverse);
    assert_no_dead_code(&forward.body);
    assert_no_dead_code(&backward.body);
    (forward.body.outputs().len() - 2, forward, backward)
}

#[test]
fn a_scan_that_saves_nothing_stacks_its_carry_only() {
    let graph = layers(RematPolicy::SaveNothing);
    let (saved, forward, backward) = residuals(&graph);
    assert_eq!(saved, 1);
    assert_eq!(forward.body.outputs()[2], forward.body.inputs()[1]);
    // The product is computed again, beside the two products of its derivative.
    assert_eq!((count(&forward.body, "dot_general"), count(&backward.body, "dot_general")), (1, 3));
    assert_eq!(count(&backward.body, "tanh"), 1);
}

#[test]
fn a_scan_that_saves_products_computes_the_rest_again() {
    let graph = layers(RematPolicy::SaveDots);
    let (saved, _, backward) = residuals(&graph);
    assert_eq!(saved, 2);
    assert_eq!((count(&backward.body, "dot_general"), count(&backward.body, "tanh")), (2, 1));
}

#[test]
fn a_scan_that_saves_all_computes_nothing_expensive_again() {
    let graph = layers(RematPolicy::SaveAll);
    let (saved, _, backward) = residuals(&graph);
    // The carry for the product and the result of tanh for itself.
    assert_eq!(saved, 2);
    assert_eq!((count(&backward.body, "dot_general"), count(&backward.body, "tanh")), (2, 0));
}

#[test]
fn the_backward_scan_carries_sums_for_consts_and_stacks_the_rest() {
    let graph = layers(RematPolicy::SaveNothing);
    let (_, _, backward) = residuals(&graph);
    // Const w; carry: of the carry, of w; xs: x, saved carry, cotangent of y.
    assert_eq!((backward.num_consts, backward.num_carry), (1, 2));
    assert_eq!(backward.body.inputs().len(), 6);
    assert_eq!(backward.body.outputs().len(), 3);
}

#[test]
fn a_stacked_result_is_not_saved_twice() {
    let graph = Builder::graph(&[f32s([5, 2])], |b, v| {
        let (_, ys) = b.scan(ScanInputs { xs: v, ..Default::default() }, |b, _, _, xs| {
            Ok((vec![], vec![b.exp(xs[0])?]))
        })?;
        let loss = b.sum_all(ys[0])?;
        gradients(b, loss, v)
    })
    .unwrap();
    let [forward, backward] = scans(&graph)[..] else { panic!("expected two scans") };
    assert_eq!(forward.body.outputs().len(), 1);
    assert_eq!(backward.body.inputs().len(), 2);
}

#[test]
fn converted_and_repeated_values_are_saved_in_their_small_form() {
    let graph = Builder::graph(&[TensorType::new(DType::F32, [3, 2])], |b, v| {
        let (_, ys) = b.scan(ScanInputs { xs: v, ..Default::default() }, |b, _, _, xs| {
            let small = b.convert(xs[0], DType::Bf16)?;
            let small = b.exp(small)?;
            let wide = b.convert(small, DType::F32)?;
            let wide = b.broadcast_in_dim(wide, &[7, 2], &[1])?;
            let squares = b.square(wide)?;
            Ok((vec![], vec![b.sum(squares, &[0])?]))
        })?;
        let loss = b.sum_all(ys[0])?;
        gradients(b, loss, v)
    })
    .unwrap();
    let forward = scans(&graph)[0];
    let saved = &forward.body.output_types()[1..];
    // Not f32[7,2], nor f32[2].
    assert_eq!(*saved, [TensorType::new(DType::Bf16, [2])]);
}

fn remat_call(remat: RematPolicy) -> Graph {
    let body = Builder::graph(&[f32s([4])], |b, v| {
        let e = b.exp(v[0])?;
        Ok(vec![b.sin(e)?])
    })
    .unwrap();
    Builder::graph(&[f32s([4])], |b, v| {
        let y = b.call_graph("block", Arc::new(body), remat, v)?;
        let loss = b.sum_all(y[0])?;
        gradients(b, loss, v)
    })
    .unwrap()
}

#[test]
fn a_call_that_saves_nothing_recomputes_behind_a_barrier() {
    let graph = remat_call(RematPolicy::SaveNothing);
    let [Op::Call(call)] =
        &graph.nodes().iter().filter(|n| n.op.name() == "call").map(|n| n.op.clone()).collect::<Vec<_>>()[..]
    else {
        panic!("expected a call")
    };
    assert_eq!(call.body.outputs().len(), 1);
    assert_eq!((count(&graph, "optimization_barrier"), count(&graph, "exponential")), (1, 1));
}

#[test]
fn a_call_that_saves_all_returns_more_and_needs_no_barrier() {
    let graph = remat_call(RematPolicy::SaveAll);
    let call = graph.nodes().iter().find(|n| n.op.name() == "call").unwrap();
    assert_eq!(call.results.len(), 2);
    assert_eq!((count(&graph, "optimization_barrier"), count(&graph, "exponential")), (0, 0));
}

#[test]
fn what_is_kept_in_fewer_bytes_is_widened_again_behind_a_barrier() {
    let body = Builder::graph(&[f32s([4])], |b, v| {
        let made = b.sin(v[0])?;
        let narrow = b.convert(made, DType::Bf16)?;
        let wide = b.convert(narrow, DType::F32)?;
        Ok(vec![b.sin(wide)?])
    });
    let body = Arc::new(body.unwrap());
    let graph = Builder::graph(&[f32s([4])], |b, v| {
        let y = b.call_graph("block", body, RematPolicy::SaveAll, v)?;
        let loss = b.sum_all(y[0])?;
        Ok([vec![loss], gradients(b, loss, v)?].concat())
    });
    let graph = crate::ir::optimize(&graph.unwrap());
    let wide = |n: &&Node| matches!(n.op, Op::Convert(DType::F32));
    assert_eq!(graph.nodes().iter().filter(wide).count(), 3, "of the value twice, and of its cotangent");
    let barrier = graph.nodes().iter().find(|n| n.op.name() == "optimization_barrier").unwrap();
    // Nothing but the value: the rest may become one with what follows.
    assert_eq!(graph.types(&barrier.operands), [TensorType::new(DType::Bf16, [4])]);
}

#[test]
fn calls_of_one_body_share_its_backward_pass() {
    let body = Builder::graph(&[f32s([4]), f32s([4])], |b, v| {
        let e = b.exp(v[0])?;
        Ok(vec![b.mul(e, v[1])?])
    });
    let body = Arc::new(body.unwrap());
    let graph = Builder::graph(&[f32s([4]), f32s([4])], |b, v| {
        let mut x = v[0];
        for _ in 0..3 {
            x = b.call_graph("block", body.clone(), RematPolicy::SaveAll, &[x, v[1]])?[0];
        }
        let loss = b.sum_all(x)?;
        gradients(b, loss, v)
    });
    let bodies: Vec<*const Graph> = graph
        .unwrap()
        .nodes()
        .iter()
        .filter_map(|node| match &node.op {
            Op::Call(call) => Some(Arc::as_ptr(&call.body)),
            _ => None,
        })
        .collect();
    let [first, .., last] = bodies[..] else { panic!("{} calls", bodies.len()) };
    assert_ne!(first, last);
    assert_eq!(bodies, [first, first, first, last, last, last]);
}

#[test]
fn backward_products_of_bfloat16_are_bfloat16() {
    let ty = TensorType::new(DType::Bf16, [4, 4]);
    let graph = Builder::graph(&[ty.clone(), ty], |b, v| {
        let y = b.einsum_into("ij,jk->ik", v[0], v[1], DType::F32, Precision::Default)?;
        let loss = b.sum_all(y)?;
        gradients(b, loss, v)
    })
    .unwrap();
    for node in graph.nodes().iter().filter(|n| n.op.name() == "dot_general") {
        assert!(node.operands.iter().all(|&v| graph.ty(v).dtype == DType::Bf16));
    }
}

#[test]
fn the_derivative_of_a_matrix_product_needs_no_transpose() {
    let graph = Builder::graph(&[f32s([2, 3, 4]), f32s([4, 5])], |b, v| {
        let y = b.einsum("bsi,ij->bsj", v[0], v[1])?;
        let loss = b.sum_all(y)?;
        gradients(b, loss, v)
    })
    .unwrap();
    assert_eq!(count(&graph, "transpose"), 0);
}

#[test]
fn nodes_of_the_backward_pass_are_named_after_the_forward_scope() {
    let graph = Builder::graph(&[f32s([])], |b, v| {
        let y = b.scoped("layer", |b| b.sin(v[0]))?;
        gradients(b, y, v)
    })
    .unwrap();
    let cos = graph.nodes().iter().find(|n| n.op.name() == "cosine").unwrap();
    assert_eq!(&*cos.scope, "grad/layer");
}

#[test]
fn what_does_not_lead_to_an_input_is_not_differentiated() {
    let graph = Builder::graph(&[f32s([3]), f32s([3])], |b, v| {
        let hidden = b.sin(v[1])?;
        let y = b.mul(v[0], hidden)?;
        let loss = b.sum_all(y)?;
        gradients(b, loss, &v[..1])
    })
    .unwrap();
    assert_eq!(count(&graph, "cosine"), 0);
}

fn doubling(b: &mut Builder, x: Value) -> Result<Value, BuildError> {
    let state = b.while_loop(
        &[x],
        |b, s| b.compare_scalar(Direction::Lt, s[0], 9.0),
        |b, s| Ok(vec![b.mul_scalar(s[0], 2.0)?]),
    )?;
    Ok(state[0])
}

#[test]
fn a_while_loop_has_no_derivative() {
    let error = Builder::graph(&[f32s([])], |b, v| {
        let y = b.scoped("search", |b| doubling(b, v[0]))?;
        gradients(b, y, v)
    })
    .unwrap_err();
    let expected = "while has no reverse-mode derivative, in scope `search`: use a scan, whose length is known when compiling";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_while_loop_off_the_path_is_no_obstacle() {
    Builder::graph(&[f32s([])], |b, v| {
        let held = b.stop_gradient(v[0])?;
        let factor = doubling(b, held)?;
        let y = b.mul(v[0], factor)?;
        gradients(b, y, v)
    })
    .unwrap();
}

#[test]
fn wrong_requests_are_refused() {
    let mut b = Builder::new();
    let x = b.parameter(f32s([2])).unwrap();
    let n = b.parameter(TensorType::new(DType::S32, [2])).unwrap();
    let sum = b.sum_all(x).unwrap();
    assert!(matches!(gradients(&mut b, x, &[x]), Err(BuildError::Grad(GradError::Loss { .. }))));
    assert!(matches!(gradients(&mut b, sum, &[n]), Err(BuildError::Grad(GradError::NotFloat { .. }))));
    let error = vjp(&mut b, &[(x, sum)], &[x]).unwrap_err();
    assert_eq!(error.to_string(), "vjp: the cotangent of %0 must be f32[2], is f32[], in scope ``");
}

#[test]
fn an_input_without_influence_gets_zeros() {
    let graph = Builder::graph(&[f32s([2]), f32s([3])], |b, v| {
        let loss = b.sum_all(v[0])?;
        gradients(b, loss, v)
    })
    .unwrap();
    assert_eq!(graph.output_types(), [f32s([2]), f32s([3])]);
}
