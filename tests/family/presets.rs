//! The presets in `graphs/`.

use std::path::Path;
use std::time::{Duration, Instant};
use switchyard::artifact;
use switchyard::config::RunConfig;

/// The most memory that this process has held, in bytes, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// Weights are described, never made, and a stack is one loop: the 1.6 T parameters of Switch-C take no more than a small model.
#[test]
fn every_preset_compiles_in_seconds_and_little_memory() {
    let graphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs");
    let mut seen = 0;
    for entry in std::fs::read_dir(graphs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let config = RunConfig::load(&path).unwrap();
        let start = Instant::now();
        let artifact =
            artifact::compile(&config).unwrap_or_else(|error| panic!("{}: {error:?}", config.name));
        let elapsed = start.elapsed();
        // A second on an idle core.
        assert!(elapsed < Duration::from_secs(30), "{} took {elapsed:?}", config.name);
        assert_eq!(artifact.modules.len(), switchyard::step::programs(&config).len());
        seen += 1;
    }
    assert!(seen >= 18, "found {seen} presets");
    assert!(peak_memory().is_none_or(|bytes| bytes < 1 << 30), "{:?} bytes", peak_memory());
}
