//! Which blocks a stack has, in the order in which they run.

use super::model::ModelConfig;
use super::moe::Spacing;
use super::side::Side;

/// Consecutive blocks that one scan runs over: `repeats` runs of `period` blocks each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Scope of a block below its stack, without the number in the run: `first`, `block` or `last`.
    pub name: &'static str,
    pub period: usize,
    pub repeats: usize,
    /// Which block of a run is sparse.
    pub sparse: Option<usize>,
}

impl Segment {
    /// The scope of block `index` of a run.
    pub fn scope(&self, index: usize) -> String {
        format!("{}_{index}", self.name)
    }

    pub fn layers(&self) -> usize {
        self.period.saturating_mul(self.repeats)
    }

    /// Its sparse blocks.
    pub fn sparse_blocks(&self) -> usize {
        self.sparse.map_or(0, |_| self.repeats)
    }
}

/// Where a block's parameters are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Scope below the stack.
    pub scope: String,
    /// Row of the leading axis.
    pub row: usize,
    pub sparse: bool,
}

impl ModelConfig {
    /// The segments of a stack: dense ones at first, runs of blocks with one sparse block each, and the blocks of an incomplete
    /// run at last. A dense stack has one segment.
    pub fn segments(&self, side: Side) -> Vec<Segment> {
        let segment = |name, period, repeats, sparse| Segment { name, period, repeats, sparse };
        let (layers, Spacing { every, offset }) = (side.layers(self), self.moe.spacing(side));
        if self.moe.num_experts == 0 || every == 0 {
            return vec![segment("block", 1, layers, None)];
        }
        let dense = self.num_dense_layers.min(layers);
        let (runs, rest) = ((layers - dense) / every, (layers - dense) % every);
        let all = [
            segment("first", 1, dense, None),
            segment("block", every, runs, Some(offset)),
            segment("last", rest, usize::from(rest > 0), (offset < rest).then_some(offset)),
        ];
        all.into_iter().filter(|segment| segment.layers() > 0).collect()
    }

    /// Where the blocks of a stack are, in order.
    pub fn places(&self, side: Side) -> Vec<Place> {
        let place = |segment: Segment, row| {
            move |index| Place { scope: segment.scope(index), row, sparse: segment.sparse == Some(index) }
        };
        let rows = |segment: Segment| {
            (0..segment.repeats).flat_map(move |row| (0..segment.period).map(place(segment, row)))
        };
        self.segments(side).into_iter().flat_map(rows).collect()
    }

    /// Sparse blocks of a stack.
    pub fn sparse_blocks(&self, side: Side) -> usize {
        self.segments(side).iter().map(Segment::sparse_blocks).fold(0, usize::saturating_add)
    }

    /// Sparse layers of both stacks: those of a sparse block are its sublayers with experts.
    pub fn sparse_layers(&self) -> usize {
        let blocks = Side::BOTH.map(|side| self.sparse_blocks(side));
        blocks[0].saturating_add(blocks[1]).saturating_mul(self.moe.sublayers.scopes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MoeConfig;

    fn model(
        num_experts: usize,
        every: usize,
        offset: Option<usize>,
        num_dense_layers: usize,
    ) -> ModelConfig {
        let moe = MoeConfig { num_experts, every, offset, ..MoeConfig::default() };
        ModelConfig { moe, num_dense_layers, ..ModelConfig::default() }
    }

    fn sparse(model: &ModelConfig, layers: usize) -> Vec<usize> {
        sparse_of(&ModelConfig { num_decoder_layers: layers, ..model.clone() }, Side::Decoder)
    }

    fn sparse_of(model: &ModelConfig, side: Side) -> Vec<usize> {
        let places = model.places(side);
        assert_eq!(places.len(), side.layers(model));
        (0..places.len()).filter(|&layer| places[layer].sparse).collect()
    }

    #[test]
    fn the_last_block_of_each_run_is_sparse_unless_told_otherwise() {
        assert_eq!(sparse(&model(2, 2, None, 0), 6), [1, 3, 5]);
        assert_eq!(sparse(&model(2, 3, Some(0), 0), 6), [0, 3]);
        assert_eq!(sparse(&model(2, 1, None, 0), 4), [0, 1, 2, 3]);
        assert_eq!(sparse(&model(0, 2, None, 0), 6), [0_usize; 0]);
        assert_eq!(sparse(&model(2, 0, None, 0), 6), [0_usize; 0]);
    }

    #[test]
    fn incomplete_runs_and_dense_blocks_stand_at_the_ends() {
        // Hugging Face's 5 blocks, 2 of them sparse: every 2 = 5 / 2, block 1 of each run; block 4 stays dense.
        assert_eq!(sparse(&model(2, 2, Some(1), 0), 5), [1, 3]);
        // 11 blocks, 3 of them sparse by its setting, which gives 4: 1, 4, 7 and 10.
        assert_eq!(sparse(&model(2, 3, Some(1), 0), 11), [1, 4, 7, 10]);
        assert_eq!(sparse(&model(2, 1, None, 3), 5), [3, 4]);
        assert_eq!(sparse(&model(2, 1, None, 9), 2), [0_usize; 0]);
    }

    #[test]
    fn places_name_the_scope_and_the_row_of_each_block() {
        let model = ModelConfig { num_decoder_layers: 6, ..model(2, 2, None, 1) };
        let places = model.places(Side::Decoder).into_iter();
        let found: Vec<(String, usize)> = places.map(|place| (place.scope, place.row)).collect();
        let expected =
            [("first_0", 0), ("block_0", 0), ("block_1", 0), ("block_0", 1), ("block_1", 1), ("last_0", 0)];
        assert_eq!(found, expected.map(|(scope, row)| (scope.to_string(), row)));
    }

    #[test]
    fn the_decoder_follows_the_encoder_unless_it_has_a_rule_of_its_own() {
        let stacks = |every: usize, offset: Option<usize>, decoder_every, decoder_offset| {
            let mut model = model(2, every, offset, 0);
            (model.moe.decoder_every, model.moe.decoder_offset) = (decoder_every, decoder_offset);
            (model.num_encoder_layers, model.num_decoder_layers) = (6, 6);
            Side::BOTH.map(|side| sparse_of(&model, side))
        };
        assert_eq!(stacks(3, Some(0), None, None), [[0, 3], [0, 3]]);
        assert_eq!(stacks(3, Some(0), None, Some(1)), [[0, 3], [1, 4]]);
        // Its own runs are sparse at their end, whatever the encoder's are.
        assert_eq!(stacks(2, Some(0), Some(3), None), [vec![0, 2, 4], vec![2, 5]]);
        assert_eq!(stacks(2, Some(0), Some(0), None), [vec![0, 2, 4], vec![]]);
        assert_eq!(stacks(0, None, Some(4), Some(1)), [vec![], vec![1, 5]]);
    }
}
