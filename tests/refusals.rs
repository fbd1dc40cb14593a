//! Operations with arbitrary attributes: inference refuses or accepts them but never panics, and what it accepts evaluates to
//! the types that it inferred.

mod common;

use common::dice::Dice;
use common::values;
use std::sync::Arc;
use switchyard::build::Builder;
use switchyard::eval::evaluate;
use switchyard::infer::infer;
use switchyard::ir::*;

const ATTEMPTS: u64 = 40_000;

#[test]
fn inference_never_panics_and_evaluation_agrees_with_it() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..ATTEMPTS {
        let mut dice = Dice::new(seed);
        let operands: Vec<TensorType> = (0..dice.below(5)).map(|_| operand(&mut dice)).collect();
        let op = wild(&mut dice, &operands);
        match infer(&op, &operands) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with(op.name()), "seed {seed}: {error}");
            }
            Ok(results) => {
                accepted += 1;
                if operands.iter().chain(&results).all(|ty| ty.size_bytes() < 100_000) {
                    assert_types(&mut dice, seed, op, &operands, &results);
                }
            }
        }
    }
    // Both happen often enough for the test to mean something.
    assert!(refused > ATTEMPTS / 4 && accepted > ATTEMPTS / 50, "{refused} refused, {accepted} accepted");
}

fn assert_types(dice: &mut Dice, seed: u64, op: Op, operands: &[TensorType], results: &[TensorType]) {
    // These need more than one replica, or are inputs.
    let apart =
        ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute", "parameter"];
    if apart.contains(&op.name()) {
        return;
    }
    let graph = Builder::graph(operands, |b, values| b.insert(op, values)).unwrap();
    let inputs: Vec<Literal> = operands.iter().map(|ty| values::literal(dice, ty)).collect();
    let outputs = evaluate(&graph, &inputs).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let types: Vec<TensorType> = outputs.iter().map(|x| x.ty().clone()).collect();
    assert_eq!(types, results, "seed {seed}");
}

/// Small types, often alike, so that some operations are valid.
fn operand(dice: &mut Dice) -> TensorType {
    if dice.chance(60) {
        let dtype = dice.pick(&[DType::F32, DType::S32, DType::Pred]);
        let rank = dice.below(3);
        return TensorType::new(dtype, vec![2; rank]);
    }
    values::tensor_type(dice)
}

/// Mostly small numbers, some absurd ones.
fn number(dice: &mut Dice) -> usize {
    if dice.chance(6) {
        dice.pick(&[usize::MAX, usize::MAX / 2, 1 << 40, i64::MAX as usize])
    } else {
        dice.below(4)
    }
}

fn numbers(dice: &mut Dice) -> Vec<usize> {
    (0..dice.below(4)).map(|_| number(dice)).collect()
}

/// As many numbers as the first operand has axes, mostly.
fn per_axis(dice: &mut Dice, operands: &[TensorType]) -> Vec<usize> {
    if dice.chance(20) {
        return numbers(dice);
    }
    let rank = operands.first().map_or(0, TensorType::rank);
    (0..rank).map(|_| number(dice)).collect()
}

fn offsets(dice: &mut Dice, operands: &[TensorType]) -> Vec<i64> {
    let wild =
        |dice: &mut Dice| if dice.chance(5) { dice.pick(&[i64::MIN, i64::MAX]) } else { dice.between(-3, 3) };
    per_axis(dice, operands).iter().map(|_| wild(dice)).collect()
}

fn groups(dice: &mut Dice) -> ReplicaGroups {
    if dice.chance(60) { vec![vec![0, 1]] } else { (0..dice.below(3)).map(|_| numbers(dice)).collect() }
}

/// A graph that gives back its inputs, or the first of them, or a truth value.
fn subgraph(dice: &mut Dice, operands: &[TensorType]) -> Arc<Graph> {
    let results = dice.below(3);
    let graph = Builder::graph(operands, |b, values| match results {
        0 => Ok(values.to_vec()),
        1 => Ok(values.iter().take(1).copied().collect()),
        _ => Ok(vec![b.scalar(DType::Pred, 0.0)?]),
    });
    graph.unwrap().into()
}

fn wild(dice: &mut Dice, operands: &[TensorType]) -> Op {
    match dice.below(32) {
        0 => Op::Unary(dice.pick(UnaryOp::ALL)),
        1 | 2 => Op::Binary(dice.pick(BinaryOp::ALL)),
        3 => Op::Compare(dice.pick(&Direction::ALL)),
        4 => dice.pick(&[Op::Select, Op::Clamp, Op::StopGradient, Op::OptimizationBarrier]),
        5 => Op::Convert(dice.pick(&DType::ALL)),
        6 => Op::BitcastConvert(dice.pick(&DType::ALL)),
        7 => Op::Iota { ty: values::tensor_type(dice), dim: number(dice) },
        8 => Op::Parameter { index: number(dice), ty: TensorType::new(DType::F64, numbers(dice)) },
        9 => Op::BroadcastInDim { shape: numbers(dice), dims: per_axis(dice, operands) },
        10 => Op::Reshape { shape: numbers(dice) },
        11 => Op::Transpose { permutation: per_axis(dice, operands) },
        12 => Op::Reverse { dims: numbers(dice) },
        13 => Op::Slice {
            starts: per_axis(dice, operands),
            limits: per_axis(dice, operands),
            strides: per_axis(dice, operands),
        },
        14 => Op::Pad {
            low: offsets(dice, operands),
            high: offsets(dice, operands),
            interior: per_axis(dice, operands),
        },
        15 => Op::Concatenate { dim: number(dice) },
        16 => Op::DotGeneral {
            dims: DotDims {
                lhs_batch: numbers(dice),
                rhs_batch: numbers(dice),
                lhs_contracting: numbers(dice),
                rhs_contracting: numbers(dice),
            },
            precision: Precision::Default,
            result: dice.pick(&DType::ALL),
        },
        17 => Op::Reduce { dims: numbers(dice), reducer: dice.pick(&Reducer::ALL) },
        18 => Op::CumSum { dim: number(dice), exclusive: dice.chance(50), reverse: dice.chance(50) },
        19 => Op::Gather(gather_dims(dice, operands)),
        20 => Op::Scatter {
            dims: scatter_dims(dice),
            combiner: dice.pick(&[
                Combiner::Assign,
                Combiner::Reduce(Reducer::Add),
                Combiner::Reduce(Reducer::Or),
            ]),
            unique: false,
        },
        21 => Op::DynamicSlice { sizes: per_axis(dice, operands) },
        22 => Op::DynamicUpdateSlice,
        23 => Op::RngBitGenerator { algorithm: RngAlgorithm::Philox, ty: values::tensor_type(dice) },
        24 => dice.pick(&[Op::ReplicaId, Op::PartitionId]),
        25 => Op::AllGather { dim: number(dice), groups: groups(dice) },
        26 => Op::AllToAll { split_dim: number(dice), concat_dim: number(dice), groups: groups(dice) },
        27 => Op::ReduceScatter { dim: number(dice), reducer: Reducer::Add, groups: groups(dice) },
        28 => Op::CollectivePermute { pairs: numbers(dice).into_iter().zip(numbers(dice)).collect() },
        29 => Op::AllReduce { reducer: dice.pick(&Reducer::ALL), groups: groups(dice) },
        _ => with_subgraphs(dice, operands),
    }
}

fn with_subgraphs(dice: &mut Dice, operands: &[TensorType]) -> Op {
    let doubled: Vec<TensorType> =
        operands.iter().flat_map(|ty| vec![TensorType::scalar(ty.dtype); 2]).collect();
    match dice.below(5) {
        0 => Op::Sort { dim: number(dice), comparator: subgraph(dice, &doubled), stable: true },
        1 => {
            // A loop whose condition may hold for ever is only inferred, never run: its condition is false.
            let cond = Builder::graph(operands, |b, _| Ok(vec![b.scalar(DType::Pred, 0.0)?])).unwrap();
            Op::While { cond: cond.into(), body: subgraph(dice, operands) }
        }
        2 => Op::Scan(Scan {
            body: subgraph(dice, operands),
            length: number(dice),
            num_consts: dice.below(3),
            num_carry: dice.below(3),
            reverse: false,
            remat: RematPolicy::SaveAll,
        }),
        3 => {
            let rest = operands.get(1..).unwrap_or_default();
            Op::Conditional { branches: (0..dice.below(3)).map(|_| subgraph(dice, rest)).collect() }
        }
        _ => {
            let derivative = match dice.chance(50) {
                true => Derivative::Body(RematPolicy::SaveNothing),
                false => Derivative::Custom { vjp: subgraph(dice, operands), num_primals: number(dice) },
            };
            Op::Call(Call { name: "f".into(), body: subgraph(dice, operands), derivative })
        }
    }
}

fn gather_dims(dice: &mut Dice, operands: &[TensorType]) -> GatherDims {
    GatherDims {
        offset_dims: numbers(dice),
        collapsed_slice_dims: numbers(dice),
        start_index_map: numbers(dice),
        operand_batching_dims: if dice.chance(50) { vec![] } else { numbers(dice) },
        start_indices_batching_dims: if dice.chance(50) { vec![] } else { numbers(dice) },
        index_vector_dim: number(dice),
        slice_sizes: per_axis(dice, operands),
    }
}

fn scatter_dims(dice: &mut Dice) -> ScatterDims {
    ScatterDims {
        update_window_dims: numbers(dice),
        inserted_window_dims: numbers(dice),
        scatter_dims_to_operand_dims: numbers(dice),
        input_batching_dims: if dice.chance(50) { vec![] } else { numbers(dice) },
        scatter_indices_batching_dims: if dice.chance(50) { vec![] } else { numbers(dice) },
        index_vector_dim: number(dice),
    }
}
