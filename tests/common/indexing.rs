//! Random gathers, scatters and dynamic slices.

use super::sketch::Sketch;
use super::{actions, values};
use switchyard::ir::*;

/// How the axes of an operand are indexed, the same for gather and scatter.
struct Plan {
    /// Axes of the operand that are batching, ascending; and their places among the batch axes of the indices.
    batching: Vec<usize>,
    batching_places: Vec<usize>,
    /// Axes of the operand with windows of size one that are left out, ascending.
    dropped: Vec<usize>,
    /// The other axes, ascending.
    kept: Vec<usize>,
    /// Axes that index vectors address, in their order.
    indexed: Vec<usize>,
    /// Sizes of the batch axes of the indices.
    batch: Vec<usize>,
    /// Where the index vector lies among the axes of the indices.
    vector_dim: usize,
    index_type: TensorType,
}

fn plan(s: &mut Sketch, ty: &TensorType) -> Plan {
    let rank = ty.rank();
    let batching = if s.dice.chance(30) { s.dice.subset(rank, 1.max(rank / 2)) } else { vec![] };
    let free: Vec<usize> = (0..rank).filter(|d| !batching.contains(d)).collect();
    let dropped: Vec<usize> = s.dice.subset(free.len(), free.len()).into_iter().map(|i| free[i]).collect();
    let kept = free.iter().copied().filter(|d| !dropped.contains(d)).collect();
    let mut indexed = s.dice.shuffled(free);
    indexed.truncate(s.dice.below(indexed.len() + 1));

    let own = s.dice.below(3);
    let mut batch: Vec<usize> = (0..own).map(|_| 1 + s.dice.below(3)).collect();
    let mut batching_places: Vec<usize> = vec![];
    for &d in &batching {
        let place = s.dice.below(batch.len() + 1);
        batching_places.iter_mut().filter(|p| **p >= place).for_each(|p| *p += 1);
        batch.insert(place, ty.shape[d]);
        batching_places.push(place);
    }
    let mut shape = batch.clone();
    let mut vector_dim = s.dice.below(shape.len() + 1);
    if indexed.len() == 1 && s.dice.chance(50) {
        vector_dim = shape.len();
    } else {
        shape.insert(vector_dim, indexed.len());
    }
    let dtype = s.dice.pick(&[DType::S32, DType::S32, DType::S64, DType::U32, DType::U8, DType::S8]);
    Plan {
        batching,
        batching_places,
        dropped,
        kept,
        indexed,
        batch,
        vector_dim,
        index_type: TensorType::new(dtype, shape),
    }
}

impl Plan {
    /// The batching axes as axes of the indices.
    fn index_batching(&self) -> Vec<usize> {
        let past =
            |p: &usize| p + usize::from(*p >= self.vector_dim && self.vector_dim < self.index_type.rank());
        self.batching_places.iter().map(past).collect()
    }

    /// Fits indices of the batch axes and window sizes into one shape; returns it and the window axes.
    fn mixed(&self, s: &mut Sketch, window: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let rank = self.batch.len() + window.len();
        let mut chosen = s.dice.shuffled((0..rank).collect());
        chosen.truncate(window.len());
        chosen.sort_unstable();
        let (mut batch, mut sizes) = (self.batch.iter(), window.iter());
        let next = |d| if chosen.contains(&d) { sizes.next() } else { batch.next() };
        let shape = (0..rank).filter_map(next).copied().collect();
        (shape, chosen)
    }
}

fn windows(s: &mut Sketch, ty: &TensorType, plan: &Plan) -> Vec<usize> {
    plan.kept.iter().map(|&d| if ty.shape[d] == 0 { 0 } else { 1 + s.dice.below(ty.shape[d]) }).collect()
}

pub fn gather(s: &mut Sketch) {
    let x = s.any(|ty| !ty.shape.contains(&0) && ty.elements() <= 100);
    let ty = s.ty(x);
    let plan = plan(s, &ty);
    let window = windows(s, &ty, &plan);
    let mut slice_sizes = vec![1; ty.rank()];
    plan.kept.iter().zip(&window).for_each(|(&d, &size)| slice_sizes[d] = size);
    let (shape, offset_dims) = plan.mixed(s, &window);
    if shape.iter().product::<usize>() > 500 {
        return;
    }
    let indices = s.position_input(&plan.index_type, -2, 6);
    let dims = GatherDims {
        offset_dims,
        collapsed_slice_dims: plan.dropped.clone(),
        start_index_map: plan.indexed.clone(),
        operand_batching_dims: plan.batching.clone(),
        start_indices_batching_dims: plan.index_batching(),
        index_vector_dim: plan.vector_dim,
        slice_sizes,
    };
    s.apply(Op::Gather(dims), &[x, indices]);
}

pub fn scatter(s: &mut Sketch) {
    let x = s.any(|ty| !ty.shape.contains(&0) && ty.elements() <= 100);
    let ty = s.ty(x);
    let plan = plan(s, &ty);
    let window = windows(s, &ty, &plan);
    let (shape, update_window_dims) = plan.mixed(s, &window);
    let count: usize = shape.iter().product();
    // XLA 0.5.4 gets scatters of several windows wrong whose index vectors are empty.
    let nowhere = plan.indexed.is_empty() && plan.batch.iter().product::<usize>() != 1;
    if count > 200 || nowhere {
        return;
    }
    let dims = ScatterDims {
        update_window_dims,
        inserted_window_dims: plan.dropped.clone(),
        scatter_dims_to_operand_dims: plan.indexed.clone(),
        input_batching_dims: plan.batching.clone(),
        scatter_indices_batching_dims: plan.index_batching(),
        index_vector_dim: plan.vector_dim,
    };
    // Only a single window cannot meet another, which an assignment needs for a defined result.
    let single = plan.batch.iter().product::<usize>() == 1;
    let reduce = Combiner::Reduce(actions::reducer(&mut s.dice, ty.dtype));
    let combiner = if single && s.dice.chance(60) { Combiner::Assign } else { reduce };
    let indices = s.position_input(&plan.index_type, -2, 6);
    let updates = s.of_type(&TensorType::new(ty.dtype, shape));
    s.apply(Op::Scatter { dims, combiner, unique: single }, &[x, indices, updates]);
}

fn starts(s: &mut Sketch, rank: usize) -> Vec<usize> {
    let dtype = s.dice.pick(&values::INTEGERS);
    (0..rank).map(|_| s.position_input(&TensorType::scalar(dtype), -2, 6)).collect()
}

pub fn dynamic_slice(s: &mut Sketch) {
    let x = s.any(|_| true);
    let sizes: Vec<usize> = s.ty(x).shape.iter().map(|&size| s.dice.below(size + 1)).collect();
    let starts = starts(s, sizes.len());
    s.apply(Op::DynamicSlice { sizes }, &[&[x], &starts[..]].concat());
}

pub fn dynamic_update_slice(s: &mut Sketch) {
    let x = s.any(|_| true);
    let ty = s.ty(x);
    let sizes: Vec<usize> = ty.shape.iter().map(|&size| s.dice.below(size + 1)).collect();
    let starts = starts(s, sizes.len());
    let update = s.of_type(&TensorType::new(ty.dtype, sizes));
    s.apply(Op::DynamicUpdateSlice, &[&[x, update], &starts[..]].concat());
}
