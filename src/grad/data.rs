//! Operations that move elements: each rule moves them back, and adds up what was repeated.

use super::rule::{Pulled, Site};
use crate::build::{BuildError, Builder};
use crate::ir::{DType, TensorType, Value};

pub(super) fn broadcast_in_dim(site: &mut Site, shape: &[usize], dims: &[usize]) -> Pulled {
    let repeated: Vec<usize> = (0..shape.len()).filter(|d| !dims.contains(d)).collect();
    site.linear(|b, g| b.sum(g, &repeated))
}

pub(super) fn reshape(site: &mut Site) -> Pulled {
    let shape = site.b.shape(site.operands[0]);
    site.linear(|b, g| b.reshape(g, &shape))
}

pub(super) fn transpose(site: &mut Site, permutation: &[usize]) -> Pulled {
    let mut inverse = vec![0; permutation.len()];
    permutation.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
    site.linear(|b, g| b.transpose(g, &inverse))
}

pub(super) fn reverse(site: &mut Site, dims: &[usize]) -> Pulled {
    site.linear(|b, g| b.reverse(g, dims))
}

/// Zeros in the places that the slice left out.
pub(super) fn slice(site: &mut Site, starts: &[usize], strides: &[usize]) -> Pulled {
    let (whole, kept) = (site.b.shape(site.operands[0]), site.b.shape(site.results[0]));
    let low: Vec<i64> = starts.iter().map(|&s| s as i64).collect();
    let interior: Vec<usize> = strides.iter().map(|s| s - 1).collect();
    let high: Vec<i64> = (0..whole.len())
        .map(|i| {
            let span = if kept[i] == 0 { 0 } else { (kept[i] - 1) * strides[i] + 1 };
            (whole[i] - starts[i] - span) as i64
        })
        .collect();
    site.linear(|b, g| {
        let zero = b.scalar(b.dtype(g), 0.0)?;
        b.pad(g, zero, &low, &high, &interior)
    })
}

/// The elements are cut out again; those that negative padding removed get zero. The value gets the sum of the rest.
pub(super) fn pad(site: &mut Site, low: &[i64], high: &[i64], interior: &[usize]) -> Pulled {
    let (g, shape) = (site.cotangent()?, site.b.shape(site.operands[0]));
    let for_x = site.when(0, |b| unpad(b, g, &shape, (low, high, interior)))?;
    let for_value = site.when(1, |b| {
        let inside = b.full(&TensorType::new(DType::Pred, shape), 0.0)?;
        let outside = b.scalar(DType::Pred, 1.0)?;
        let padding = b.pad(inside, outside, low, high, interior)?;
        let kept = b.mask(padding, g, 0.0)?;
        b.sum_all(kept)
    })?;
    Ok(vec![for_x, for_value])
}

fn unpad(
    b: &mut Builder,
    g: Value,
    shape: &[usize],
    (low, high, interior): (&[i64], &[i64], &[usize]),
) -> Result<Value, BuildError> {
    let negate = |edges: &[i64]| -> Vec<i64> { edges.iter().map(|e| -e).collect() };
    let none = vec![0; shape.len()];
    let zero = b.scalar(b.dtype(g), 0.0)?;
    let spread = b.pad(g, zero, &negate(low), &negate(high), &none)?;
    let limits = b.shape(spread);
    let strides: Vec<usize> = interior.iter().map(|i| i + 1).collect();
    b.slice(spread, &none, &limits, &strides)
}

pub(super) fn concatenate(site: &mut Site, dim: usize) -> Pulled {
    let g = site.cotangent()?;
    let mut start = 0;
    (0..site.operands.len())
        .map(|i| {
            let size = site.b.shape(site.operands[i])[dim];
            let part = start..start + size;
            start = part.end;
            site.when(i, |b| b.slice_axis(g, dim, part.start, part.end))
        })
        .collect()
}
