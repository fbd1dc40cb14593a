//! Operations that move, multiply, sum and index elements.

use super::case::{Built, Case, f64s, floats, ints};
use switchyard::build::Builder;
use switchyard::ir::*;

pub fn cases() -> Vec<Case> {
    [shapes(), products(), reductions(), gathers(), scatters(), slices(), sorts()].concat()
}

fn x34() -> Literal {
    floats(&[3, 4], -1.0, 2.0)
}

fn one(name: &str, x: Literal, op: Op) -> Case {
    Case::new(name, [x], move |b, v| Ok(vec![b.one(op.clone(), v)?]))
}

fn pad(name: &str, low: [i64; 2], high: [i64; 2], interior: [usize; 2]) -> Case {
    let op = Op::Pad { low: low.into(), high: high.into(), interior: interior.into() };
    Case::new(name, [x34(), f64s(&[], &[0.7])], move |b, v| Ok(vec![b.one(op.clone(), v)?]))
}

fn shapes() -> Vec<Case> {
    let slice = |starts: [usize; 2], limits: [usize; 2], strides: [usize; 2]| Op::Slice {
        starts: starts.into(),
        limits: limits.into(),
        strides: strides.into(),
    };
    vec![
        one("broadcast_in_dim", x34(), Op::BroadcastInDim { shape: vec![2, 3, 5, 4], dims: vec![1, 3] }),
        one(
            "broadcast_in_dim/scalar",
            f64s(&[], &[2.0]),
            Op::BroadcastInDim { shape: vec![2, 3], dims: vec![] },
        ),
        one("reshape", x34(), Op::Reshape { shape: vec![2, 6] }),
        one("transpose", floats(&[2, 3, 4], -1.0, 1.0), Op::Transpose { permutation: vec![2, 0, 1] }),
        one("reverse", x34(), Op::Reverse { dims: vec![1] }),
        one("slice/strides", floats(&[5, 7], -1.0, 1.0), slice([1, 0], [5, 7], [2, 3])),
        one("slice/empty", x34(), slice([1, 2], [3, 2], [1, 1])),
        pad("pad/outside", [1, 0], [0, 2], [0, 0]),
        pad("pad/interior", [0, 1], [1, 0], [2, 1]),
        pad("pad/negative", [-1, 1], [0, -2], [0, 0]),
        pad("pad/negative and interior", [-1, -2], [1, -1], [1, 2]),
        Case::new("concatenate", [x34(), floats(&[3, 2], 0.0, 1.0), x34()], |b, v| {
            Ok(vec![b.concatenate(v, 1)?])
        }),
        Case::new("unstack", [x34()], |b, v| b.unstack(v[0])),
    ]
}

fn dot(name: &str, shapes: [&[usize]; 2], dims: [&[usize]; 4]) -> Case {
    let dims = DotDims {
        lhs_batch: dims[0].into(),
        rhs_batch: dims[1].into(),
        lhs_contracting: dims[2].into(),
        rhs_contracting: dims[3].into(),
    };
    let inputs = shapes.map(|shape| floats(shape, -1.0, 1.5));
    Case::new(name, inputs, move |b, v| Ok(vec![b.dot_general(v[0], v[1], dims.clone())?]))
}

fn products() -> Vec<Case> {
    vec![
        dot("dot_general/matrices", [&[3, 4], &[4, 5]], [&[], &[], &[1], &[0]]),
        dot("dot_general/outer", [&[3], &[4, 2]], [&[], &[], &[], &[]]),
        dot("dot_general/all summed", [&[3, 4], &[4, 3]], [&[], &[], &[0, 1], &[1, 0]]),
        dot("dot_general/batch in front", [&[2, 3, 4], &[2, 4, 5]], [&[0], &[0], &[2], &[1]]),
        // Batch dimensions apart and in another order, two contracting dimensions crossed.
        dot(
            "dot_general/scattered batch",
            [&[5, 2, 4, 3, 6], &[6, 3, 7, 2, 4]],
            [&[1, 3], &[3, 1], &[2, 4], &[4, 0]],
        ),
        dot("dot_general/only batch", [&[2, 3], &[3, 2]], [&[0, 1], &[1, 0], &[], &[]]),
        Case::new("dot_general/with itself", [floats(&[3, 3], -1.0, 1.0)], |b, v| {
            Ok(vec![b.einsum("ij,jk->ki", v[0], v[0])?])
        }),
        // Small whole numbers are exact in float32.
        Case::new(
            "dot_general/wider result",
            [f64s(&[2, 2], &[1., 2., 3., 4.]), f64s(&[2, 2], &[5., 6., 7., 8.])],
            |b, v| {
                let (x, y) = (b.convert(v[0], DType::F32)?, b.convert(v[1], DType::F32)?);
                Ok(vec![b.einsum_into("ij,jk->ik", x, y, DType::F64, Precision::Highest)?])
            },
        )
        .single_precision(),
    ]
}

fn reduce(name: &str, x: Literal, dims: &[usize], reducer: Reducer) -> Case {
    one(name, x, Op::Reduce { dims: dims.into(), reducer })
}

fn reductions() -> Vec<Case> {
    use Reducer::*;
    let ties = || f64s(&[2, 4], &[1.0, 3.0, 3.0, 3.0, 2.0, 2.0, -1.0, -1.0]);
    let zeros = || f64s(&[3, 4], &[2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 0.0, 6.0, 1.0, 2.0, 3.0, 4.0]);
    let cube = || floats(&[2, 3, 4], -1.0, 2.0);
    let cumsum = |exclusive, reverse| {
        let name = format!("cumsum/exclusive {exclusive}, reverse {reverse}");
        one(&name, floats(&[3, 5], -1.0, 1.0), Op::CumSum { dim: 1, exclusive, reverse })
    };
    vec![
        reduce("reduce add", cube(), &[0, 2], Add),
        reduce("reduce multiply", cube(), &[2], Mul),
        reduce("reduce multiply/two axes", cube(), &[0, 2], Mul),
        reduce("reduce multiply/zeros", zeros(), &[1], Mul),
        reduce("reduce maximum", cube(), &[1], Max),
        reduce("reduce maximum/ties", ties(), &[1], Max),
        reduce("reduce maximum/ties over all", ties(), &[0, 1], Max),
        reduce("reduce minimum", cube(), &[0], Min),
        reduce("reduce minimum/ties", ties(), &[1], Min),
        cumsum(false, false),
        cumsum(true, false),
        cumsum(false, true),
        cumsum(true, true),
        Case::new("softmax", [cube()], |b, v| Ok(vec![b.softmax(v[0])?, b.logsumexp(v[0])?])),
    ]
}

fn gathers() -> Vec<Case> {
    // Windows of 3 x 2 of x[4, 5], at index vectors (column, row) along dimension 0: some are clamped.
    let windows = GatherDims {
        offset_dims: vec![0, 2],
        start_index_map: vec![1, 0],
        index_vector_dim: 0,
        slice_sizes: vec![2, 3],
        ..Default::default()
    };
    let take = |b: &mut Builder, v: &[Value]| -> Built { Ok(vec![b.take_rows(v[0], v[1])?]) };
    let grouped = |b: &mut Builder, v: &[Value]| -> Built { Ok(vec![b.take_rows_grouped(v[0], v[1])?]) };
    vec![
        Case::new("gather/rows", [x34(), ints(&[2, 3], &[2, 0, 2, 1, 1, 1])], take),
        Case::new("gather/clamped rows", [x34(), ints(&[4], &[9, -7, 2, 3])], take),
        Case::new(
            "gather/batching",
            [floats(&[2, 4, 3], -1.0, 1.0), ints(&[2, 3], &[3, 3, 0, 1, -1, 8])],
            grouped,
        ),
        Case::new(
            "gather/windows",
            [floats(&[4, 5], -1.0, 1.0), ints(&[2, 3], &[0, 4, -2, 0, 3, 1])],
            move |b, v| Ok(vec![b.gather(v[0], v[1], windows.clone())?]),
        ),
    ]
}

fn scatter(name: &str, inputs: [Literal; 3], dims: ScatterDims, combiner: Combiner, unique: bool) -> Case {
    Case::new(name, inputs, move |b, v| {
        Ok(vec![b.scatter((v[0], v[1], v[2]), dims.clone(), combiner, unique)?])
    })
}

fn scatters() -> Vec<Case> {
    let rows = ScatterDims {
        update_window_dims: vec![1],
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        ..Default::default()
    };
    let batched = ScatterDims {
        update_window_dims: vec![2],
        inserted_window_dims: vec![],
        scatter_dims_to_operand_dims: vec![1],
        input_batching_dims: vec![0],
        scatter_indices_batching_dims: vec![0],
        index_vector_dim: 2,
    };
    let add = Combiner::Reduce(Reducer::Add);
    // Row 1 twice; -1 and 4 are out of bounds. Windows of 2 of rows of 5: starts up to 3 are in bounds.
    let repeated = [floats(&[4, 3], -1.0, 1.0), ints(&[5], &[1, -1, 1, 4, 3]), floats(&[5, 3], 0.0, 2.0)];
    let distinct = [floats(&[4, 3], -1.0, 1.0), ints(&[3], &[2, 7, 0]), floats(&[3, 3], 0.0, 2.0)];
    let windows =
        [floats(&[2, 5], -1.0, 1.0), ints(&[2, 3], &[0, 3, 4, 1, -1, 2]), floats(&[2, 3, 2], 0.0, 2.0)];
    vec![
        scatter("scatter add", repeated, rows.clone(), add, false),
        scatter("scatter add/batching", windows, batched, add, false),
        scatter("scatter assign", distinct, rows, Combiner::Assign, true),
    ]
}

fn slices() -> Vec<Case> {
    let mut cases = vec![];
    for start in [[1, 2], [-3, 0], [9, 9]] {
        let starts = start.map(|s| ints(&[], &[s]));
        let (x, update) = (floats(&[4, 5], -1.0, 1.0), floats(&[2, 3], 0.0, 2.0));
        cases.push(Case::new(
            format!("dynamic_slice/{start:?}"),
            [x.clone(), starts[0].clone(), starts[1].clone()],
            |b, v| Ok(vec![b.dynamic_slice(v[0], &v[1..], &[2, 3])?]),
        ));
        cases.push(Case::new(
            format!("dynamic_update_slice/{start:?}"),
            [x, update, starts[0].clone(), starts[1].clone()],
            |b, v| Ok(vec![b.dynamic_update_slice(v[0], v[1], &v[2..])?]),
        ));
    }
    cases
}

fn sorts() -> Vec<Case> {
    let keys = || f64s(&[2, 4], &[3.0, 1.0, 2.0, 1.0, -1.0, 4.0, -1.0, -1.0]);
    let sort = |name: &str, descending, dim| {
        Case::new(name, [keys(), floats(&[2, 4], 0.0, 1.0)], move |b, v| {
            b.sort_by_key(v[0], &v[1..], dim, descending)
        })
    };
    vec![
        sort("sort/ascending with ties", false, 1),
        sort("sort/descending with ties", true, 1),
        sort("sort/first axis", false, 0),
        Case::new(
            "sort/keys that are integers",
            [ints(&[5], &[3, 1, 2, 1, 0]), floats(&[5], 0.0, 1.0)],
            |b, v| b.sort_by_key(v[0], &v[1..], 0, false),
        ),
    ]
}
