use crate::check::*;
use switchyard::build::Builder;
use switchyard::grad::gradients;
use switchyard::ir::*;

#[test]
fn gathered_rows_add_up_where_they_came_from() {
    // Row 2 twice, and indices out of range that are clamped to rows 0 and 3.
    let inputs = [floats(&[4, 3], -1.0, 1.0), ints(&[2, 3], &[2, 0, 2, 9, -7, 1])];
    check_twice("take_rows", &inputs, |b, v| {
        let rows = b.take_rows(v[0], v[1])?;
        Ok(vec![b.sin(rows)?])
    });
}

#[test]
fn grouped_gathers_have_batching_dimensions() {
    let inputs = [floats(&[2, 4, 3], -1.0, 1.0), ints(&[2, 3], &[3, 3, 0, 1, -1, 8])];
    check_twice("take_rows_grouped", &inputs, |b, v| {
        let rows = b.take_rows_grouped(v[0], v[1])?;
        Ok(vec![b.sin(rows)?])
    });
}

/// Windows of `1 x 2` of `x[4, 5]`, at index vectors along dimension 0.
fn window_gather() -> GatherDims {
    GatherDims {
        offset_dims: vec![0, 2],
        start_index_map: vec![1, 0],
        index_vector_dim: 0,
        slice_sizes: vec![2, 3],
        ..Default::default()
    }
}

#[test]
fn windows_near_the_edge_are_clamped_as_the_gather_does() {
    // Index vectors (column, row): (0, 0), (4, 3) -> (2, 2), (-2, 1) -> (0, 1).
    let inputs = [floats(&[4, 5], -1.0, 1.0), ints(&[2, 3], &[0, 4, -2, 0, 3, 1])];
    check_twice("window gather", &inputs, |b, v| {
        let found = b.gather(v[0], v[1], window_gather())?;
        Ok(vec![b.sin(found)?])
    });
}

#[test]
fn narrow_indices_are_clamped_in_their_own_type() {
    let indices = Literal::new([3], &[100i8, -100, 127]).unwrap();
    let table = floats(&[200], -1.0, 1.0);
    check("s8 indices", &[table, indices], |b, v| Ok(vec![b.take_rows(v[0], v[1])?]));
}

fn row_scatter() -> ScatterDims {
    ScatterDims {
        update_window_dims: vec![1],
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        ..Default::default()
    }
}

#[test]
fn scattered_sums_differentiate_by_operand_and_updates() {
    // Row 1 twice; -1 and 4 are out of bounds and skipped.
    let inputs = [floats(&[4, 3], -1.0, 1.0), ints(&[5], &[1, -1, 1, 4, 3]), floats(&[5, 3], 0.0, 2.0)];
    check_twice("scatter add", &inputs, |b, v| {
        let sums = b.scatter((v[0], v[1], v[2]), row_scatter(), Combiner::Reduce(Reducer::Add), false)?;
        Ok(vec![b.square(sums)?])
    });
}

#[test]
fn unique_assignments_cut_the_operand_off() {
    let inputs = [floats(&[4, 3], -1.0, 1.0), ints(&[3], &[2, 7, 0]), floats(&[3, 3], 0.0, 2.0)];
    check_twice("scatter assign", &inputs, |b, v| {
        let y = b.scatter((v[0], v[1], v[2]), row_scatter(), Combiner::Assign, true)?;
        Ok(vec![b.square(y)?])
    });
}

#[test]
fn scattered_windows_with_batching_dimensions() {
    let dims = ScatterDims {
        update_window_dims: vec![2],
        inserted_window_dims: vec![],
        scatter_dims_to_operand_dims: vec![1],
        input_batching_dims: vec![0],
        scatter_indices_batching_dims: vec![0],
        index_vector_dim: 2,
    };
    // Windows of 2 of rows of 5: starts up to 3 are in bounds.
    let inputs =
        [floats(&[2, 5], -1.0, 1.0), ints(&[2, 3], &[0, 3, 4, 1, -1, 2]), floats(&[2, 3, 2], 0.0, 2.0)];
    check("batched window scatter", &inputs, |b, v| {
        let y = b.scatter((v[0], v[1], v[2]), dims.clone(), Combiner::Reduce(Reducer::Add), false)?;
        Ok(vec![b.square(y)?])
    });
}

#[test]
fn other_scatters_have_no_derivative() {
    let types =
        [floats(&[4, 3], 0.0, 1.0), ints(&[2], &[0, 1]), floats(&[2, 3], 0.0, 1.0)].map(|x| x.ty().clone());
    for (combiner, unique) in [
        (Combiner::Reduce(Reducer::Max), true),
        (Combiner::Reduce(Reducer::Min), false),
        (Combiner::Reduce(Reducer::Mul), true),
        (Combiner::Assign, false),
    ] {
        let result = Builder::graph(&types, |b, v| {
            let y = b.scatter((v[0], v[1], v[2]), row_scatter(), combiner, unique)?;
            let loss = b.sum_all(y)?;
            gradients(b, loss, &[v[0]])
        });
        assert!(result.unwrap_err().to_string().starts_with("scatter has no reverse-mode derivative"));
    }
}

#[test]
fn dynamic_slices_are_clamped_alike_in_both_directions() {
    for start in [[1, 2], [-3, 0], [9, 9]] {
        let inputs = [
            floats(&[4, 5], -1.0, 1.0),
            ints(&[], &start[..1]),
            ints(&[], &start[1..]),
            floats(&[2, 3], 0.0, 2.0),
        ];
        check_twice("dynamic_slice", &inputs[..3], |b, v| {
            let part = b.dynamic_slice(v[0], &v[1..], &[2, 3])?;
            Ok(vec![b.sin(part)?])
        });
        check_twice("dynamic_update_slice", &inputs, |b, v| {
            let y = b.dynamic_update_slice(v[0], v[3], &v[1..3])?;
            Ok(vec![b.sin(y)?])
        });
    }
}
