//! A checkpoint here to a folder of `transformers`.

use super::copy::{self, Float, Matrix};
use super::error::{ConvertError, Problem};
use super::families::Family;
use super::origin::Origin;
use super::plan::{Piece, Plan};
use super::weights::{INDEX, SINGLE};
use super::{import, settings};
use crate::checkpoint::{self, CheckpointError, Sink, TensorFile, write_streamed};
use crate::config::{RunConfig, Sublayers};
use crate::ir::TensorType;
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::Path;

/// How a folder is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The element type of all tensors; by default what each had when it was imported, else float32.
    pub dtype: Option<Float>,
    /// Bytes from which weights are spread over several files; one tensor is never split.
    pub shard_bytes: Option<u64>,
}

/// What [`export`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Value of `model_type`.
    pub model_type: &'static str,
    pub num_tensors: usize,
    pub num_files: usize,
    pub size_bytes: u64,
    /// Where the model behaves otherwise there, although the weights are the same.
    pub differences: Vec<String>,
}

/// Writes the parameters of a checkpoint as `config.json` and safetensors into the folder `target`.
///
/// `tokenizer.json` beside the checkpoint comes along.
///
/// Errors: [`ConvertError::Refused`] with everything that has no counterpart; files that cannot be read or written.
pub fn export(
    checkpoint: &TensorFile,
    config: &RunConfig,
    target: &Path,
    options: Options,
) -> Result<Exported, ConvertError> {
    if target.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || target.is_file() {
        return Err(ConvertError::Exists { path: target.to_path_buf() });
    }
    let family = Family::holding(config);
    let mut origin = Origin::parse(checkpoint::origin(checkpoint).as_deref());
    if let Some(origin) = &mut origin
        && head_differs(checkpoint)
    {
        origin.untie();
    }
    let mut problems = vec![];
    let settings = all_settings(family, config, origin.as_ref(), &mut problems);
    problems.extend(experts_in_attention(family, config));
    let plan = family.plan(config, None);
    if problems.is_empty() {
        problems.extend(plan.unmapped(family.name()));
    }
    let tensors = tensors(&plan, checkpoint, origin.as_ref(), options, &mut problems);
    if !problems.is_empty() {
        return Err(ConvertError::Refused { path: checkpoint.path().to_path_buf(), problems });
    }
    std::fs::create_dir_all(target).map_err(ConvertError::io("create", target))?;
    let shards = shards(&tensors, options.shard_bytes.unwrap_or(u64::MAX));
    let size_bytes = write_shards(target, checkpoint, &shards)?;
    write_json(&target.join(settings::FILE), &Value::Object(settings))?;
    if let Some(folder) = checkpoint.path().parent() {
        import::copy_tokenizer(folder, target)?;
    }
    Ok(Exported {
        model_type: family.name(),
        num_tensors: tensors.len(),
        num_files: shards.len(),
        size_bytes,
        differences: family.differences(config),
    })
}

/// Whether there is a head with other numbers than the embedding, from which it may have come.
fn head_differs(checkpoint: &TensorFile) -> bool {
    let [head, embedding] = ["head", "shared/embedding"].map(|name| checkpoint.bytes(name).ok());
    head.is_some() && head != embedding
}

/// No family there has them.
fn experts_in_attention(family: Family, config: &RunConfig) -> Option<Problem> {
    let moe = &config.model.moe;
    let found = match moe.sublayers {
        _ if moe.num_experts == 0 => return None,
        Sublayers::FeedForward => return None,
        Sublayers::Attention => "attention",
        Sublayers::Both => "both",
    };
    let (ours, model, expected) = ("model.moe.sublayers", family.name(), "feed_forward".into());
    Some(Problem::NotExpressible { ours, found: found.into(), model, expected })
}

/// The settings that the configuration stands for, laid over those that were imported.
fn all_settings(
    family: Family,
    config: &RunConfig,
    origin: Option<&Origin>,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let mut settings = origin.map(|origin| origin.settings.clone()).unwrap_or_default();
    settings.entry("architectures").or_insert_with(|| json!([family.architecture()]));
    settings.insert("model_type".into(), family.name().into());
    let fresh = family.settings(config, &settings, problems);
    settings.extend(fresh);
    settings
}

/// One tensor of the folder.
struct Tensor<'a> {
    name: &'a str,
    ty: TensorType,
    float: Float,
    /// The tensor here, and which of its bytes are the numbers.
    source: &'a str,
    range: Range<usize>,
    piece: &'a Piece,
}

impl Tensor<'_> {
    /// The numbers in the checkpoint.
    fn matrix<'a>(&self, checkpoint: &'a TensorFile) -> Result<Matrix<'a>, CheckpointError> {
        let bytes = checkpoint.bytes(self.source)?.get(self.range.clone()).unwrap_or_default();
        let (rows, columns) = self.piece.matrix();
        let (rows, columns) = if self.piece.transposed { (columns, rows) } else { (rows, columns) };
        Ok(Matrix { bytes, float: Float::F32, rows, columns })
    }

    /// Whether no number changes in the element type of the file.
    fn is_exact(&self, checkpoint: &TensorFile) -> bool {
        if self.float == Float::F32 {
            return true;
        }
        let exact = self.matrix(checkpoint).is_ok_and(|matrix| copy::is_exact(matrix.bytes, self.float));
        checkpoint.release(self.source, self.range.clone());
        exact
    }

    fn write(&self, checkpoint: &TensorFile, sink: &mut Sink) -> Result<(), CheckpointError> {
        let matrix = self.matrix(checkpoint)?;
        copy::copy(matrix, self.float, self.piece.transposed, &mut |block| sink.write(block))?;
        checkpoint.release(self.source, self.range.clone());
        Ok(())
    }
}

/// All tensors, sorted by name.
fn tensors<'a>(
    plan: &'a Plan,
    checkpoint: &TensorFile,
    origin: Option<&'a Origin>,
    options: Options,
    problems: &mut Vec<Problem>,
) -> Vec<Tensor<'a>> {
    let mut tensors = vec![];
    for target in &plan.targets {
        let found = checkpoint.ty(&target.name);
        if found != Some(&target.ty) {
            problems.push(misfit(&target.name, &target.ty, found));
            continue;
        }
        let mut offset = 0;
        for piece in &target.pieces {
            let range = offset..offset + piece.elements() * Float::F32.dtype().size_bytes();
            offset = range.end;
            for name in names(plan, piece, origin) {
                let float = options.dtype.or(origin.map(|origin| origin.float(name))).unwrap_or(Float::F32);
                let ty = TensorType::new(float.dtype(), piece.shape.clone());
                let source = target.name.as_str();
                tensors.push(Tensor { name, ty, float, source, range: range.clone(), piece });
            }
        }
    }
    if options.dtype.is_none() {
        let rounded = tensors.iter().filter(|tensor| !tensor.is_exact(checkpoint));
        problems.extend(rounded.map(|tensor| Problem::Rounding {
            name: tensor.name.into(),
            dtype: tensor.ty.dtype.to_string(),
        }));
    }
    tensors.sort_by_key(|tensor| tensor.name);
    tensors
}

/// The names under which the numbers of a piece are written: as many copies as there were when they were imported, else one.
fn names<'a>(plan: &'a Plan, piece: &'a Piece, origin: Option<&Origin>) -> Vec<&'a str> {
    let name = piece.name.as_str();
    let Some(origin) = origin else { return vec![name] };
    let was_there = |name: &&str| origin.optional.iter().any(|found| found == *name);
    if plan.copies.first() == Some(&name) {
        return plan.copies.iter().copied().filter(was_there).collect();
    }
    if plan.optional.contains(&name) {
        Some(name).filter(was_there).into_iter().collect()
    } else {
        vec![name]
    }
}

fn misfit(name: &str, expected: &TensorType, found: Option<&TensorType>) -> Problem {
    let name = name.to_string();
    match found {
        None => Problem::Missing { name, shape: expected.shape.clone() },
        Some(ty) if ty.dtype != expected.dtype => Problem::ElementType { name, found: ty.dtype.to_string() },
        Some(ty) => Problem::Shape { name, found: ty.shape.clone(), expected: expected.shape.clone() },
    }
}

/// Runs of tensors of at most so many bytes each, or of one tensor.
fn shards<'a, 'b>(tensors: &'b [Tensor<'a>], limit_bytes: u64) -> Vec<&'b [Tensor<'a>]> {
    let mut shards = vec![];
    let (mut first, mut bytes) = (0, 0u64);
    for (i, tensor) in tensors.iter().enumerate() {
        let size = tensor.ty.size_bytes() as u64;
        if i > first && bytes.saturating_add(size) > limit_bytes {
            shards.push(&tensors[first..i]);
            (first, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(size);
    }
    shards.push(&tensors[first..]);
    shards
}

/// Writes the files, and an index where there are several. Returns their size.
fn write_shards(folder: &Path, checkpoint: &TensorFile, shards: &[&[Tensor]]) -> Result<u64, ConvertError> {
    let count = shards.len();
    let mut size_bytes = 0;
    let mut weight_map = Map::new();
    for (i, tensors) in shards.iter().enumerate() {
        let file =
            if count == 1 { SINGLE.into() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) };
        let named: Vec<_> = tensors.iter().map(|tensor| (tensor.name, &tensor.ty)).collect();
        size_bytes += write_streamed(&folder.join(&file), &[("format", "pt")], &named, |i, sink| {
            tensors[i].write(checkpoint, sink)
        })?;
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.to_string(), file.clone().into())));
    }
    if count > 1 {
        let all = shards.iter().flat_map(|tensors| tensors.iter());
        let total: u64 = all.map(|tensor| tensor.ty.size_bytes() as u64).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(&folder.join(INDEX), &index)?;
    }
    Ok(size_bytes)
}

fn write_json(path: &Path, tree: &Value) -> Result<(), ConvertError> {
    std::fs::write(path, format!("{tree:#}\n")).map_err(ConvertError::io("write", path))
}
