//! A second opinion on inference: each operation of the random graphs again through `XlaBuilder`, as it is and with other
//! operands. What we accept, XLA accepts, with the same shape.
#![cfg(feature = "cpu")]

mod common;

use common::actions;
use common::dice::Dice;
use common::values;
use switchyard::infer::infer;
use switchyard::ir::*;
use xla::{ElementType, PrimitiveType, XlaBuilder, XlaComputation, XlaOp};

const GRAPHS: u64 = 1000;
/// Variants of each operation with an operand of another type.
const VARIANTS: usize = 3;

#[test]
fn xla_builder_infers_the_same_shapes() {
    let (mut compared, mut names) = (0, std::collections::BTreeSet::new());
    for seed in 0..GRAPHS {
        let case = actions::grown(seed, 1, actions::ALL);
        let mut dice = Dice::new(seed);
        for node in case.graph.nodes() {
            let types = case.graph.types(&node.operands);
            for variant in 0..=VARIANTS {
                let types = if variant == 0 { types.clone() } else { changed(&mut dice, types.clone()) };
                if let Ok(results) = infer(&node.op, &types)
                    && let Some(result) = results.first()
                    && agrees(&node.op, &types, result, seed)
                {
                    compared += 1;
                    names.insert(node.op.name());
                }
            }
        }
    }
    assert!(compared > 5000 && names.len() > 40, "{compared} compared: {names:?}");
}

/// One operand gets another size or element type.
fn changed(dice: &mut Dice, mut types: Vec<TensorType>) -> Vec<TensorType> {
    if types.is_empty() {
        return types;
    }
    let which = dice.below(types.len());
    let ty = &mut types[which];
    match dice.below(3) {
        0 => ty.dtype = dice.pick(&DType::ALL),
        1 if ty.rank() > 0 => {
            let axis = dice.below(ty.rank());
            ty.shape[axis] = values::size(dice);
        }
        _ => ty.shape = values::shape(dice, ty.rank()),
    }
    types
}

/// Compares one operation; false where the builder of the crate cannot express it.
fn agrees(op: &Op, types: &[TensorType], expected: &TensorType, seed: u64) -> bool {
    let builder = XlaBuilder::new("shapes");
    let parameter = |(i, ty): (usize, &TensorType)| {
        builder.parameter(i as i64, element_type(ty.dtype), &longs(&ty.shape), "x").unwrap()
    };
    let x: Vec<XlaOp> = types.iter().enumerate().map(parameter).collect();
    let Some(built) = build(&builder, op, &x, expected) else { return false };
    let context = || format!("seed {seed}: {op:?} of {types:?}");
    let built = built.unwrap_or_else(|error| panic!("{}: XLA refuses: {error}", context()));
    let shape = built.array_shape().unwrap();
    assert_eq!(shape.dims(), longs(&expected.shape), "{}", context());
    assert_eq!(shape.primitive_type(), primitive_type(expected.dtype), "{}", context());
    true
}

type Built = Option<xla::Result<XlaOp>>;

fn build(builder: &XlaBuilder, op: &Op, x: &[XlaOp], result: &TensorType) -> Built {
    Some(match op {
        Op::Unary(op) => unary(*op, &x[0], result.dtype)?,
        Op::Binary(op) => binary(*op, &x[0], &x[1])?,
        Op::Compare(direction) => match direction {
            Direction::Eq => x[0].eq(&x[1]),
            Direction::Ne => x[0].ne(&x[1]),
            Direction::Lt => x[0].lt(&x[1]),
            Direction::Le => x[0].le(&x[1]),
            Direction::Gt => x[0].gt(&x[1]),
            Direction::Ge => x[0].ge(&x[1]),
        },
        Op::Select => x[0].select(&x[1], &x[2]),
        Op::Clamp => x[1].clamp(&x[0], &x[2]),
        Op::Convert(dtype) => x[0].convert(primitive_type(*dtype)),
        Op::Iota { ty, dim } => builder.iota(element_type(ty.dtype), &longs(&ty.shape), *dim as i64),
        Op::BroadcastInDim { shape, dims } => x[0].broadcast_in_dim(&longs(shape), &longs(dims)),
        Op::Reshape { shape } => x[0].reshape(&longs(shape)),
        Op::Transpose { permutation } => x[0].transpose(&longs(permutation)),
        Op::Reverse { dims } => x[0].rev(&longs(dims)),
        Op::Slice { starts, limits, strides } => sliced(&x[0], starts, limits, strides),
        Op::Pad { low, high, interior } => {
            let config: Vec<_> = (0..low.len()).map(|d| (low[d], high[d], interior[d] as i64)).collect();
            x[0].pad(&x[1], &config)
        }
        Op::Concatenate { dim } => x[0].concat_in_dim(&x[1..], *dim as i64),
        Op::DotGeneral { dims, result, .. } => x[0].dot_general_with_type(
            &x[1],
            &longs(&dims.lhs_contracting),
            &longs(&dims.rhs_contracting),
            &longs(&dims.lhs_batch),
            &longs(&dims.rhs_batch),
            primitive_type(*result),
        ),
        Op::Reduce { dims, .. } => {
            let zero = builder.zero(element_type(result.dtype)).unwrap();
            x[0].reduce(zero, combiner(result.dtype), &longs(dims), false)
        }
        Op::Gather(dims) if dims.operand_batching_dims.is_empty() => x[0].gather(
            &x[1],
            &longs(&dims.offset_dims),
            &longs(&dims.collapsed_slice_dims),
            &longs(&dims.start_index_map),
            Some(dims.index_vector_dim as i64),
            &longs(&dims.slice_sizes),
        ),
        Op::Scatter { dims, .. } if dims.input_batching_dims.is_empty() => x[0].scatter(
            &x[1],
            &x[2],
            &combiner(result.dtype),
            &longs(&dims.update_window_dims),
            &longs(&dims.inserted_window_dims),
            &longs(&dims.scatter_dims_to_operand_dims),
            dims.index_vector_dim as i64,
        ),
        Op::DynamicSlice { sizes } => x[0].dynamic_slice(&x[1..], &longs(sizes)),
        Op::DynamicUpdateSlice => x[0].dynamic_update_slice(&x[1], &x[2..]),
        Op::Sort { dim, stable, .. } if x.len() == 1 => x[0].sort_asc(*dim as i64, *stable),
        _ => return None,
    })
}

fn unary(op: UnaryOp, x: &XlaOp, dtype: DType) -> Built {
    Some(match op {
        // XLA refuses unsigned operands; lowering leaves the operation out.
        UnaryOp::Abs if dtype.domain() == Domain::Unsigned => return None,
        UnaryOp::Neg => x.neg(),
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sign => x.sign(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Expm1 => x.expm1(),
        UnaryOp::Log => x.log(),
        UnaryOp::Log1p => x.log1p(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Logistic => x.logistic(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => x.rsqrt(),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Erf => x.erf(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::RoundNearestEven => return None,
        UnaryOp::IsFinite => x.is_finite(),
        UnaryOp::Not => x.not(),
    })
}

fn binary(op: BinaryOp, x: &XlaOp, y: &XlaOp) -> Built {
    Some(match op {
        BinaryOp::Add => x.add_(y),
        BinaryOp::Sub => x.sub_(y),
        BinaryOp::Mul => x.mul_(y),
        BinaryOp::Div => x.div_(y),
        BinaryOp::Rem => x.rem_(y),
        BinaryOp::Max => x.max(y),
        BinaryOp::Min => x.min(y),
        BinaryOp::Pow => x.pow(y),
        BinaryOp::And => x.and(y),
        BinaryOp::Or => x.or(y),
        BinaryOp::Xor => x.xor(y),
        BinaryOp::ShiftLeft | BinaryOp::ShiftRight => return None,
    })
}

/// The crate slices one axis at a time.
fn sliced(x: &XlaOp, starts: &[usize], limits: &[usize], strides: &[usize]) -> xla::Result<XlaOp> {
    let mut y = x.copy()?;
    for d in 0..starts.len() {
        y = y.slice_in_dim(starts[d] as i64, limits[d] as i64, strides[d] as i64, d as i64)?;
    }
    Ok(y)
}

/// A computation from two scalars to one; which one plays no part for the shape.
fn combiner(dtype: DType) -> XlaComputation {
    let builder = XlaBuilder::new("combine");
    let x = builder.parameter(0, element_type(dtype), &[], "x").unwrap();
    let y = builder.parameter(1, element_type(dtype), &[], "y").unwrap();
    x.max(&y).unwrap().build().unwrap()
}

fn longs(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|&d| d as i64).collect()
}

fn element_type(dtype: DType) -> ElementType {
    match dtype {
        DType::Pred => ElementType::Pred,
        DType::S8 => ElementType::S8,
        DType::S32 => ElementType::S32,
        DType::S64 => ElementType::S64,
        DType::U8 => ElementType::U8,
        DType::U32 => ElementType::U32,
        DType::U64 => ElementType::U64,
        DType::F16 => ElementType::F16,
        DType::Bf16 => ElementType::Bf16,
        DType::F32 => ElementType::F32,
        DType::F64 => ElementType::F64,
    }
}

fn primitive_type(dtype: DType) -> PrimitiveType {
    element_type(dtype).primitive_type()
}
