//! Ways to run a configuration on a topology: judged by arithmetic first, then the best by the compiler.

use super::report::{self, AotReport, FromGraph};
use super::{AotError, Options, Topology, model};
use crate::artifact::{self, Artifact, CompileError};
use crate::config::{ConfigError, RunConfig};
use serde::Serialize;
use std::cmp::Ordering;

/// Settings of one field to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    pub key: String,
    pub values: Vec<String>,
}

impl std::str::FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("`{text}`: expected KEY=VALUE,VALUE,.. such as model.remat=none,full");
        let (key, values) = text.split_once('=').ok_or_else(problem)?;
        let values: Vec<String> = values.split(',').map(|v| v.trim().to_owned()).collect();
        if key.trim().is_empty() || values.iter().any(String::is_empty) {
            return Err(problem());
        }
        Ok(Self { key: key.trim().into(), values })
    }
}

/// One way, and what is known about it.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// Settings on top of the configuration.
    pub settings: Vec<String>,
    pub verdict: Verdict,
    /// Counted in its module; `None` where the configuration does not allow it.
    pub graph: Option<FromGraph>,
    /// No step is faster: matrix products at the peak, the state read and written once, and the collectives.
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
    /// The state and inputs alone are more than the memory.
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
        let extended = rows.iter().flat_map(|row| {
            axis.values.iter().map(move |value| [row.as_slice(), &[format!("{}={value}", axis.key)]].concat())
        });
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

/// Tries all combinations; `load` makes a configuration from settings, `note` hears what is compiled.
///
/// Returns the candidates, best first: those that fit by the model's step, then the others by what they promise.
pub fn plan(
    search: &Search,
    options: &Options,
    load: impl Fn(&[String]) -> Result<RunConfig, ConfigError>,
    note: impl Fn(&str),
) -> Vec<Candidate> {
    let judged = combinations(search.axes).into_iter().map(|settings| {
        let artifact = build(&load, &settings, search.program);
        let candidate = judge(settings, &artifact, search.program, &options.topology);
        (candidate, artifact.ok())
    });
    let mut judged: Vec<(Candidate, Option<Artifact>)> = judged.collect();
    judged.sort_by(|(a, _), (b, _)| a.promises(b));
    let (mut fitting, mut asked) = (0, 0);
    for (candidate, artifact) in &mut judged {
        let Some(artifact) = artifact.as_ref().filter(|_| candidate.verdict == Verdict::NotCompiled) else {
            continue;
        };
        if fitting == search.wanted || asked == 2 * search.wanted {
            break;
        }
        asked += 1;
        note(&format!("compiling {} ...", candidate.settings.join(" ")));
        candidate.compile(artifact, search.program, options);
        fitting += usize::from(candidate.verdict == Verdict::Fits);
    }
    let mut candidates: Vec<Candidate> = judged.into_iter().map(|(candidate, _)| candidate).collect();
    candidates.sort_by(|a, b| a.ranks(b));
    candidates
}

/// A combination cannot be built.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Compile(#[from] CompileError),
}

fn build(
    load: &impl Fn(&[String]) -> Result<RunConfig, ConfigError>,
    settings: &[String],
    program: &str,
) -> Result<Artifact, BuildError> {
    Ok(artifact::compile_programs(&load(settings)?, &[program])?)
}

/// The arithmetic of a candidate.
fn judge(
    settings: Vec<String>,
    artifact: &Result<Artifact, BuildError>,
    program: &str,
    topology: &Topology,
) -> Candidate {
    let refused = |why: String| Candidate {
        settings: settings.clone(),
        verdict: Verdict::Refused(why),
        graph: None,
        least_seconds: f64::INFINITY,
        report: None,
    };
    let artifact = match artifact {
        Ok(artifact) => artifact,
        Err(error) => return refused(error.to_string()),
    };
    let Some((spec, module)) = artifact.program(program) else { return refused("no such program".into()) };
    let graph = match report::from_graph(&artifact.manifest, spec, module) {
        Ok(graph) => graph,
        Err(error) => return refused(error.to_string()),
    };
    let held = graph.state_bytes.saturating_add(graph.input_bytes);
    let fits = held <= topology.chip.memory_bytes;
    Candidate {
        settings,
        verdict: if fits { Verdict::NotCompiled } else { Verdict::StateTooLarge },
        least_seconds: least_seconds(&graph, topology),
        graph: Some(graph),
        report: None,
    }
}

fn least_seconds(graph: &FromGraph, topology: &Topology) -> f64 {
    let peak = topology.chip.peak();
    let compute = graph.flops.dot as f64 / peak.bf16_flops;
    let state = 2.0 * graph.state_bytes as f64 / peak.memory_bytes_per_s;
    let moving = graph.collectives.iter().fold(0.0, |n, row| n + model::collective_seconds(topology, row));
    compute.max(state) + moving
}

impl Candidate {
    fn compile(&mut self, artifact: &Artifact, program: &str, options: &Options) {
        match super::compile(artifact, program, options, None) {
            Ok(report) => {
                self.verdict = if report.fits { Verdict::Fits } else { Verdict::TooLarge };
                self.report = Some(report);
            }
            Err(error) => self.verdict = Verdict::Refused(error_text(&error)),
        }
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

fn error_text(error: &AotError) -> String {
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
    fn a_state_beyond_the_memory_is_not_given_to_the_compiler() {
        // 64 experts of 2 x 256 x 500000 floats are 65 GB.
        let large = ["model.d_ff=500000", "model.moe.num_experts=64"];
        let found = candidates("v5e:1x1", &[], &large);
        assert_eq!(found[0].verdict, Verdict::StateTooLarge);
        assert!(found[0].graph.as_ref().unwrap().state_bytes > 16 << 30);
    }
}
