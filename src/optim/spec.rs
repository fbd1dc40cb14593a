//! What an optimizer must know of a parameter, and what it keeps for it.

use crate::config::OptimizerConfig;
use crate::ir::{DType, TensorType};
use crate::shard::Partition;

/// What the optimizer must know of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// The path in the state, such as `encoder/blocks/moe/experts/wi`.
    pub name: String,
    /// Of the whole tensor, on however many devices.
    pub ty: TensorType,
    /// What of it each device holds.
    pub partition: Partition,
    /// Number of leading axes that stack separate tensors (layers of a scan, experts): root mean squares and factored
    /// moments are taken per element of the stack.
    pub batch_axes: usize,
    /// Whether Adafactor may keep row and column moments instead of all; false for router weights.
    pub factored: bool,
    /// Whether weight decay applies.
    pub decay: bool,
}

impl ParamSpec {
    /// The axes of one element of the stack.
    pub(super) fn own_axes(&self) -> Vec<usize> {
        (self.batch_axes.min(self.ty.rank())..self.ty.rank()).collect()
    }
}

/// One float32 tensor of optimizer state, zero before the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `optimizer/<kind>/<parameter>`.
    pub name: String,
    /// Of the whole tensor.
    pub ty: TensorType,
    pub partition: Partition,
    /// Index of the parameter.
    pub param: usize,
}

/// The two axes over which Adafactor averages squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Factors {
    pub largest: usize,
    pub second: usize,
}

impl Factors {
    /// The two largest own axes, the later one first where they are equal; `None` where all moments are kept.
    pub fn of(spec: &ParamSpec, min_dim_size_to_factor: usize) -> Option<Factors> {
        let shape = &spec.ty.shape;
        let mut axes = spec.own_axes();
        axes.sort_by_key(|&axis| shape[axis]);
        let [.., second, largest] = *axes else { return None };
        (spec.factored && shape[second] >= min_dim_size_to_factor).then_some(Factors { largest, second })
    }
}

/// The optimizer state, parameter by parameter, in the order that [`super::update`] takes and returns.
pub fn slots(config: &OptimizerConfig, params: &[ParamSpec]) -> Vec<Slot> {
    let of = |(param, spec): (usize, &ParamSpec)| {
        let slots = slots_of(config, spec).into_iter();
        let name = spec.name.clone();
        slots.map(move |Kind { kind, ty, partition }| Slot {
            name: format!("optimizer/{kind}/{name}"),
            ty,
            partition,
            param,
        })
    };
    params.iter().enumerate().flat_map(of).collect()
}

/// A slot of one parameter.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub kind: &'static str,
    pub ty: TensorType,
    pub partition: Partition,
}

/// The slots of one parameter.
pub(super) fn slots_of(config: &OptimizerConfig, spec: &ParamSpec) -> Vec<Kind> {
    let full = |kind| Kind { kind, ty: spec.ty.with_dtype(DType::F32), partition: spec.partition.clone() };
    let without = |kind, axis: usize| {
        let Kind { mut ty, partition, .. } = full(kind);
        ty.shape.remove(axis);
        Kind { kind, ty, partition: partition.without(axis) }
    };
    match config {
        OptimizerConfig::Adafactor { min_dim_size_to_factor, beta1, .. } => {
            let mut slots = match Factors::of(spec, *min_dim_size_to_factor) {
                Some(f) => vec![without("v_row", f.largest), without("v_col", f.second)],
                None => vec![full("v")],
            };
            slots.extend(beta1.map(|_| full("m")));
            slots
        }
        OptimizerConfig::AdamW { .. } => vec![full("m"), full("v")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[usize], batch_axes: usize) -> ParamSpec {
        let ty = TensorType::new(DType::F32, shape);
        ParamSpec {
            name: "w".into(),
            ty,
            partition: Partition::whole(),
            batch_axes,
            factored: true,
            decay: true,
        }
    }

    #[test]
    fn the_two_largest_own_axes_are_factored() {
        let factors = |largest, second| Some(Factors { largest, second });
        assert_eq!(Factors::of(&spec(&[256, 128], 0), 128), factors(0, 1));
        assert_eq!(Factors::of(&spec(&[128, 128], 0), 128), factors(1, 0));
        assert_eq!(Factors::of(&spec(&[256, 127], 0), 128), None);
        // 2048 experts are a stack, not a dimension of the matrix.
        assert_eq!(Factors::of(&spec(&[2048, 128, 512], 1), 128), factors(2, 1));
        assert_eq!(Factors::of(&spec(&[2048, 512], 1), 128), None);
        assert_eq!(Factors::of(&ParamSpec { factored: false, ..spec(&[256, 256], 0) }, 128), None);
        assert_eq!(Factors::of(&spec(&[], 0), 0), None);
        assert_eq!(Factors::of(&spec(&[4], 3), 0), None);
    }

    #[test]
    fn slots_are_named_after_kind_and_parameter() {
        let params = [spec(&[4, 256, 128], 1), spec(&[8], 0)];
        let named = |config| -> Vec<String> {
            slots(&config, &params).iter().map(|s| format!("{} {} {}", s.name, s.ty, s.param)).collect()
        };
        assert_eq!(
            named(OptimizerConfig::default()),
            ["optimizer/v_row/w f32[4,128] 0", "optimizer/v_col/w f32[4,256] 0", "optimizer/v/w f32[8] 1"]
        );
        assert_eq!(
            named(OptimizerConfig::adamw())[2..],
            ["optimizer/m/w f32[8] 1", "optimizer/v/w f32[8] 1"]
        );
    }
}
