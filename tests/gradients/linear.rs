use crate::check::*;
use crate::elementwise::slopes;
use switchyard::ir::*;

fn dims(
    lhs_batch: &[usize],
    rhs_batch: &[usize],
    lhs_contracting: &[usize],
    rhs_contracting: &[usize],
) -> DotDims {
    DotDims {
        lhs_batch: lhs_batch.into(),
        rhs_batch: rhs_batch.into(),
        lhs_contracting: lhs_contracting.into(),
        rhs_contracting: rhs_contracting.into(),
    }
}

#[test]
fn products_differentiate_by_both_sides_whatever_the_order_of_dimensions() {
    for (lhs, rhs, dims) in [
        (&[2, 3][..], &[3, 4][..], dims(&[], &[], &[1], &[0])),
        (&[3, 2], &[4, 3], dims(&[], &[], &[0], &[1])),
        (&[2], &[3], dims(&[], &[], &[], &[])),
        (&[3], &[3], dims(&[], &[], &[0], &[0])),
        (&[3], &[3], dims(&[0], &[0], &[], &[])),
        // Batch dimensions in odd positions and crossed order.
        (&[4, 2, 3, 5], &[3, 5, 2, 6], dims(&[1, 2], &[2, 0], &[3], &[1])),
        // Two contracting dimensions, crossed.
        (&[2, 3, 4, 2], &[4, 2, 5, 3], dims(&[3], &[1], &[1, 2], &[3, 0])),
        (&[3, 4, 2], &[4, 5, 3], dims(&[], &[], &[1, 0], &[0, 2])),
    ] {
        let name = format!("dot_general {dims:?}");
        let inputs = [floats(lhs, -1.0, 1.0), floats(rhs, -0.5, 2.0)];
        check_twice(&name, &inputs, |b, v| Ok(vec![b.dot_general(v[0], v[1], dims.clone())?]));
    }
}

#[test]
fn a_product_of_a_value_with_itself_has_two_contributions() {
    check_twice("gram", &[floats(&[3, 2], -1.0, 1.0)], |b, v| Ok(vec![b.einsum("ij,kj->ik", v[0], v[0])?]));
}

#[test]
fn reductions_differentiate_along_any_axes() {
    let x = [floats(&[2, 3, 4], -1.5, 1.0)];
    for reducer in [Reducer::Add, Reducer::Mul, Reducer::Max, Reducer::Min] {
        for dims in [&[0][..], &[1], &[2, 0], &[0, 1, 2], &[]] {
            let name = format!("reduce {reducer:?} {dims:?}");
            check_twice(&name, &x, |b, v| Ok(vec![b.reduce(v[0], dims, reducer)?]));
        }
    }
}

fn reduce(reducer: Reducer) -> Op {
    Op::Reduce { dims: vec![1], reducer }
}

#[test]
fn reductions_in_one_pass_have_their_own_gradients() {
    let inputs = [floats(&[3, 4], 0.5, 1.0), floats(&[3, 4], -1.0, 1.0)];
    for reducer in [Reducer::Add, Reducer::Mul, Reducer::Max] {
        check_twice(&format!("{reducer:?} of two"), &inputs, |b, v| b.insert(reduce(reducer), v));
        // One of the results has no cotangent.
        check(&format!("{reducer:?}, the second of two"), &inputs, |b, v| {
            let both = b.insert(reduce(reducer), v)?;
            Ok(vec![b.sin(both[1])?])
        });
    }
}

#[test]
fn products_with_zeros_have_the_product_of_the_others() {
    // One zero, two zeros, none.
    let x = f64s(&[3, 3], &[2.0, 0.0, 5.0, 0.0, 3.0, 0.0, 1.0, 2.0, 4.0]);
    assert_eq!(
        slopes(std::slice::from_ref(&x), reduce(Reducer::Mul)),
        [[0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 8.0, 4.0, 2.0]]
    );
    check_twice("product with zeros", &[x], |b, v| Ok(vec![b.reduce(v[0], &[1], Reducer::Mul)?]));
}

#[test]
fn ties_of_a_reduction_share_evenly() {
    let x = f64s(&[2, 4], &[1.0, 3.0, 3.0, 0.0, 2.0, 2.0, 2.0, 2.0]);
    assert_eq!(
        slopes(std::slice::from_ref(&x), reduce(Reducer::Max)),
        [[0.0, 0.5, 0.5, 0.0, 0.25, 0.25, 0.25, 0.25]]
    );
    assert_eq!(slopes(&[x], reduce(Reducer::Min)), [[0.0, 0.0, 0.0, 1.0, 0.25, 0.25, 0.25, 0.25]]);
}

#[test]
fn prefix_sums_of_every_kind_sum_from_the_other_end() {
    for (dim, exclusive, reverse) in [(0, false, false), (1, true, false), (1, false, true), (0, true, true)]
    {
        check("cumsum", &[floats(&[3, 4], -1.0, 1.0)], |b, v| {
            let sums = b.cumsum(v[0], dim, exclusive, reverse)?;
            Ok(vec![b.square(sums)?])
        });
    }
}

#[test]
fn softmax_and_log_sum_exp_are_right_as_composites() {
    let x = [floats(&[2, 4], -2.0, 2.0)];
    check_twice("softmax", &x, |b, v| Ok(vec![b.softmax(v[0])?]));
    check_twice("logsumexp", &x, |b, v| Ok(vec![b.logsumexp(v[0])?]));
}
