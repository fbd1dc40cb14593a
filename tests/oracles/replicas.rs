//! Collectives: what each replica's loss owes to each replica's input, summed over replicas.

use super::case::{Case, f64s, numbers};
use switchyard::ir::*;

const REPLICAS: usize = 4;

pub fn cases() -> Vec<Case> {
    let all = || vec![(0..REPLICAS).collect::<Vec<_>>()];
    let halves = || vec![vec![0, 2], vec![3, 1]];
    let add = Reducer::Add;
    vec![
        case("all_reduce", &[3], Op::AllReduce { reducer: add, groups: all() }),
        case("all_reduce/two groups", &[3], Op::AllReduce { reducer: add, groups: halves() }),
        case("all_gather", &[2, 3], Op::AllGather { dim: 1, groups: all() }),
        case("all_gather/two groups", &[2, 3], Op::AllGather { dim: 0, groups: halves() }),
        case("reduce_scatter", &[8, 3], Op::ReduceScatter { dim: 0, reducer: add, groups: all() }),
        case(
            "reduce_scatter/two groups",
            &[3, 4],
            Op::ReduceScatter { dim: 1, reducer: add, groups: halves() },
        ),
        case("all_to_all", &[8, 3], Op::AllToAll { split_dim: 0, concat_dim: 1, groups: all() }),
        case(
            "all_to_all/two groups",
            &[4, 3],
            Op::AllToAll { split_dim: 0, concat_dim: 0, groups: halves() },
        ),
        // A ring with a gap: replica 3 sends nothing, replica 0 receives nothing.
        case("collective_permute", &[3], Op::CollectivePermute { pairs: vec![(0, 1), (1, 2), (2, 3)] }),
    ]
}

fn case(name: &str, shape: &[usize], op: Op) -> Case {
    let count = shape.iter().product();
    let rows =
        (0..REPLICAS).map(|r| vec![f64s(shape, &numbers(count, -1.0 - r as f64, 1.0 + r as f64))]).collect();
    Case::replicated(name, rows, move |b, v| {
        // Something not linear before and after, so that values matter too.
        let x = b.sin(v[0])?;
        let y = b.one(op.clone(), &[x])?;
        Ok(vec![b.square(y)?])
    })
}
