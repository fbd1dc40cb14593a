//! Memory of this process.

/// The greatest resident memory of this process so far, in bytes; `None` where the system does not tell (not Linux).
pub fn peak_resident_bytes() -> Option<u64> {
    line_of("VmHWM:", &status()?)
}

/// The resident memory of this process now, in bytes; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    line_of("VmRSS:", &status()?)
}

/// Lets [`peak_resident_bytes`] count from now on; whether the system did so.
pub fn restart_peak() -> bool {
    const RESET_HIGH_WATER_MARK: &str = "5";
    std::fs::write("/proc/self/clear_refs", RESET_HIGH_WATER_MARK).is_ok()
}

fn status() -> Option<String> {
    std::fs::read_to_string("/proc/self/status").ok()
}

/// Finds a line such as `VmHWM:   1234 kB`; these kB are 1024 bytes.
fn line_of(name: &str, status: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_units_of_1024_bytes() {
        assert_eq!(line_of("VmHWM:", "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    1234 kB\n"), Some(1_263_616));
        assert_eq!(line_of("VmHWM:", "Name:\tx\n"), None);
        assert_eq!(line_of("VmHWM:", "VmHWM:\t many kB\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_more_than_a_page() {
        assert!(peak_resident_bytes().is_some_and(|bytes| bytes > 4096));
        assert!(resident_bytes().is_some_and(|bytes| bytes > 4096));
    }
}
