//! `plan`: ways to run a configuration on a topology, ranked.

use super::{Devices, Needs, aot as aot_command, common};
use crate::aot::{self, Axis, Candidate, Options, Search, Topology, Verdict};
use crate::config::{Capacity, MoeConfig};
use crate::inspect::{bytes_text, count_text};
use comfy_table::{Table, presets};
use std::collections::BTreeSet;
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;
/// Settings of a mesh that are on or off.
const SWITCHES: [&str; 2] = ["mesh.shard_state", "mesh.shard_vocabulary"];
const NOTHING_FITS: u8 = 1;

/// Rank ways to run a configuration on TPUs or GPUs that are not here
#[derive(clap::Args)]
#[command(
    after_help = "On several chips it tries every mesh that uses all of them and that the configuration allows, unless --mesh gives one. \
                  Without --vary it tries model.remat and, of sparse models, model.moe.dispatch and factors of the capacity. What cannot \
                  fit, or computes more than others at its very best, is not given to the compiler.\n\nExit status: 0 when something fits, 1 when nothing does."
)]
pub struct Args {
    #[command(flatten)]
    config: common::ConfigArgs,
    /// Chips to plan for, such as v5e:4x4 or h100:8
    #[arg(long, visible_alias = "target", value_name = "KIND:AxB")]
    topology: Topology,
    /// Values of a field to try, such as model.moe.capacity.train_factor=1.0,1.25 (may be given several times)
    #[arg(long = "vary", value_name = "KEY=A,B,..")]
    axes: Vec<Axis>,
    /// The program
    #[arg(long, default_value = "train_step", value_name = "NAME")]
    program: String,
    /// Ways that fit to get from the compiler; it is asked at most twice as often
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = common::at_least_one)]
    compile: usize,
    #[command(flatten)]
    compiler: aot_command::CompilerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    // A configuration that is wrong by itself is an error, not a row.
    let target = Some(args.topology.chip.target());
    let config = args.config.load_for(target)?;
    let mut axes = if args.axes.is_empty() { default_axes(&config.model.moe) } else { args.axes };
    axes.extend(meshes(&args.config, &args.topology));
    let search = Search { axes: &axes, program: &args.program, wanted: args.compile };
    let options: Options = args.compiler.options(args.topology)?;
    let found = aot::plan(
        &search,
        &options,
        |settings| args.config.load_with(target, settings),
        |line| common::note(line),
    );
    match args.json {
        true => common::say(serde_json::to_string_pretty(&found)?)?,
        false => {
            let (shown, others) = split(&found);
            let text = format!("{}\n{}{}", table(&shown), others, legend(&found));
            common::say(text.trim_end())?
        }
    }
    let fits = found.iter().any(|candidate| candidate.verdict == Verdict::Fits);
    Ok(ExitCode::from(if fits { 0 } else { NOTHING_FITS }))
}

fn default_axes(moe: &MoeConfig) -> Vec<Axis> {
    let mut axes = vec![Axis::field("model.remat", &["none", "scores", "dots", "full"])];
    if moe.num_experts > 0 {
        axes.push(Axis::field("model.moe.dispatch", &["gather", "einsum"]));
        if let Capacity::Factor { train_factor, .. } = moe.capacity {
            let own = train_factor.to_string();
            let others = ["1", "1.25"].into_iter().filter(|factor| *factor != own);
            let factors: Vec<&str> = [own.as_str()].into_iter().chain(others).collect();
            axes.push(Axis::field("model.moe.capacity.train_factor", &factors));
        }
    }
    axes
}

/// The meshes of all devices that the configuration allows; none to try where `--mesh` gives one, or where there is one device.
fn meshes(config: &common::ConfigArgs, topology: &Topology) -> Option<Axis> {
    if config.has_mesh() || topology.num_devices() == 1 {
        return None;
    }
    let mut axis = Axis::meshes(topology.num_devices());
    axis.values.retain(|settings| config.load_with(None, settings).is_ok());
    (!axis.values.is_empty()).then_some(axis)
}

/// Ways that are shown of those that the compiler was not asked about.
const MOST_OTHERS: usize = 12;

/// What is shown, in order, and a line about the rest.
fn split(found: &[Candidate]) -> (Vec<&Candidate>, String) {
    let mut others = 0;
    let is_shown = |candidate: &&Candidate| {
        let other = matches!(candidate.verdict, Verdict::NotCompiled | Verdict::StateTooLarge);
        others += usize::from(other);
        !other || others <= MOST_OTHERS
    };
    let shown: Vec<&Candidate> = found.iter().filter(is_shown).collect();
    let line = match found.len() - shown.len() {
        0 => String::new(),
        more => format!("  and {more} more, none of them compiled (--json lists all)\n"),
    };
    (shown, line)
}

fn table(found: &[&Candidate]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "settings",
        "verdict",
        "dot FLOPs",
        "at least",
        "step (model)",
        "tokens/s (model)",
        "memory",
    ]);
    for candidate in found {
        let model = candidate.report.as_ref().and_then(|r| r.model.as_ref());
        let memory =
            candidate.report.as_ref().and_then(|r| r.compiler.as_ref()).map(|c| c.said.memory.total());
        let milliseconds = |s: f64| if s.is_finite() { format!("{:.2} ms", 1e3 * s) } else { String::new() };
        table.add_row([
            short(&candidate.settings),
            verdict(&candidate.verdict),
            candidate.graph.as_ref().map_or(String::new(), |g| count_text(g.flops.dot)),
            milliseconds(candidate.least_seconds),
            candidate.step_seconds().map_or(String::new(), milliseconds),
            model.map_or(String::new(), |m| count_text(m.tokens_per_second as u64)),
            memory.map_or(String::new(), bytes_text),
        ]);
    }
    table
}

/// The settings by the last parts of their paths, without those that leave the mesh as it is: `data=2 remat=full`.
fn short(settings: &[String]) -> String {
    let pairs: Vec<(&str, &str)> = settings.iter().filter_map(|setting| setting.split_once('=')).collect();
    let shown = pairs.iter().filter(|(key, value)| {
        let default = if SWITCHES.contains(key) { "false" } else { "1" };
        !key.starts_with("mesh.") || *value != default
    });
    let text = shown.map(|(key, value)| match SWITCHES.contains(key) {
        true => last_parts(key, &pairs).to_owned(),
        false => format!("{}={value}", last_parts(key, &pairs)),
    });
    text.collect::<Vec<_>>().join(" ")
}

/// The shortest end of a path that no other path of the settings has.
fn last_parts<'k>(key: &'k str, settings: &[(&str, &str)]) -> &'k str {
    let mut ends_of_key = key.rmatch_indices('.').map(|(dot, _)| &key[dot + 1..]);
    let ends = |other: &str, end: &str| other.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    let alone = |end: &&str| settings.iter().all(|(other, _)| *other == key || !ends(other, end));
    ends_of_key.find(alone).unwrap_or(key)
}

/// What the short names stand for.
fn legend(found: &[Candidate]) -> String {
    let settings = found.iter().flat_map(|candidate| {
        let pairs: Vec<(&str, &str)> = candidate.settings.iter().filter_map(|s| s.split_once('=')).collect();
        let names = |&(key, _): &(&str, &str)| (last_parts(key, &pairs).to_owned(), key.to_owned());
        pairs.iter().map(names).collect::<Vec<_>>()
    });
    let names: BTreeSet<(String, String)> = settings.filter(|(short, key)| short != key).collect();
    names.iter().map(|(short, key)| format!("  {short}: {key}\n")).collect()
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fits => "fits".into(),
        Verdict::TooLarge => "compiled, does not fit".into(),
        Verdict::StateTooLarge => "state does not fit (graph)".into(),
        Verdict::NotCompiled => "not compiled".into(),
        Verdict::Refused(why) => format!("refused: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compiled_is_shown_and_of_the_rest_the_best() {
        let way = |i: usize| Candidate {
            settings: vec![format!("seed={i}")],
            verdict: Verdict::NotCompiled,
            state_bytes: 0,
            graph: None,
            least_seconds: i as f64,
            report: None,
        };
        let ways = |count: usize| (0..count).map(way).collect::<Vec<_>>();
        let found = ways(MOST_OTHERS);
        assert_eq!((split(&found).0.len(), split(&found).1.as_str()), (MOST_OTHERS, ""));
        let mut found = ways(MOST_OTHERS + 30);
        let refused = Candidate { verdict: Verdict::Refused("no".into()), ..way(99) };
        found.push(refused);
        let (shown, line) = split(&found);
        let last: Vec<&str> = shown[MOST_OTHERS - 1..].iter().map(|c| c.settings[0].as_str()).collect();
        assert_eq!(last, ["seed=11", "seed=99"]);
        assert_eq!(line, "  and 30 more, none of them compiled (--json lists all)\n");
    }

    #[test]
    fn settings_are_told_by_the_ends_of_their_paths() {
        let settings = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let mesh = "mesh.data=2 mesh.expert=1 mesh.model=4";
        let all = settings(&format!(
            "{mesh} mesh.shard_state=true mesh.shard_vocabulary=true model.remat=full model.moe.capacity.train_factor=1.25"
        ));
        assert_eq!(short(&all), "data=2 model=4 shard_state shard_vocabulary remat=full train_factor=1.25");
        assert_eq!(short(&settings(&format!("{mesh} mesh.shard_state=false"))), "data=2 model=4");
        // Two of the same name keep as much of their paths as tells them apart.
        let alike = settings("model.moe.d_ff=8 model.d_ff=4 seed=1");
        assert_eq!(short(&alike), "moe.d_ff=8 model.d_ff=4 seed=1");
    }
}
