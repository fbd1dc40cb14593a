use crate::check::*;

#[test]
fn broadcasts_add_up_what_they_repeated() {
    check("broadcast", &[floats(&[2, 3], -1.0, 1.0)], |b, v| {
        let wide = b.broadcast_in_dim(v[0], &[4, 2, 5, 3], &[1, 3])?;
        Ok(vec![b.sin(wide)?])
    });
    check("broadcast of a scalar", &[floats(&[], -1.0, 1.0)], |b, v| {
        Ok(vec![b.broadcast_in_dim(v[0], &[2, 2], &[])?])
    });
}

#[test]
fn reshape_transpose_and_reverse_move_cotangents_back() {
    let x = [floats(&[2, 3, 4], -1.0, 1.0)];
    check("reshape", &x, |b, v| Ok(vec![b.reshape(v[0], &[6, 4])?]));
    check("transpose", &x, |b, v| Ok(vec![b.transpose(v[0], &[2, 0, 1])?]));
    check("reverse", &x, |b, v| Ok(vec![b.reverse(v[0], &[0, 2])?]));
}

#[test]
fn strided_slices_pad_with_zeros() {
    let x = [floats(&[7, 5], -1.0, 1.0)];
    check_twice("slice", &x, |b, v| Ok(vec![b.slice(v[0], &[1, 0], &[6, 5], &[3, 2])?]));
    check("whole slice", &x, |b, v| Ok(vec![b.slice(v[0], &[0, 0], &[7, 5], &[1, 1])?]));
    check("empty slice", &x, |b, v| Ok(vec![b.slice(v[0], &[2, 1], &[2, 4], &[2, 1])?]));
}

#[test]
fn padding_may_be_negative_and_interior() {
    let inputs = [floats(&[4, 3], -1.0, 1.0), floats(&[], 0.5, 2.0)];
    for (low, high, interior) in [
        ([1, 0], [0, 2], [0, 0]),
        ([2, 1], [1, 3], [1, 2]),
        ([-1, 2], [2, -1], [0, 0]),
        ([-2, -1], [-1, -3], [2, 1]),
        ([-3, 0], [1, 0], [1, 0]),
        ([-4, 0], [0, 0], [0, 0]),
    ] {
        let name = format!("pad {low:?} {high:?} {interior:?}");
        check_twice(&name, &inputs, |b, v| Ok(vec![b.pad(v[0], v[1], &low, &high, &interior)?]));
    }
    check("pad of nothing", &[floats(&[0], 0.0, 1.0), floats(&[], 0.5, 2.0)], |b, v| {
        Ok(vec![b.pad(v[0], v[1], &[2], &[1], &[3])?])
    });
}

#[test]
fn concatenation_cuts_cotangents() {
    let inputs = [floats(&[2, 1], 0.0, 1.0), floats(&[2, 3], -1.0, 1.0), floats(&[2, 0], 0.0, 1.0)];
    check("concatenate", &inputs, |b, v| {
        let all = b.concatenate(&[v[0], v[1], v[2], v[0]], 1)?;
        Ok(vec![b.sin(all)?])
    });
}

#[test]
fn unstacked_rows_stack_their_cotangents() {
    check("unstack", &[floats(&[3, 2], -1.0, 1.0)], |b, v| {
        let rows = b.unstack(v[0])?;
        // The middle row has no cotangent.
        Ok(vec![b.sin(rows[0])?, b.square(rows[2])?])
    });
}

#[test]
fn sorting_moves_cotangents_back_to_where_elements_came_from() {
    let inputs = [
        f64s(&[2, 4], &[0.3, -1.0, 2.0, 0.9, 5.0, 4.0, 3.0, 3.5]),
        floats(&[2, 4], -1.0, 1.0),
        ints(&[2, 4], &[1, 2, 3, 4, 5, 6, 7, 8]),
    ];
    for (dim, descending) in [(0, false), (1, false), (1, true)] {
        check_twice("sort", &inputs, |b, v| {
            let sorted = b.sort_by_key(v[0], &v[1..], dim, descending)?;
            Ok(vec![b.square(sorted[0])?, b.sin(sorted[1])?])
        });
    }
}

#[test]
fn equal_keys_of_a_stable_sort_keep_their_own_cotangents() {
    let keys = ints(&[5], &[1, 0, 1, 0, 1]);
    check("sort with ties", &[floats(&[5], -1.0, 1.0), keys], |b, v| {
        let sorted = b.sort_by_key(v[1], &v[..1], 0, false)?;
        Ok(vec![b.sin(sorted[1])?])
    });
}
