//! `switchyard doctor`: which runtimes and devices this machine has.

use super::{Devices, Needs, Unavailable, common};
use crate::runtime::{Backend, native, plugins};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// List runtimes, devices and PJRT plugins
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 when a runtime can be used, 1 when none can.")]
pub struct Args {
    /// Open the CPU runtime with this many virtual devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    devices: u16,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub const NEEDS: Needs = Needs::DeviceIfAny;

pub fn run(args: Args, devices: &Devices) -> anyhow::Result<ExitCode> {
    let report = Report::collect(usize::from(args.devices), devices);
    match args.json {
        true => common::say(serde_json::to_string_pretty(&report)?)?,
        false => common::say(report.text().trim_end())?,
    }
    Ok(ExitCode::from(u8::from(report.cpu.problem.is_some())))
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    program: PathBuf,
    cpu_feature: bool,
    cpu: CpuReport,
    plugins: Vec<PluginReport>,
}

#[derive(Default, Serialize)]
struct CpuReport {
    /// Why the runtime cannot be used.
    problem: Option<String>,
    libraries: Vec<PathBuf>,
    version: Option<String>,
    open_ms: Option<f64>,
    devices: Vec<DeviceReport>,
}

#[derive(Serialize)]
struct DeviceReport {
    kind: String,
    description: String,
}

#[derive(Serialize)]
struct PluginReport {
    path: PathBuf,
    size_bytes: Option<u64>,
    found_by: String,
}

impl Report {
    fn collect(num_devices: usize, devices: &Devices) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            program: std::env::current_exe().unwrap_or_default(),
            cpu_feature: cfg!(feature = "cpu"),
            cpu: CpuReport::collect(num_devices, devices),
            plugins: plugins::find().into_iter().map(PluginReport::of).collect(),
        }
    }

    fn text(&self) -> String {
        let feature = if self.cpu_feature { "on" } else { "off" };
        let mut out = format!("switchyard  {} (feature cpu {feature})\n", self.version);
        let _ = writeln!(out, "program     {}", self.program.display());
        self.cpu.write(&mut out);
        let _ = writeln!(out, "plugins     {} PJRT plugins found (not loaded)", self.plugins.len());
        for plugin in &self.plugins {
            let size = plugin.size_bytes.map_or("missing".to_owned(), |n| format!("{} MB", n / 1_000_000));
            let _ = writeln!(out, "            {} ({size}, by {})", plugin.path.display(), plugin.found_by);
        }
        out
    }
}

impl CpuReport {
    fn collect(num_devices: usize, devices: &Devices) -> Self {
        let mut report = Self { libraries: native::libraries().unwrap_or_default(), ..Self::default() };
        let start = std::time::Instant::now();
        match devices.open(num_devices) {
            Ok(backend) => report.describe(&*backend, start.elapsed().as_secs_f64() * 1e3),
            Err(Unavailable::Failed(error)) => report.problem = Some(error.to_string()),
            Err(Unavailable::Missing(error)) => report.problem = Some(error.to_string()),
        }
        report
    }

    fn describe(&mut self, backend: &dyn Backend, open_ms: f64) {
        self.version = Some(backend.version().to_owned());
        self.open_ms = Some(open_ms);
        let device = |d: &crate::runtime::Device| DeviceReport {
            kind: d.kind.clone(),
            description: d.description.clone(),
        };
        self.devices = backend.devices().iter().map(device).collect();
    }

    fn write(&self, out: &mut String) {
        match (&self.problem, &self.version) {
            (Some(problem), _) => drop(writeln!(out, "cpu         not usable: {problem}")),
            (None, version) => {
                let version = version.as_deref().unwrap_or_default();
                let _ = writeln!(out, "cpu         ready, version {version}");
            }
        }
        for library in &self.libraries {
            let _ = writeln!(out, "            {}", library.display());
        }
        for device in &self.devices {
            let _ = writeln!(out, "  device    {} ({})", device.description, device.kind);
        }
    }
}

impl PluginReport {
    fn of(plugin: plugins::PluginFile) -> Self {
        let size_bytes = std::fs::metadata(&plugin.path).ok().map(|file| file.len());
        Self { path: plugin.path, size_bytes, found_by: plugin.found_by }
    }
}
