//! Progress of a run on standard error: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between plain lines where standard error is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const TEMPLATE: &str = "{bar:24.cyan/dim} step {pos}/{len}  {msg}  {eta} left";

/// What is shown of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Number of steps done.
    pub step: u64,
    /// In nats per token.
    pub loss: f64,
    pub tokens_per_second: f64,
    /// Share of tokens that found no room in their expert, 0 to 1.
    pub dropped_share: f64,
}

impl Status {
    fn text(&self) -> String {
        let rate = rate_text(self.tokens_per_second);
        format!("loss {:.4}  {rate} tokens/s  dropped {:.1} %", self.loss, 100.0 * self.dropped_share)
    }
}

/// A bar on a terminal; elsewhere one line about every ten seconds, and for the first and the last step.
#[derive(Debug)]
pub struct Progress {
    kind: Kind,
    total_steps: u64,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines { first_step: u64, started: Instant, last: Option<Instant> },
}

impl Progress {
    /// Starts at `step` of `total_steps`: 0, or where a resumed run goes on.
    pub fn new(step: u64, total_steps: u64) -> Self {
        let started = Instant::now();
        let kind = if std::io::stderr().is_terminal() {
            Kind::Bar(bar(step, total_steps))
        } else {
            Kind::Lines { first_step: step, started, last: None }
        };
        Self { kind, total_steps }
    }

    /// Shows a step.
    pub fn update(&mut self, status: &Status) {
        let total = self.total_steps;
        match &mut self.kind {
            Kind::Bar(bar) => {
                bar.set_message(status.text());
                bar.set_position(status.step);
            }
            Kind::Lines { first_step, started, last } => {
                if due(last.map(|last| last.elapsed()), status.step, total) {
                    *last = Some(Instant::now());
                    print_line(&line(status, *first_step, total, started.elapsed()));
                }
            }
        }
    }

    /// Prints a line, above the bar where there is one.
    pub fn note(&self, text: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| print_line(text)),
            Kind::Lines { .. } => print_line(text),
        }
    }

    /// Ends the bar and leaves its last state on the terminal.
    pub fn finish(self) {
        if let Kind::Bar(bar) = self.kind {
            bar.abandon();
        }
    }
}

fn bar(step: u64, total_steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total_steps).with_style(style.progress_chars("━╸─")).with_position(step);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A closed standard error must not end the run.
fn print_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether a plain line is due, given the time since the last one.
fn due(since_last: Option<Duration>, step: u64, total_steps: u64) -> bool {
    step >= total_steps || since_last.is_none_or(|since| since >= LINE_INTERVAL)
}

/// A plain line; the time left follows from the steps done since `first_step`.
fn line(status: &Status, first_step: u64, total_steps: u64, elapsed: Duration) -> String {
    let done = status.step.saturating_sub(first_step);
    let to_do = total_steps.saturating_sub(status.step);
    let left = match done {
        0 => String::new(),
        _ => format!("  {} left", time_text(elapsed.as_secs_f64() / done as f64 * to_do as f64)),
    };
    format!("step {}/{total_steps}  {}{left}", status.step, status.text())
}

fn time_text(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// Three or four digits with a unit prefix: `950`, `12.3 k`, `4.56 M`.
pub(super) fn rate_text(rate: f64) -> String {
    match rate {
        r if r >= 1e6 => format!("{:.2} M", r / 1e6),
        r if r >= 1e4 => format!("{:.1} k", r / 1e3),
        r => format!("{r:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: Status =
        Status { step: 20, loss: 2.25, tokens_per_second: 12_345.0, dropped_share: 0.0525 };

    #[test]
    fn a_line_tells_step_loss_rate_dropped_and_time_left() {
        // 10 steps in 30 s, so 80 more take 240 s.
        let line = line(&STATUS, 10, 100, Duration::from_secs(30));
        assert_eq!(line, "step 20/100  loss 2.2500  12.3 k tokens/s  dropped 5.2 %  4 min 00 s left");
    }

    #[test]
    fn before_the_first_step_no_time_left_is_told() {
        assert!(!line(&STATUS, 20, 100, Duration::from_secs(30)).contains("left"));
    }

    #[test]
    fn lines_come_first_last_and_every_ten_seconds() {
        assert!(due(None, 1, 100));
        assert!(!due(Some(Duration::from_secs(9)), 2, 100));
        assert!(due(Some(Duration::from_secs(10)), 2, 100));
        assert!(due(Some(Duration::ZERO), 100, 100));
    }

    #[test]
    fn times_and_rates_are_short() {
        assert_eq!([59.4, 60.0, 7_260.0].map(time_text), ["59 s", "1 min 00 s", "2 h 01 min"]);
        assert_eq!([950.0, 12_340.0, 4_560_000.0].map(rate_text), ["950", "12.3 k", "4.56 M"]);
    }
}
