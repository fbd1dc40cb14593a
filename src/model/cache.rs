//! What generation keeps on the device between tokens.

use super::block::Keys;
use crate::build::{BuildError, Builder};
use crate::config::{ModelConfig, RunConfig, Segment, Side};
use crate::ir::{DType, TensorType, Value};
use crate::layers::attention::{self, Kept};
use crate::layers::{self, Context};
use crate::shard::{BATCH, Partition};
use std::collections::BTreeMap;

/// Names of tensors here begin with it.
const CACHE_SCOPE: &str = "cache/";

/// `f32[batch, slots]`: 1 where a slot holds a token of the decoder.
pub(super) const REAL: &str = "cache/real";
/// `s32[batch, slots]`: the position of that token.
pub(super) const POSITION: &str = "cache/position";
/// `f32[batch, input_length]`: 1 for tokens of the encoder, 0 for padding.
pub(super) const MEMORY_REAL: &str = "cache/memory_real";

/// One tensor of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTensor {
    pub name: String,
    /// As a whole.
    pub ty: TensorType,
    pub partition: Partition,
}

/// The static sizes of the cache, of all devices together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Sequences that are generated together.
    pub batch: usize,
    /// Tokens of the decoder, prompt included.
    pub slots: usize,
    /// Tokens of the encoder.
    pub inputs: usize,
}

impl CacheShape {
    /// A microbatch of rows as long as the configuration's.
    pub fn new(config: &RunConfig) -> Self {
        let batch = config.batch.sequences_per_microbatch();
        Self { batch, slots: config.batch.target_length, inputs: config.batch.input_length }
    }

    /// All tensors by name, in order: slots, then the keys of each block with a leading axis of repeats.
    pub fn tensors(self, config: &ModelConfig) -> Vec<CacheTensor> {
        let rows = |name: &str, dtype, length| CacheTensor {
            name: name.into(),
            ty: TensorType::new(dtype, [self.batch, length]),
            partition: Partition::whole().split(0, BATCH),
        };
        let mut tensors = vec![rows(REAL, DType::F32, self.slots), rows(POSITION, DType::S32, self.slots)];
        if Side::Decoder.has_cross_attention(config) {
            tensors.push(rows(MEMORY_REAL, DType::F32, self.inputs));
        }
        for segment in config.segments(Side::Decoder) {
            tensors.extend(names(config, segment).into_iter().map(|name| self.keys(config, segment, name)));
        }
        tensors
    }

    fn keys(self, config: &ModelConfig, segment: Segment, name: Name) -> CacheTensor {
        let length = if name.cross { self.inputs } else { self.slots };
        let before = [segment.repeats, self.batch, length];
        let shape = [&before[..], &name.kept.shape].concat();
        CacheTensor {
            name: name.path,
            ty: TensorType::new(layers::dtype(config), shape),
            partition: name.kept.partition.behind(before.len()).split(1, BATCH),
        }
    }
}

/// One tensor of keys.
pub(super) struct Name {
    pub path: String,
    /// Whether the keys are the encoder's.
    pub cross: bool,
    /// Those of one token.
    kept: Kept,
}

/// The keys of the blocks of a segment, in the order in which blocks use them.
pub(super) fn names(config: &ModelConfig, segment: Segment) -> Vec<Name> {
    let attentions = match Side::Decoder.has_cross_attention(config) {
        true => vec![("attention", false), ("cross_attention", true)],
        false => vec![("attention", false)],
    };
    let kept = attention::kept(config);
    let mut names = vec![];
    for index in 0..segment.period {
        for &(layer, cross) in &attentions {
            for kept in &kept {
                let path = format!("{CACHE_SCOPE}decoder/{}/{layer}/{}", segment.scope(index), kept.name);
                names.push(Name { path, cross, kept: kept.clone() });
            }
        }
    }
    names
}

/// Values by name.
#[derive(Clone, Debug, Default)]
pub struct Cache(BTreeMap<String, Value>);

impl Cache {
    pub fn new(values: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self(values.into_iter().collect())
    }

    pub fn get(&self, name: &str) -> Result<Value, BuildError> {
        let missing = || BuildError::Invalid(format!("internal: the cache holds no `{name}`"));
        self.0.get(name).copied().ok_or_else(missing)
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.into(), value);
    }
}

/// Keys of a whole sequence that are noted where they are made, for the cache.
#[derive(Default)]
pub(super) struct Noted {
    /// `[batch, length, ..]`.
    pub keys: Vec<Value>,
}

impl Keys for Noted {
    fn own(&mut self, _: &mut Builder, new: Vec<Value>) -> Result<Vec<Value>, BuildError> {
        self.keys.extend(&new);
        Ok(new)
    }

    fn cross(&mut self, _: &mut Builder, _: &Context) -> Result<Vec<Value>, BuildError> {
        Err(BuildError::Invalid("internal: a prompt of a decoder with an encoder".into()))
    }
}

/// Keys in the cache, to which those of the new token are added.
pub(super) struct Cached<'a> {
    /// `[repeats, batch, slots, ..]`, in the order of use.
    pub own: Vec<Value>,
    /// `[repeats, batch, inputs, ..]`.
    pub cross: &'a [Value],
    /// `s32[]`: which repeat the run of blocks is, and where the new token goes.
    pub row: Value,
    pub slot: Value,
    /// How many of either were used.
    pub used: [usize; 2],
}

impl Keys for Cached<'_> {
    fn own(&mut self, b: &mut Builder, new: Vec<Value>) -> Result<Vec<Value>, BuildError> {
        let mut keys = vec![];
        for new in new {
            let place = self.used[0];
            self.used[0] += 1;
            let cache = self.own[place];
            let update = b.expand_dim(new, 0)?;
            let zero = b.scalar(DType::S32, 0.0)?;
            let mut starts = vec![zero; b.shape(cache).len()];
            (starts[0], starts[2]) = (self.row, self.slot);
            self.own[place] = b.dynamic_update_slice(cache, update, &starts)?;
            keys.push(element(b, self.own[place], self.row)?);
        }
        Ok(keys)
    }

    fn cross(&mut self, b: &mut Builder, cx: &Context) -> Result<Vec<Value>, BuildError> {
        let first = self.used[1];
        self.used[1] += attention::kept(cx.config).len();
        self.cross[first..self.used[1]].iter().map(|&keys| element(b, keys, self.row)).collect()
    }
}

/// The element `row s32[]` of the leading axis.
fn element(b: &mut Builder, x: Value, row: Value) -> Result<Value, BuildError> {
    let shape = b.shape(x);
    let zero = b.scalar(DType::S32, 0.0)?;
    let mut starts = vec![zero; shape.len()];
    starts[0] = row;
    let sizes = [&[1], &shape[1..]].concat();
    let slice = b.dynamic_slice(x, &starts, &sizes)?;
    b.reshape(slice, &shape[1..])
}
