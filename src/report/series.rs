//! The curves of the picture, taken from the records.

use super::Record;

/// No curve gets more points than this; more would not be seen at 1200 pixels.
const MAX_POINTS: usize = 600;
/// Greater values would leave no room for the others.
const MAX_VALUE: f64 = 1e9;

/// Values over steps.
pub(super) type Curve = Vec<(u64, f64)>;

/// A value over all records that have it; values that are not finite or absurdly large are left out.
pub(super) fn curve(records: &[Record], name: &str) -> Curve {
    let points = records.iter().filter_map(|record| Some((record.step, record.value(name)?)));
    points.filter(|(_, value)| value.abs() < MAX_VALUE).collect()
}

/// Every n-th point, so that at most [`MAX_POINTS`] stay; the last one always does.
pub(super) fn thinned<T: Clone>(points: &[T]) -> Vec<T> {
    let stride = points.len().div_ceil(MAX_POINTS).max(1);
    let offset = points.len().saturating_sub(1) % stride;
    points.iter().skip(offset).step_by(stride).cloned().collect()
}

/// The mean over about a fortieth of the curve around each point.
///
/// The window is symmetric, so that the result neither lags nor leads where the curve is steep, and narrower at the start. At the
/// end it keeps all points before, so that the last value is no single step's.
pub(super) fn smoothed(points: &[(u64, f64)]) -> Curve {
    let widest = points.len() / 80;
    let mean_around = |(i, &(step, _)): (usize, &(u64, f64))| {
        let before = widest.min(i);
        let after = before.min(points.len() - 1 - i);
        let window = &points[i - before..=i + after];
        (step, window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64)
    };
    points.iter().enumerate().map(mean_around).collect()
}

/// The load of the experts over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    pub num_layers: usize,
    /// Per step, the share of each expert: they sum to 1.
    pub shares: Vec<(u64, Vec<f64>)>,
}

impl Load {
    pub fn num_experts(&self) -> usize {
        self.shares.first().map_or(0, |(_, shares)| shares.len())
    }
}

/// The load averaged over the layers whose vectors end in `suffix`, or of the one layer named.
///
/// Vectors of another number of experts than the first, and those without tokens, are left out.
pub(super) fn load(records: &[Record], suffix: &str, layer: Option<&str>) -> Load {
    let wanted = |name: &str| layer.map_or(name.ends_with(suffix), |layer| name == layer);
    let mut load = Load::default();
    let mut num_experts = None;
    for record in records {
        let vectors = record.layers.iter().filter(|(name, _)| wanted(name));
        let shares: Vec<Vec<f64>> = vectors
            .filter_map(|(_, vector)| shares(vector))
            .filter(|shares| shares.len() == *num_experts.get_or_insert(shares.len()))
            .collect();
        if let Some(mean) = mean(&shares) {
            load.num_layers = load.num_layers.max(shares.len());
            load.shares.push((record.step, mean));
        }
    }
    load
}

fn shares(load: &[f64]) -> Option<Vec<f64>> {
    let total: f64 = load.iter().sum();
    let sound = total > 0.0 && total.is_finite() && load.iter().all(|&value| value >= 0.0);
    sound.then(|| load.iter().map(|value| value / total).collect())
}

/// The mean of vectors of one length.
fn mean(vectors: &[Vec<f64>]) -> Option<Vec<f64>> {
    let first = vectors.first()?;
    let at = |expert: usize| vectors.iter().filter_map(|vector| vector.get(expert)).sum::<f64>();
    Some((0..first.len()).map(|expert| at(expert) / vectors.len() as f64).collect())
}

/// Averages neighbouring steps to at most 120 points, so that bands stay readable; the first and last steps stay the ends.
pub(super) fn averaged(points: &[(u64, Vec<f64>)]) -> Vec<(u64, Vec<f64>)> {
    const MAX_BANDS: usize = 120;
    let size = points.len().div_ceil(MAX_BANDS).max(1);
    let num_chunks = points.len().div_ceil(size);
    let averaged_chunk = |(i, chunk): (usize, &[(u64, Vec<f64>)])| {
        let vectors: Vec<Vec<f64>> = chunk.iter().map(|(_, shares)| shares.clone()).collect();
        let step = match i {
            0 => chunk.first()?.0,
            _ if i + 1 == num_chunks => chunk.last()?.0,
            _ => chunk.get(chunk.len() / 2)?.0,
        };
        Some((step, mean(&vectors)?))
    };
    points.chunks(size).enumerate().filter_map(averaged_chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_leave_out_what_cannot_be_drawn() {
        let mut records = vec![Record::new(1), Record::new(2), Record::new(3), Record::new(4)];
        for (record, value) in records.iter_mut().zip([2.0, f64::NAN, f64::INFINITY]) {
            record.push("loss", value);
        }
        assert_eq!(curve(&records, "loss"), [(1, 2.0)]);
    }

    #[test]
    fn thinning_keeps_the_last_point() {
        let points: Vec<u64> = (0..1501).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= MAX_POINTS);
        assert_eq!(thin.last(), Some(&1500));
        assert_eq!(thinned(&[7]), [7]);
        assert!(thinned::<u64>(&[]).is_empty());
    }

    #[test]
    fn smoothing_averages_both_sides_and_keeps_short_curves() {
        assert_eq!(smoothed(&[(1, 8.0), (2, 4.0)]), [(1, 8.0), (2, 4.0)]);
        // 80 points: each becomes the mean of itself and its two neighbours; the first stays, the last has one neighbour.
        let value = |step| if step == 1 || step == 78 { 9.0 } else { 3.0 };
        let points: Curve = (0..80).map(|step| (step, value(step))).collect();
        let smooth: Vec<f64> = smoothed(&points).iter().map(|point| point.1).collect();
        assert_eq!(smooth[..4], [3.0, 5.0, 5.0, 3.0]);
        assert_eq!(smooth[77..], [5.0, 5.0, 6.0]);
    }

    #[test]
    fn load_is_the_mean_of_shares_over_layers() {
        let mut record = Record::new(5);
        // Shares 1/4, 3/4 and 3/4, 1/4: mean 1/2. Three experts and no tokens are left out.
        record.push_layer("a/expert_load", vec![1.0, 3.0]).push_layer("b/expert_load", vec![6.0, 2.0]);
        record.push_layer("c/expert_load", vec![1.0, 1.0, 1.0]).push_layer("d/expert_load", vec![0.0, 0.0]);
        let all = load(std::slice::from_ref(&record), "expert_load", None);
        assert_eq!((all.num_layers, all.num_experts()), (2, 2));
        assert_eq!(all.shares, [(5, vec![0.5, 0.5])]);
        let one = load(&[record], "expert_load", Some("a/expert_load"));
        assert_eq!(one.shares, [(5, vec![0.25, 0.75])]);
    }

    #[test]
    fn averaging_keeps_both_ends() {
        let points: Vec<_> = (1..=250).map(|step| (step, vec![0.5, 0.5])).collect();
        let averaged = averaged(&points);
        assert!(averaged.len() <= 120);
        assert_eq!((averaged[0].0, averaged[averaged.len() - 1].0), (1, 250));
        assert!(averaged.iter().all(|(_, shares)| shares == &[0.5, 0.5]));
    }
}
