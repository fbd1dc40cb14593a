//! A folder of `transformers` to a checkpoint here.

use super::copy::{self, Float, Matrix};
use super::error::{ConvertError, Problem};
use super::families::{Family, Source};
use super::origin::Origin;
use super::plan::{self, Plan, Target};
use super::settings::{self, Settings};
use super::weights::Weights;
use crate::checkpoint::{self, Meta, Saved, Sink};
use crate::config::{ConfigError, RunConfig, TokenizerSpec};
use std::path::{Path, PathBuf};

const TOKENIZER: &str = "tokenizer.json";

/// How names of tensors end that hold the matrices of all experts of a layer.
const PACKED: [&str; 2] = [".experts.gate_up_proj", ".experts.down_proj"];

/// What [`import`] made.
#[derive(Clone, Debug)]
pub struct Imported {
    pub config: RunConfig,
    /// The file of the configuration.
    pub config_path: PathBuf,
    pub checkpoint: Saved,
    /// Tensors read.
    pub num_tensors: usize,
    pub num_parameters: u64,
}

/// Reads a folder with `config.json` and safetensors, and writes `config.json`, a checkpoint of the parameters in float32 and,
/// where there is one, `tokenizer.json` into the folder `target`.
///
/// Source files are mapped, and passed once tensor by tensor; what is held beside the map is one block of a matrix.
///
/// Errors: [`ConvertError::Refused`] with every name, shape and setting that does not fit; files that cannot be read or written.
pub fn import(source: &Path, target: &Path) -> Result<Imported, ConvertError> {
    if target.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || target.is_file() {
        return Err(ConvertError::Exists { path: target.to_path_buf() });
    }
    let tree = settings::read(source)?;
    let family = Family::of(source, &tree)?;
    let mut problems = vec![];
    let mut config = family.config(&mut Settings::new(&tree, &mut problems));
    config.name = run_name(source);
    config.data.tokenizer =
        TokenizerSpec::HuggingFace { path: target.join(TOKENIZER).display().to_string(), eos_token: None };
    let config = resolve(source, config, &problems)?;
    let weights = match Weights::open(source, &mut problems) {
        // Quantised weights have element types that no file here has.
        Err(_) if !problems.is_empty() => {
            return Err(ConvertError::Refused { path: source.join(settings::FILE), problems });
        }
        opened => opened?,
    };
    let folder = Source { settings: &tree, weights: &weights };
    let plan = checked(source, family, &config, folder, problems)?;
    let optional = plan.optional.iter().filter(|name| weights.ty(name).is_some());
    let origin = Origin::new(tree, &weights, optional.map(ToString::to_string).collect());
    let checkpoint = write(target, &config, &plan, &weights, &origin)?;
    let config_path = target.join(settings::FILE);
    std::fs::write(&config_path, config.to_json()).map_err(ConvertError::io("write", &config_path))?;
    copy_tokenizer(source, target)?;
    let num_parameters = config.model.parameter_count();
    Ok(Imported { config, config_path, checkpoint, num_tensors: weights.len(), num_parameters })
}

/// Copies `tokenizer.json` if there is one.
pub(super) fn copy_tokenizer(source: &Path, target: &Path) -> Result<(), ConvertError> {
    let (from, to) = (source.join(TOKENIZER), target.join(TOKENIZER));
    if from.is_file() {
        std::fs::copy(&from, &to).map_err(ConvertError::io("write", &to))?;
    }
    Ok(())
}

/// Validates the configuration; problems found before explain more than what follows from them.
fn resolve(source: &Path, config: RunConfig, problems: &[Problem]) -> Result<RunConfig, ConvertError> {
    config.resolved().map_err(|source_error: ConfigError| {
        let path = source.join(settings::FILE);
        if problems.is_empty() {
            return ConvertError::Config { path, source: Box::new(source_error) };
        }
        ConvertError::Refused { path, problems: problems.to_vec() }
    })
}

/// The plan, if everything fits.
fn checked(
    source: &Path,
    family: Family,
    config: &RunConfig,
    folder: Source,
    mut problems: Vec<Problem>,
) -> Result<Plan, ConvertError> {
    let path = || source.to_path_buf();
    let packed = folder.weights.names().filter(|name| PACKED.iter().any(|end| name.ends_with(end)));
    let packed: Vec<Problem> = packed.map(|name| Problem::Packed { name: name.into() }).collect();
    if !packed.is_empty() {
        return Err(ConvertError::Refused { path: path(), problems: [problems, packed].concat() });
    }
    // Names are made only if there can be as many tensors: a setting alone must not fill the memory.
    let (asked, found) = (plan::count(&config.model), folder.weights.len());
    if asked > found.saturating_mul(2).saturating_add(1000) {
        problems.push(Problem::Count { asked, found });
        return Err(ConvertError::Refused { path: path(), problems });
    }
    let mut plan = family.plan(config, Some(folder));
    problems.extend(plan.unmapped(family.name()));
    plan.check(folder.weights, &mut problems);
    if problems.is_empty() { Ok(plan) } else { Err(ConvertError::Refused { path: path(), problems }) }
}

fn write(
    target: &Path,
    config: &RunConfig,
    plan: &Plan,
    weights: &Weights,
    origin: &Origin,
) -> Result<Saved, ConvertError> {
    let state: Vec<_> = plan.targets.iter().map(|target| (target.name.clone(), target.ty.clone())).collect();
    let origin = serde_json::to_string(origin)
        .map_err(|source| ConvertError::Json { path: target.join(settings::FILE), source })?;
    let data_position = "null".into();
    let meta =
        Meta { config_digest: config.digest(), data_position, origin: Some(origin), ..Meta::default() };
    checkpoint::save_streamed(target, &meta, &state, |i, sink| fill(&plan.targets[i], weights, sink))
}

/// Gives the numbers of one tensor here from its pieces there.
fn fill(target: &Target, weights: &Weights, sink: &mut Sink) -> Result<(), ConvertError> {
    for piece in &target.pieces {
        let bytes = weights.bytes(&piece.name)?;
        let float = weights.ty(&piece.name).and_then(|ty| Float::of(ty.dtype)).unwrap_or(Float::F32);
        let (rows, columns) = piece.matrix();
        let matrix = Matrix { bytes, float, rows, columns };
        copy::copy(matrix, Float::F32, piece.transposed, &mut |block| sink.write(block))?;
        weights.release(&piece.name);
    }
    Ok(())
}

/// A name that a configuration takes, from that of the folder.
fn run_name(source: &Path) -> String {
    let name =
        source.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let known = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.unwrap_or_default().chars().take(100).map(known).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "imported".into() } else { name.into() }
}
