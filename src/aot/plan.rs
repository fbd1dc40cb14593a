//! Ways to run a configuration on a topology: judged by arithmetic first, then the best by the compiler.

use super::report::{self, AotReport, FromGraph};
use super::{AotError, Options, Topology, model};
use crate::artifact::{self, CompileError};
use crate::config::{ConfigError, RunConfig};
use crate::step;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Alternatives of which a candidate has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The settings of each alternative.
    pub values: Vec<Vec<String>>,
}

impl Axis {
    /// The values of one field.
    pub fn field(key: &str, values: &[&str]) -> Self {
        Self { values: values.iter().map(|value| vec![format!("{key}={value}")]).collect() }
    }

    /// Every mesh of exactly so many devices, and with `shard_state` too where there is an axis `data`, with `shard_vocabulary` too
    /// where there is an axis `model`.
    pub fn meshes(devices: usize) -> Self {
        let divisors = |n: usize| (1..=n).filter(move |d| n.is_multiple_of(*d));
        let grids = divisors(devices).flat_map(|data| {
            let rest = devices / data;
            divisors(rest).map(move |expert| (data, expert, rest / expert))
        });
        let values = grids.flat_map(|(data, expert, model)| {
            let grid =
                [format!("mesh.data={data}"), format!("mesh.expert={expert}"), format!("mesh.model={model}")];
            let flags = [(false, false), (false, true), (true, false), (true, true)];
            let useful =
                flags.into_iter().filter(move |(state, words)| (!state || data > 1) && (!words || model > 1));
            useful.map(move |(state, words)| {
                let flags = [format!("mesh.shard_state={state}"), format!("mesh.shard_vocabulary={words}")];
                [&grid[..], &flags].concat()
            })
        });
        Self { values: values.collect() }
    }
}

impl std::str::FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("`{text}`: expected KEY=VALUE,VALUE,.. such as model.remat=none,full");
        let (key, values) = text.split_once('=').ok_or_else(problem)?;
        let values: Vec<&str> = values.split(',').map(str::trim).collect();
        if key.trim().is_empty() || values.contains(&"") {
            return Err(problem());
        }
        Ok(Self::field(key.trim(), &values))
    }
}

/// One way, and what is known about it.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// Settings on top of the configuration.
    pub settings: Vec<String>,
    pub verdict: Verdict,
    /// What one device holds of parameters, optimizer slots and random key, for `train_step`; of parameters, for others.
    pub state_bytes: u64,
    /// Counted in its module; `None` where the configuration does not allow it, or the state is too large.
    pub graph: Option<FromGraph>,
    /// No step is faster: matrix products at the peak, or state and cache read once, the state written too where it is trained,
    /// and the collectives.
    pub least_seconds: f64,
    /// Where it was compiled.
    pub report: Option<AotReport>,
}

/// How far a candidate got.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Compiled, and fits.
    Fits,
    /// Compiled, and does not fit.
    TooLarge,
    /// The state alone is more than the memory.
    StateTooLarge,
    /// Others promised more.
    NotCompiled,
    /// The configuration or the compiler refuses it.
    Refused(String),
}

impl Verdict {
    fn group(&self) -> usize {
        match self {
            Self::Fits => 0,
            Self::NotCompiled => 1,
            Self::TooLarge => 2,
            Self::StateTooLarge => 3,
            Self::Refused(_) => 4,
        }
    }
}

/// Every combination of one value per axis, the last axis fastest; one without settings where there are no axes.
pub fn combinations(axes: &[Axis]) -> Vec<Vec<String>> {
    axes.iter().fold(vec![vec![]], |rows, axis| {
        let extended = rows
            .iter()
            .flat_map(|row| axis.values.iter().map(move |settings| [row.as_slice(), settings].concat()));
        extended.collect()
    })
}

/// What to try.
pub struct Search<'a> {
    pub axes: &'a [Axis],
    pub program: &'a str,
    /// How many that fit are wanted from the compiler, which is asked at most twice as often.
    pub wanted: usize,
}

/// Makes a configuration from settings.
pub trait Load: Fn(&[String]) -> Result<RunConfig, ConfigError> {}

impl<F: Fn(&[String]) -> Result<RunConfig, ConfigError>> Load for F {}

/// Tries all combinations; `load` makes a configuration from settings, `note` hears what is compiled.
///
/// Returns the candidates, best first: those that fit by the model's step, then the others by what they promise.
pub fn plan(search: &Search, options: &Options, load: impl Load, note: impl Fn(&str)) -> Vec<Candidate> {
    let judge = |settings| Candidate::judge(settings, &load, search.program, &options.topology);
    let ways = combinations(search.axes);
    note(&format!("counting {} ways ...", ways.len()));
    let mut candidates: Vec<Candidate> = ways.into_iter().map(judge).collect();
    candidates.sort_by(|a, b| a.promises(b));
    let (mut fitting, mut asked) = (0, 0);
    for index in turns(&candidates) {
        let candidate = &mut candidates[index];
        if fitting == search.wanted || asked == 2 * search.wanted {
            break;
        }
        asked += 1;
        note(&format!("compiling {} ...", candidate.settings.join(" ")));
        candidate.compile(&load, search.program, options);
        fitting += usize::from(candidate.verdict == Verdict::Fits);
    }
    candidates.sort_by(|a, b| a.ranks(b));
    candidates
}

/// In which order candidates, the most promising first, go to the compiler: the best of each mesh, then the second of each, and so
/// on. What promises most is often one mesh with several settings, and the promise knows least about meshes.
fn turns(candidates: &[Candidate]) -> Vec<usize> {
    let mut asked: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    let mut turns = vec![];
    for (index, candidate) in candidates.iter().enumerate().filter(|(_, c)| c.verdict == Verdict::NotCompiled)
    {
        let turn = asked.entry(candidate.mesh()).or_default();
        turns.push((*turn, index));
        *turn += 1;
    }
    turns.sort();
    turns.into_iter().map(|(_, index)| index).collect()
}

/// A candidate cannot be built, or counted, or compiled.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Build(#[from] CompileError),
    #[error(transparent)]
    Aot(#[from] AotError),
}

/// Whether the program takes the whole state and returns it.
fn trains(program: &str) -> bool {
    matches!(program, "train_step" | step::DISTILL_STEP)
}

/// What one device holds of the state of a program.
fn state_bytes(config: &RunConfig, program: &str) -> u64 {
    let layout = step::layout(config);
    let held = layout.iter().filter(|tensor| trains(program) || step::is_parameter(&tensor.name));
    held.map(|tensor| tensor.bytes_per_device(&config.mesh)).fold(0, u64::saturating_add)
}

fn counted(config: &RunConfig, program: &str) -> Result<FromGraph, Refusal> {
    let artifact = artifact::compile_programs(config, &[program])?;
    let (spec, module) = super::program_of(&artifact, program)?;
    Ok(report::from_graph(&artifact.manifest, spec, module).map_err(AotError::from)?)
}

fn least_seconds(graph: &FromGraph, program: &str, topology: &Topology) -> f64 {
    let peak = topology.chip.peak();
    let compute = graph.flops.dot as f64 / peak.bf16_flops;
    let written = if trains(program) { graph.state_bytes } else { 0 };
    let state = [graph.state_bytes, graph.cache_bytes, written].map(|bytes| bytes as f64);
    let state = state.iter().sum::<f64>() / peak.memory_bytes_per_s;
    let moving = graph.collectives.iter().fold(0.0, |n, row| n + model::collective_seconds(topology, row));
    compute.max(state) + moving
}

impl Candidate {
    fn new(settings: Vec<String>, verdict: Verdict) -> Self {
        Self { settings, verdict, state_bytes: 0, graph: None, least_seconds: f64::INFINITY, report: None }
    }

    /// The arithmetic. The graph is built only where the state fits.
    fn judge(settings: Vec<String>, load: &impl Load, program: &str, topology: &Topology) -> Self {
        let config = match load(&settings) {
            Ok(config) => config,
            Err(error) => return Self::new(settings, Verdict::Refused(error.to_string())),
        };
        let state_bytes = state_bytes(&config, program);
        if state_bytes > topology.chip.memory_bytes {
            return Self { state_bytes, ..Self::new(settings, Verdict::StateTooLarge) };
        }
        match counted(&config, program) {
            Ok(graph) => {
                let least_seconds = least_seconds(&graph, program, topology);
                let judged = Self::new(settings, Verdict::NotCompiled);
                Self { state_bytes, least_seconds, graph: Some(graph), ..judged }
            }
            Err(error) => Self::new(settings, Verdict::Refused(error_text(&error))),
        }
    }

    fn compile(&mut self, load: &impl Load, program: &str, options: &Options) {
        match compiled(load, &self.settings, program, options) {
            Ok(report) => {
                self.verdict = if report.fits { Verdict::Fits } else { Verdict::TooLarge };
                self.report = Some(report);
            }
            Err(error) => self.verdict = Verdict::Refused(error_text(&error)),
        }
    }

    /// The settings that are sizes of the mesh.
    fn mesh(&self) -> Vec<&str> {
        let is_size = |setting: &&str| setting.starts_with("mesh.") && !setting.starts_with("mesh.shard_");
        self.settings.iter().map(String::as_str).filter(is_size).collect()
    }

    /// The model's step, where it was compiled and fits.
    pub fn step_seconds(&self) -> Option<f64> {
        Some(self.report.as_ref()?.model.as_ref()?.time.step_seconds)
    }

    /// By what it promises: the least time, then the fewest matrix products.
    fn promises(&self, other: &Self) -> Ordering {
        let flops = |c: &Self| c.graph.as_ref().map_or(u64::MAX, |graph| graph.flops.dot);
        self.least_seconds.total_cmp(&other.least_seconds).then(flops(self).cmp(&flops(other)))
    }

    /// By how far it got, then by the model's step, then by what it promises.
    fn ranks(&self, other: &Self) -> Ordering {
        let seconds = |c: &Self| c.step_seconds().unwrap_or(f64::INFINITY);
        let group = self.verdict.group().cmp(&other.verdict.group());
        group.then(seconds(self).total_cmp(&seconds(other))).then_with(|| self.promises(other))
    }
}

fn compiled(
    load: &impl Load,
    settings: &[String],
    program: &str,
    options: &Options,
) -> Result<AotReport, Refusal> {
    let artifact = artifact::compile_programs(&load(settings)?, &[program])?;
    Ok(super::compile(&artifact, program, options, None)?)
}

fn error_text(error: &Refusal) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn axis(text: &str) -> Axis {
        text.parse().unwrap()
    }

    #[test]
    fn axes_are_read_and_combined() {
        assert_eq!(combinations(&[]), [Vec::<String>::new()]);
        let rows = combinations(&[axis("a=1,2"), axis("b.c=x, y")]);
        let rows: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
        assert_eq!(rows, ["a=1 b.c=x", "a=1 b.c=y", "a=2 b.c=x", "a=2 b.c=y"]);
        for bad in ["", "a", "a=", "=1", "a=1,"] {
            assert!(bad.parse::<Axis>().is_err(), "{bad}");
        }
    }

    fn candidates(topology: &str, axes: &[Axis], settings: &[&str]) -> Vec<Candidate> {
        let options = Options {
            program: "no-program".into(),
            plugin: "no-plugin".into(),
            topology: topology.parse().unwrap(),
            limit: Duration::from_secs(1),
        };
        let search = Search { axes, program: "eval_step", wanted: 0 };
        let load = |more: &[String]| {
            let fixed: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
            RunConfig::load_with("graphs/demo.json", &[fixed.as_slice(), more].concat())
        };
        plan(&search, &options, load, |_| ())
    }

    #[test]
    fn what_computes_least_is_first_and_what_is_impossible_last() {
        let found = candidates("v5e:1x1", &[axis("model.moe.capacity.eval_factor=4,2,-1")], &[]);
        let settings: Vec<&str> = found.iter().map(|c| c.settings[0].rsplit('=').next().unwrap()).collect();
        assert_eq!(settings, ["2", "4", "-1"]);
        assert_eq!(found[0].verdict, Verdict::NotCompiled);
        assert!(matches!(&found[2].verdict, Verdict::Refused(why) if why.contains("eval_factor")));
    }

    #[test]
    fn the_best_of_each_mesh_is_compiled_before_the_second_of_any() {
        let candidate = |settings: &str, verdict| {
            Candidate::new(settings.split(' ').map(String::from).collect(), verdict)
        };
        let open = Verdict::NotCompiled;
        let candidates = [
            candidate("remat=none mesh.data=2", open.clone()),
            candidate("remat=full mesh.data=2", open.clone()),
            candidate("remat=none mesh.model=2", Verdict::StateTooLarge),
            candidate("remat=none mesh.expert=2", open.clone()),
            candidate("remat=dots mesh.data=2", open.clone()),
            candidate("remat=none mesh.expert=2 mesh.shard_state=true", open),
        ];
        assert_eq!(turns(&candidates), [0, 3, 1, 5, 4]);
    }

    #[test]
    fn a_state_beyond_the_memory_is_not_given_to_the_compiler() {
        // 64 experts of 2 x 256 x 500000 floats are 65 GB.
        let large = ["model.d_ff=500000", "model.moe.num_experts=64"];
        let found = candidates("v5e:1x1", &[], &large);
        assert_eq!(found[0].verdict, Verdict::StateTooLarge);
        assert!(found[0].state_bytes > 16 << 30 && found[0].graph.is_none());
    }

    #[test]
    fn the_state_is_that_of_the_program() {
        let found = candidates("v5e:1x1", &[], &[]);
        assert_eq!(found[0].state_bytes, found[0].graph.as_ref().unwrap().state_bytes);
    }

    #[test]
    fn every_mesh_of_the_devices_is_tried_and_what_does_not_divide_is_refused() {
        let meshes = Axis::meshes(4);
        let grids: Vec<String> = meshes.values.iter().map(|settings| settings.join(" ")).collect();
        // Six grids; three have `data`, three `model`, of which one has both.
        assert_eq!(grids.len(), 6 + 3 + 3 + 1, "{grids:?}");
        let first = "mesh.data=1 mesh.expert=1 mesh.model=4 mesh.shard_state=false mesh.shard_vocabulary=";
        assert_eq!(grids[..2], [format!("{first}false"), format!("{first}true")]);
        let found = candidates("v5e:2x2", &[meshes], &["model.moe.num_experts=6"]);
        let refused =
            |c: &&Candidate| matches!(&c.verdict, Verdict::Refused(why) if why.contains("mesh.expert"));
        let settings = |c: &Candidate| c.settings[1].clone();
        let refused: Vec<String> = found.iter().filter(refused).map(settings).collect();
        assert_eq!(refused, ["mesh.expert=4"]);
    }
}
