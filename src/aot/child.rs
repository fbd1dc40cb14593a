//! The parent's side: starts the worker in a clean environment, waits, and turns its end into an outcome.

use super::worker::{OUTCOME_FILE, Outcome, Task};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The hidden subcommand that runs [`super::worker::work`].
pub const SUBCOMMAND: &str = "aot-worker";
const STDERR_FILE: &str = "stderr.txt";
/// Lines of the compiler's last words that a message quotes.
const QUOTED_LINES: usize = 3;

/// The compiler did not get as far as an answer.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the compiler was still at work after {} s; give it more with --timeout", limit.as_secs())]
    Timeout { limit: Duration },
    #[error("the compiler ended its process ({how}){}", quoted(words))]
    Died { how: String, words: String },
    #[error("the compiler's answer cannot be read: {problem}")]
    Answer { problem: String },
}

fn quoted(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// Runs a task in a child: `program`, which knows [`SUBCOMMAND`], with these variables in its environment.
///
/// Errors: [`ChildError`] if the child dies or takes longer than `limit`, and then it is ended.
pub fn run(
    program: &Path,
    task: &Task,
    variables: &[(&str, OsString)],
    limit: Duration,
) -> Result<Outcome, ChildError> {
    let stderr = task.out.join(STDERR_FILE);
    let mut child = start(program, task, variables, &stderr)?;
    let status = wait(&mut child, limit)?;
    let answer = task.out.join(OUTCOME_FILE);
    if !status.success() || !answer.is_file() {
        return Err(ChildError::Died { how: how(status), words: last_words(&stderr) });
    }
    let json = std::fs::read(&answer).map_err(io("read", &answer))?;
    serde_json::from_slice(&json).map_err(|e| ChildError::Answer { problem: e.to_string() })
}

fn start(
    program: &Path,
    task: &Task,
    variables: &[(&str, OsString)],
    stderr: &Path,
) -> Result<Child, ChildError> {
    let log = File::create(stderr).map_err(io("create", stderr))?;
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).arg("--plugin").arg(&task.plugin).arg("--topology").arg(&task.topology);
    for (key, value) in &task.options {
        command.arg("--option").arg(format!("{key}={value}"));
    }
    command.arg("--module").arg(&task.module).arg("--replicas").arg(task.replicas.to_string());
    command.arg("--out").arg(&task.out).envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    ends_with_parent(&mut command);
    command.spawn().map_err(io("start", program))
}

/// Nobody waits for the answer of a compiler whose parent was killed, and it may take minutes and gigabytes.
fn ends_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        // SAFETY: both are plain system calls, which may run between fork and exec.
        let (asked, now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        match asked {
            0 if u32::try_from(now) == Ok(parent) => Ok(()),
            0 => Err(std::io::ErrorKind::Interrupted.into()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: `ask` allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, ChildError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    loop {
        let status = child.try_wait().map_err(io("wait for", Path::new("the compiler")))?;
        if let Some(status) = status {
            return Ok(status);
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return Err(ChildError::Timeout { limit });
        }
        sleep(PAUSE);
    }
}

fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(libc::SIGABRT) => "it aborted: a check inside failed".into(),
        Some(libc::SIGKILL) => "it was killed, perhaps for want of memory".into(),
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    }
}

/// The lines that say why a process aborted: what failed checks leave, else the last ones.
fn last_words(stderr: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(stderr).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let fatal = lines.iter().position(|line| line.contains("Check fail") || is_fatal(line));
    let chosen = match fatal {
        Some(at) => &lines[at..lines.len().min(at + 1)],
        None => &lines[lines.len().saturating_sub(QUOTED_LINES)..],
    };
    chosen.join(" ")
}

/// `F1124 06:28:10.123 ...`, as the compiler's log marks what ends it.
fn is_fatal(line: &str) -> bool {
    let mut chars = line.chars();
    chars.next() == Some('F') && chars.take(4).all(|c| c.is_ascii_digit()) && line.len() > 5
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ChildError {
    move |source| ChildError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stderr.txt");
        std::fs::write(&path, text).unwrap();
        last_words(&path)
    }

    #[test]
    fn the_failed_check_is_quoted_before_the_stack_below_it() {
        let text =
            "I0000 start\nF1124 06:28:10.1 7 hlo.cc:3] Check failed: a == b (1 vs. 4)\n@ 0x7f\n@ 0x8f\n";
        assert_eq!(words(text), "F1124 06:28:10.1 7 hlo.cc:3] Check failed: a == b (1 vs. 4)");
        assert_eq!(words("a\nb\nFinally\nd\n"), "b Finally d");
        assert_eq!(words(""), "");
    }

    #[test]
    fn a_child_that_takes_too_long_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let error = wait(&mut child, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("--timeout"), "{error}");
        assert!(child.try_wait().unwrap().is_some(), "it is gone");
    }
}
