//! `inspect`: what is in an artifact or an HLO file.

use super::{Devices, Needs, common};
use crate::aot::{self, CompiledTime, Topology};
use crate::artifact::{Artifact, MoeLayer};
use crate::hlo;
use crate::inspect::{self, CheckOutcome, Report};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub const NEEDS: Needs = Needs::Nothing;
const FAILED: u8 = 1;
const UNREADABLE: u8 = 2;

/// Inspect an artifact or an HLO module: shapes, aliases, FLOPs, bytes
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 when every check holds, 1 when one fails, 2 when the input cannot be read."
)]
pub struct Args {
    /// Artifact folder, or HLO file (.hlo.pb or .hlo.txt)
    path: PathBuf,
    /// Only this program of an artifact
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// The file is what a compiler made for these chips: the bytes and the time of its kernels too
    #[arg(long, value_name = "KIND:AxB")]
    topology: Option<Topology>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One module with its checks.
#[derive(serde::Serialize)]
struct Inspected {
    #[serde(flatten)]
    report: Report,
    /// Dispatch and combine tensors against the capacity arithmetic of the manifest.
    shape_checks: Vec<CheckOutcome>,
    /// The estimate for a compiled module.
    #[serde(skip_serializing_if = "Option::is_none")]
    compiled: Option<CompiledTime>,
    /// The capacity arithmetic of the sparse layers.
    moe_layers: Vec<MoeLayer>,
    /// Checks that failed, in words.
    failures: Vec<String>,
}

pub fn run(args: Args, _: &Devices) -> anyhow::Result<ExitCode> {
    let inspected = match read(&args) {
        Ok(inspected) => inspected,
        Err(error) => {
            common::complain(&error);
            return Ok(ExitCode::from(UNREADABLE));
        }
    };
    if args.json {
        common::say(serde_json::to_string_pretty(&inspected)?)?;
    } else {
        inspected.iter().try_for_each(|one| print(one, args.topology.as_ref()))?;
    }
    let failed = inspected.iter().any(|i| !i.failures.is_empty());
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn read(args: &Args) -> anyhow::Result<Vec<Inspected>> {
    if args.path.is_dir() {
        if args.topology.is_some() {
            anyhow::bail!(
                "--topology is for one compiled module, found a folder; `aot` writes such modules as *.optimized.hlo.pb"
            );
        }
        return read_artifact(&args.path, args.program.as_deref());
    }
    let name = args.path.display();
    let bytes = std::fs::read(&args.path).with_context(|| format!("cannot read `{name}`"))?;
    let module = hlo::read_module(&bytes).with_context(|| format!("`{name}` is not an HLO module"))?;
    let report = inspect::inspect(&module).with_context(|| format!("`{name}` is malformed"))?;
    let compiled =
        args.topology.as_ref().map(|topology| aot::compiled_time(topology, &module)).transpose()?;
    Ok(vec![Inspected { compiled, ..Inspected::new(report, vec![], vec![]) }])
}

fn read_artifact(folder: &Path, program: Option<&str>) -> anyhow::Result<Vec<Inspected>> {
    let artifact = Artifact::read(folder)?;
    let names: Vec<&str> = artifact.manifest.programs.iter().map(|p| p.name.as_str()).collect();
    let wanted: Vec<&str> = names.iter().copied().filter(|n| program.is_none_or(|p| p == *n)).collect();
    if wanted.is_empty() {
        anyhow::bail!("no program `{}`; the artifact has {}", program.unwrap_or_default(), names.join(", "));
    }
    let inspect_one = |name: &&str| {
        let (_, module) = artifact.program(name).context("internal: a program vanished")?;
        let report = inspect::inspect(module).with_context(|| format!("program `{name}` is malformed"))?;
        let expected = artifact.manifest.expected_shapes(name);
        let layers = artifact.manifest.layers_of(name).cloned().collect();
        Ok(Inspected::new(report, inspect::check_moe(module, &expected), layers))
    };
    wanted.iter().map(inspect_one).collect()
}

impl Inspected {
    fn new(report: Report, shape_checks: Vec<CheckOutcome>, moe_layers: Vec<MoeLayer>) -> Self {
        let mut failures = report.failures();
        for check in shape_checks.iter().filter(|c| !c.ok) {
            let found = if check.found.is_empty() { "nothing".into() } else { check.found.join(", ") };
            failures.push(format!("{} must be {}, found {found}", check.path, check.expected));
        }
        Self { report, compiled: None, shape_checks, moe_layers, failures }
    }
}

fn print(inspected: &Inspected, topology: Option<&Topology>) -> anyhow::Result<()> {
    common::say(inspect::render(&inspected.report))?;
    if let Some((topology, compiled)) = topology.zip(inspected.compiled.as_ref()) {
        common::say(aot::render_compiled(topology, compiled))?;
    }
    for layer in &inspected.moe_layers {
        common::say(format_args!("capacity {}", layer.arithmetic()))?;
    }
    for check in &inspected.shape_checks {
        let mark = if check.ok { "ok  " } else { "FAIL" };
        common::say(format_args!("{mark} {} {}", check.path, check.expected))?;
    }
    inspected.failures.iter().try_for_each(|failure| common::say(format_args!("FAIL {failure}")))
}
