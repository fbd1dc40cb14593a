//! Parameters of one model made from those of another, layer by layer: a student starts from its teacher, experts start from
//! a dense network.

use super::initial::{InitialError, Misfit};
use crate::build::BuildError;
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::config::{ModelConfig, Place, RunConfig, Side};
use crate::eval::{self, EvalError};
use crate::ir::{Literal, LiteralError, TensorType};
use crate::layers::ParamDef;
use crate::model;
use crate::step;
use std::collections::BTreeSet;

/// Between which models parameters go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// All but experts and routers. The dense network of a layer whose counterpart has experts starts anew.
    Distillation,
    /// All; each expert is a copy of the dense network of its layer, routers start anew.
    Upcycling,
}

/// How a parameter of the new model is made: one source for each row of its stack, or one for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub name: String,
    pub ty: TensorType,
    pub rows: Vec<Source>,
}

/// Where one row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the seed, as in any new model.
    Fresh,
    /// So many copies of one row of a tensor; all of a tensor outside the stacks is row 0.
    Copy { tensor: String, row: usize, copies: usize },
}

impl Recipe {
    /// Whether nothing is taken over.
    pub fn is_fresh(&self) -> bool {
        self.rows.iter().all(|row| *row == Source::Fresh)
    }

    /// The bytes of the parameter. `fresh` gives those of a new model; it is not asked where nothing starts anew.
    ///
    /// Errors: those of `fresh` and of the file.
    pub fn bytes<E: From<CheckpointError>>(
        &self,
        file: &TensorFile,
        fresh: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let size = self.ty.size_bytes();
        let row_size = (size / self.rows.len().max(1)).max(1);
        let mut bytes = if self.rows.contains(&Source::Fresh) { fresh()? } else { vec![0; size] };
        for (place, source) in bytes.chunks_exact_mut(row_size).zip(&self.rows) {
            let Source::Copy { tensor, row, copies } = source else { continue };
            let part = (row_size / copies).max(1);
            // The plan compared the types.
            if let Some(found) = file.bytes(tensor)?.chunks_exact(part).nth(*row) {
                place.chunks_exact_mut(part).for_each(|copy| copy.copy_from_slice(found));
            }
        }
        Ok(bytes)
    }
}

/// How each parameter of `model` is made from those in `file`, which belong to `from`.
///
/// Errors: [`InitialError::Misfits`] with all that is missing, has another shape or would be lost.
pub fn plan(
    transfer: Transfer,
    model: &ModelConfig,
    from: &ModelConfig,
    file: &TensorFile,
) -> Result<Vec<Recipe>, InitialError> {
    let mut planner = Planner { transfer, model, from, file, used: BTreeSet::new(), misfits: vec![] };
    let defs = model::declare(model);
    let recipes = defs.iter().map(|def| planner.recipe(&def.name, def.ty())).collect();
    planner.find_lost();
    match planner.misfits.is_empty() {
        true => Ok(recipes),
        false => Err(InitialError::Misfits { path: file.path().to_path_buf(), misfits: planner.misfits }),
    }
}

/// The parameters of a sparse model, made from those of a dense one in a file; routers come from the seed.
pub struct Upcycled<'a> {
    file: &'a TensorFile,
    seed: u64,
    defs: Vec<ParamDef>,
    recipes: Vec<Recipe>,
}

impl<'a> Upcycled<'a> {
    /// Errors: as [`plan`].
    pub fn new(config: &RunConfig, file: &'a TensorFile) -> Result<Self, InitialError> {
        let mut dense = config.model.clone();
        dense.moe.num_experts = 0;
        let recipes = plan(Transfer::Upcycling, &config.model, &dense, file)?;
        Ok(Self { file, seed: config.seed, defs: model::declare(&config.model), recipes })
    }

    /// Names and types, in the order of the state.
    pub fn params(&self) -> Vec<(String, TensorType)> {
        self.recipes.iter().map(|recipe| (recipe.name.clone(), recipe.ty.clone())).collect()
    }

    /// The value of the parameter of this index.
    pub fn value(&self, index: usize) -> Result<Literal, TransferError> {
        let (recipe, def) = (&self.recipes[index], &self.defs[index]);
        let bytes = recipe.bytes(self.file, || fresh(def, self.seed))?;
        Ok(Literal::from_bytes(recipe.ty.clone(), bytes)?)
    }
}

/// The first value of a parameter, without a device.
fn fresh(def: &ParamDef, seed: u64) -> Result<Vec<u8>, TransferError> {
    let seed = Literal::new([2], &[(seed >> 32) as u32, seed as u32])?;
    let values = eval::evaluate(&step::fresh(def)?, &[seed])?;
    Ok(values.into_iter().next().map(Literal::into_bytes).unwrap_or_default())
}

/// A parameter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error(transparent)]
    Literal(#[from] LiteralError),
}

/// The networks of a layer.
#[derive(Clone, Copy)]
struct Networks {
    /// Whether experts make queries, keys and values.
    attention_experts: bool,
    /// Whether there is a sublayer `moe`, and one `mlp`.
    moe: bool,
    mlp: bool,
}

impl Networks {
    fn new(model: &ModelConfig, place: &Place) -> Self {
        let sublayers = model.moe.sublayers;
        let moe = place.sparse && sublayers.feed_forward();
        let attention_experts = place.sparse && sublayers.attention();
        Self { attention_experts, moe, mlp: !moe || model.dense_after_sparse }
    }
}

/// What becomes a parameter of a layer, named below the layer.
#[derive(Debug, PartialEq, Eq)]
enum Counterpart {
    Fresh,
    Same(String),
    /// Becomes each of the experts.
    Expert(String),
}

/// The counterpart of the parameter `rest` of a layer in that layer of the other model.
fn counterpart(transfer: Transfer, rest: &str, own: Networks, from: Networks) -> Counterpart {
    let (sublayer, inner) = rest.split_once('/').unwrap_or(("", rest));
    let sparse = sublayer == "moe" || sublayer == "attention" && own.attention_experts;
    match (transfer, sublayer, inner) {
        (_, "mlp" | "moe", "norm") => norm(transfer, sublayer, own, from),
        (_, _, "router" | "router_bias") if sparse => Counterpart::Fresh,
        (Transfer::Distillation, "mlp", _) if !from.mlp => Counterpart::Fresh,
        (Transfer::Distillation, "moe", _) => Counterpart::Fresh,
        (Transfer::Distillation, "attention", "q" | "k" | "v") if from.attention_experts => {
            Counterpart::Fresh
        }
        (_, _, inner) => match inner.strip_prefix("experts/") {
            Some(_) if transfer == Transfer::Distillation => Counterpart::Fresh,
            Some(matrix) if sublayer == "moe" => Counterpart::Expert(format!("mlp/{matrix}")),
            Some(matrix) => Counterpart::Expert(format!("{sublayer}/{matrix}")),
            None => Counterpart::Same(rest.into()),
        },
    }
}

/// The counterpart of the norm in front of `mlp` or `moe`: that of the same network, else of the one in whose place it stands.
fn norm(transfer: Transfer, sublayer: &str, own: Networks, from: Networks) -> Counterpart {
    let (same, other, both) = match sublayer {
        "moe" => (from.moe, "mlp", own.mlp),
        _ => (from.mlp, "moe", own.moe),
    };
    match same {
        true => Counterpart::Same(format!("{sublayer}/norm")),
        // Beside the other network, whose norm it is, this one is new; copies of the other go with a copy of its norm.
        false if both && transfer == Transfer::Distillation => Counterpart::Fresh,
        false => Counterpart::Same(format!("{other}/norm")),
    }
}

struct Planner<'a> {
    transfer: Transfer,
    model: &'a ModelConfig,
    from: &'a ModelConfig,
    file: &'a TensorFile,
    /// Tensors of the file that have a place in the new model.
    used: BTreeSet<String>,
    misfits: Vec<Misfit>,
}

impl Planner<'_> {
    fn recipe(&mut self, name: &str, ty: TensorType) -> Recipe {
        for side in [Side::Encoder, Side::Decoder] {
            let places = self.model.places(side).into_iter().enumerate();
            let scope = |scope: &str| format!("{}/{scope}/", side.name());
            let own = places.filter(|(_, place)| name.starts_with(&scope(&place.scope)));
            let networks = |place: &Place| Networks::new(self.model, place);
            let own: Vec<_> =
                own.map(|(layer, place)| (layer, scope(&place.scope).len(), networks(&place))).collect();
            if !own.is_empty() {
                let row = |(layer, start, networks): (usize, usize, Networks)| {
                    self.row(side, (layer, networks), &name[start..], (name, &ty))
                };
                let rows = own.into_iter().map(row).collect();
                return Recipe { name: name.into(), ty, rows };
            }
        }
        let source = self.copy((name, &ty), name.to_string(), None, 1);
        Recipe { name: name.into(), ty, rows: vec![source] }
    }

    /// The source of the row that belongs to a layer of a stack.
    fn row(
        &mut self,
        side: Side,
        (layer, own): (usize, Networks),
        rest: &str,
        (name, ty): (&str, &TensorType),
    ) -> Source {
        let Some(place) = self.from.places(side).into_iter().nth(layer) else {
            return self.misfit(Misfit::Missing { name: name.into(), ty: ty.clone() });
        };
        let mut row = ty.clone();
        row.shape.remove(0);
        let from = Networks::new(self.from, &place);
        let (rest, copies) = match counterpart(self.transfer, rest, own, from) {
            Counterpart::Fresh => return Source::Fresh,
            Counterpart::Same(rest) => (rest, 1),
            Counterpart::Expert(rest) => (rest, row.shape.remove(0)),
        };
        self.copy((name, &row), format!("{}/{}/{rest}", side.name(), place.scope), Some(place.row), copies)
    }

    /// Copies of a tensor, or of a row of it, that must have this type.
    fn copy(
        &mut self,
        (name, ty): (&str, &TensorType),
        tensor: String,
        row: Option<usize>,
        copies: usize,
    ) -> Source {
        let Some(found) = self.file.ty(&tensor).cloned() else {
            let name = if tensor == name { tensor } else { format!("{tensor}` for `{name}") };
            return self.misfit(Misfit::Missing { name, ty: ty.clone() });
        };
        let mut expected = ty.clone();
        if row.is_some() {
            expected.shape.splice(0..0, found.shape.first().copied());
        }
        self.used.insert(tensor.clone());
        if expected != found {
            return self.misfit(Misfit::Type { name: tensor, expected, found });
        }
        Source::Copy { tensor, row: row.unwrap_or(0), copies }
    }

    /// Notes what does not fit, once for all rows.
    fn misfit(&mut self, misfit: Misfit) -> Source {
        if !self.misfits.contains(&misfit) {
            self.misfits.push(misfit);
        }
        Source::Fresh
    }

    /// What the file holds beside: a student does without its teacher's experts, nothing else may get lost.
    fn find_lost(&mut self) {
        let experts = |model: &ModelConfig| model.moe.num_experts > 0 && model.moe.sublayers.attention();
        let attention = experts(self.model) || experts(self.from);
        let network = |name: &str| {
            name.contains("/moe/") || name.contains("/mlp/") || attention && name.contains("/attention/")
        };
        let meant = |name: &str| self.transfer == Transfer::Distillation && network(name);
        let lost = |name: &str| step::is_parameter(name) && !self.used.contains(name) && !meant(name);
        let found = self.file.tensors().filter(|(name, _)| lost(name));
        self.misfits.extend(found.map(|(name, ty)| Misfit::Unknown { name: name.into(), ty: ty.clone() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::write_tensors;
    use crate::config::MoeConfig;
    use std::path::Path;

    const DENSE: Networks = Networks { attention_experts: false, moe: false, mlp: true };
    const SPARSE: Networks = Networks { attention_experts: false, moe: true, mlp: false };
    /// Experts, and a dense network after them.
    const PAIR: Networks = Networks { attention_experts: false, moe: true, mlp: true };
    const ATTENTION: Networks = Networks { attention_experts: true, moe: false, mlp: true };

    fn same(rest: &str) -> Counterpart {
        Counterpart::Same(rest.into())
    }

    #[test]
    fn a_norm_comes_from_the_network_that_it_belongs_to() {
        let found = |own, from| {
            ["mlp/norm", "moe/norm"].map(|rest| counterpart(Transfer::Distillation, rest, own, from))
        };
        assert_eq!(found(PAIR, PAIR), [same("mlp/norm"), same("moe/norm")]);
        assert_eq!(found(DENSE, PAIR)[0], same("mlp/norm"));
        assert_eq!(found(DENSE, SPARSE)[0], same("moe/norm"));
        assert_eq!(found(SPARSE, DENSE)[1], same("mlp/norm"));
        assert_eq!(found(SPARSE, PAIR)[1], same("moe/norm"));
        assert_eq!(found(PAIR, DENSE), [same("mlp/norm"), Counterpart::Fresh]);
        assert_eq!(found(PAIR, SPARSE), [Counterpart::Fresh, same("moe/norm")]);
        let upcycled = counterpart(Transfer::Upcycling, "moe/norm", PAIR, DENSE);
        assert_eq!(upcycled, same("mlp/norm"), "copies of the network see what it saw");
    }

    #[test]
    fn a_dense_network_behind_experts_is_taken_over() {
        let found = |own, from| counterpart(Transfer::Distillation, "mlp/wi", own, from);
        assert_eq!(found(DENSE, PAIR), same("mlp/wi"));
        assert_eq!(found(PAIR, PAIR), same("mlp/wi"));
        assert_eq!(found(DENSE, SPARSE), Counterpart::Fresh);
    }

    #[test]
    fn experts_of_attention_are_copies_of_its_matrices_and_none_of_them_is_distilled() {
        let up = |rest| counterpart(Transfer::Upcycling, rest, ATTENTION, DENSE);
        assert_eq!(up("attention/experts/q"), Counterpart::Expert("attention/q".into()));
        assert_eq!(up("attention/router"), Counterpart::Fresh);
        assert_eq!([up("attention/o"), up("attention/norm")], [same("attention/o"), same("attention/norm")]);
        let down = |rest, own, from| counterpart(Transfer::Distillation, rest, own, from);
        assert_eq!(down("attention/q", DENSE, ATTENTION), Counterpart::Fresh);
        assert_eq!(down("attention/o", DENSE, ATTENTION), same("attention/o"));
        assert_eq!(down("attention/experts/q", ATTENTION, ATTENTION), Counterpart::Fresh);
        assert_eq!(down("cross_attention/q", DENSE, ATTENTION), same("cross_attention/q"));
    }

    /// A file with all parameters of a model.
    fn file(model: &ModelConfig, folder: &Path) -> TensorFile {
        let zeros = |def: ParamDef| (def.name.clone(), Literal::zeros(def.ty()));
        let tensors: Vec<_> = model::declare(model).into_iter().map(zeros).collect();
        let path = folder.join("tensors");
        write_tensors(&path, &tensors).unwrap();
        TensorFile::open(&path).unwrap()
    }

    /// Three blocks per stack: the second of the encoder is sparse, and the last of the decoder.
    fn uneven(num_experts: usize) -> ModelConfig {
        let moe = MoeConfig { num_experts, every: 2, decoder_every: Some(3), ..MoeConfig::default() };
        let mut model =
            ModelConfig { num_encoder_layers: 3, num_decoder_layers: 3, moe, ..ModelConfig::default() };
        (model.vocab_size, model.d_model, model.d_ff) = (8, 4, 4);
        model
    }

    fn rows(transfer: Transfer, models: [&ModelConfig; 2], name: &str) -> Vec<Source> {
        let folder = tempfile::tempdir().unwrap();
        let recipes = plan(transfer, models[0], models[1], &file(models[1], folder.path())).unwrap();
        recipes.into_iter().find(|recipe| recipe.name == name).unwrap().rows
    }

    #[test]
    fn each_stack_has_its_sparse_blocks_in_its_own_places() {
        let (dense, sparse) = (uneven(0), uneven(2));
        let copy = |row: usize, copies: usize, tensor: &str| {
            vec![Source::Copy { tensor: tensor.into(), row, copies }]
        };
        let up = |name| rows(Transfer::Upcycling, [&sparse, &dense], name);
        assert_eq!(up("encoder/block_1/moe/experts/wi"), copy(1, 2, "encoder/block_0/mlp/wi"));
        assert_eq!(up("decoder/block_2/moe/experts/wi"), copy(2, 2, "decoder/block_0/mlp/wi"));
        assert_eq!(up("encoder/last_0/mlp/wi"), copy(2, 1, "encoder/block_0/mlp/wi"));
        assert_eq!(up("decoder/block_1/mlp/wi"), copy(1, 1, "decoder/block_0/mlp/wi"));
        let down = rows(Transfer::Distillation, [&dense, &sparse], "decoder/block_0/mlp/wi");
        let kept = ["decoder/block_0/mlp/wi", "decoder/block_1/mlp/wi"].map(|name| copy(0, 1, name));
        assert_eq!(down, [&kept.concat()[..], &[Source::Fresh]].concat());
    }
}
