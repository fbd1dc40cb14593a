//! `switchyard doctor`: which runtimes and devices this machine has.

use super::{Devices, Needs, Unavailable, common};
use crate::aot::{self, Chip};
use crate::runtime::{Backend, measure, native, plugins};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// List runtimes, devices and PJRT plugins
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 when a runtime can be used, 1 when none can.")]
pub struct Args {
    /// Open the runtime with this many devices (of the CPU: virtual ones)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    devices: u16,

    #[command(flatten)]
    device: common::DeviceArgs,

    /// Measure products of two N x N matrices of bfloat16 on the first device
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32768))]
    matmul: Option<u32>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn needs(&self) -> Needs {
        self.device.needs_if_any()
    }
}

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let report = Report::collect(&args, devices);
    match args.json {
        true => common::say(serde_json::to_string_pretty(&report)?)?,
        false => common::say(report.text().trim_end())?,
    }
    Ok(ExitCode::from(u8::from(report.runtime.problem.is_some())))
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    program: PathBuf,
    cpu_feature: bool,
    runtime: RuntimeReport,
    plugins: Vec<PluginReport>,
    /// What `aot` and `plan` compile with.
    compilers: Vec<CompilerReport>,
}

#[derive(Default, Serialize)]
struct RuntimeReport {
    /// As `--device` names it.
    name: String,
    /// Why the runtime cannot be used.
    problem: Option<String>,
    /// The files that it is made of.
    libraries: Vec<PathBuf>,
    platform: Option<String>,
    version: Option<String>,
    open_ms: Option<f64>,
    devices: Vec<DeviceReport>,
    /// As `--matmul` measured it.
    matmul_flops_per_second: Option<f64>,
}

#[derive(Serialize)]
struct DeviceReport {
    kind: String,
    description: String,
    /// Bytes that programs may use, where the runtime says it.
    memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct PluginReport {
    path: PathBuf,
    kind: plugins::PluginKind,
    size_bytes: Option<u64>,
    found_by: String,
}

#[derive(Serialize)]
struct CompilerReport {
    /// The chips that it compiles for.
    chips: Vec<&'static str>,
    plugin: Option<PathBuf>,
    /// Where the programs that it calls are.
    toolkit: Option<PathBuf>,
    /// Why it cannot be used.
    problem: Option<String>,
}

impl Report {
    fn collect(args: &Args, devices: &Devices) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            program: std::env::current_exe().unwrap_or_default(),
            cpu_feature: cfg!(feature = "cpu"),
            runtime: RuntimeReport::collect(args, devices),
            plugins: plugins::find().into_iter().map(PluginReport::of).collect(),
            compilers: [&aot::TPUS[..], &aot::GPUS[..]].map(CompilerReport::of).into(),
        }
    }

    fn text(&self) -> String {
        let feature = if self.cpu_feature { "on" } else { "off" };
        let mut out = format!("switchyard  {} (feature cpu {feature})\n", self.version);
        let _ = writeln!(out, "program     {}", self.program.display());
        self.runtime.write(&mut out);
        let _ = writeln!(out, "plugins     {} PJRT plugins found (not loaded)", self.plugins.len());
        for plugin in &self.plugins {
            let size = plugin.size_bytes.map_or("missing".to_owned(), |n| format!("{} MB", n / 1_000_000));
            let (kind, path) = (plugin.kind, plugin.path.display());
            let _ = writeln!(out, "  {:<9} {path} ({size}, by {})", kind.to_string(), plugin.found_by);
        }
        let _ = writeln!(out, "compilers   ahead of time, for devices that need not be here");
        for compiler in &self.compilers {
            let _ = writeln!(out, "  {}", compiler.text());
        }
        out
    }
}

impl RuntimeReport {
    fn collect(args: &Args, devices: &Devices) -> Self {
        let choice = args.device.choice();
        let libraries = match choice.plugin() {
            Ok(None) => native::libraries().unwrap_or_default(),
            Ok(Some(path)) => vec![path],
            Err(_) => vec![],
        };
        let mut report = Self { name: choice.to_string(), libraries, ..Self::default() };
        let start = std::time::Instant::now();
        match args.device.open(devices, usize::from(args.devices)) {
            Ok(backend) => {
                report.describe(&*backend, start.elapsed().as_secs_f64() * 1e3);
                report.measure(&*backend, args.matmul);
            }
            Err(Unavailable::Failed(error)) => report.problem = Some(error.to_string()),
            Err(Unavailable::Missing(error)) => report.problem = Some(error.to_string()),
        }
        report
    }

    fn describe(&mut self, backend: &dyn Backend, open_ms: f64) {
        self.platform = Some(backend.platform().to_owned());
        self.version = Some(backend.version().to_owned());
        self.open_ms = Some(open_ms);
        let device = |(n, d): (usize, &crate::runtime::Device)| DeviceReport {
            kind: d.kind.clone(),
            description: d.description.clone(),
            memory_bytes: backend.memory(n).and_then(|memory| memory.limit_bytes),
        };
        self.devices = backend.devices().iter().enumerate().map(device).collect();
    }

    fn measure(&mut self, backend: &dyn Backend, matmul: Option<u32>) {
        let Some(size) = matmul else { return };
        match measure::matmul_flops_per_second(backend, size as usize) {
            Ok(rate) => self.matmul_flops_per_second = Some(rate),
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    fn write(&self, out: &mut String) {
        match (&self.problem, &self.version) {
            (Some(problem), _) => drop(writeln!(out, "{:<11} not usable: {problem}", self.name)),
            (None, version) => {
                let version = version.as_deref().unwrap_or_default();
                let _ = writeln!(out, "{:<11} ready, version {version}", self.name);
            }
        }
        for library in &self.libraries {
            let _ = writeln!(out, "            {}", library.display());
        }
        for device in &self.devices {
            let memory = device.memory_bytes.map_or(String::new(), |n| format!(", {} MB", n / 1_000_000));
            let _ = writeln!(out, "  device    {} ({}{memory})", device.description, device.kind);
        }
        if let Some(rate) = self.matmul_flops_per_second {
            let _ = writeln!(out, "  matmul    {:.3} TFLOP/s in bfloat16, measured", rate / 1e12);
        }
    }
}

impl CompilerReport {
    fn of(chips: &'static [Chip]) -> Self {
        let names = chips.iter().map(|chip| chip.name).collect();
        let mut report = Self { chips: names, plugin: None, toolkit: None, problem: None };
        let Some(chip) = chips.first() else { return report };
        let found = aot::compiler(chip).and_then(|plugin| {
            report.plugin = Some(plugin.clone());
            aot::toolkit(chip, &plugin)
        });
        match found {
            Ok(toolkit) => report.toolkit = toolkit,
            Err(missing) => report.problem = Some(missing.to_string()),
        }
        report
    }

    fn text(&self) -> String {
        let chips = self.chips.join(", ");
        let paths: Vec<String> =
            self.plugin.iter().chain(&self.toolkit).map(|path| path.display().to_string()).collect();
        match &self.problem {
            Some(problem) => format!("{chips}: {problem}"),
            None => format!("{chips}: {}", paths.join(" with ")),
        }
    }
}

impl PluginReport {
    fn of(plugin: plugins::PluginFile) -> Self {
        let size_bytes = std::fs::metadata(&plugin.path).ok().map(|file| file.len());
        Self { kind: plugin.kind(), path: plugin.path, size_bytes, found_by: plugin.found_by }
    }
}
