//! A migration's progress on a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    output::tell,
    units::{show_bandwidth, show_count, show_micros},
};
use crate::{
    pages::PAGE_SIZE,
    progress::{Phase, ProgressSnapshot},
};

/// Between two looks: the source's process shares its CPUs with the guest.
pub const TICK: Duration = Duration::from_millis(200);

/// One line on standard error.
pub struct Display {
    line: ProgressBar,
    /// When it last looked, and how many pages had been sent by then.
    last: Option<(Instant, u64)>,
}

impl Display {
    /// An empty line.
    pub fn new() -> Display {
        let line = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:20} {wide_msg}").expect("a template without mistakes");
        line.set_style(style.progress_chars("━╸─"));
        Display { line, last: None }
    }

    /// Says something above the line, or where it would be.
    pub fn say(display: Option<&Display>, words: &str) {
        match display {
            Some(display) => display.line.println(format!("ferry: {words}")),
            None => tell!("ferry: {words}"),
        }
    }

    /// Shows how far it is.
    pub fn show(&mut self, now: &ProgressSnapshot) {
        let rate = self.rate(now);
        let left = show_count(now.pages_left);
        let message = match now.phase {
            Phase::Connecting => "connecting".to_owned(),
            Phase::Rounds if now.round == 0 => format!("round 0: {left} pages left, {rate}"),
            Phase::Rounds => format!(
                "round {}: {left} pages left, {rate}; guest writes {} pages/s; expected downtime {}",
                now.round,
                show_count(now.dirty_pages_per_second),
                show_micros(now.expected_downtime_us),
            ),
            Phase::Switchover => "switchover: the guest stands still".to_owned(),
            Phase::Push => format!("the guest runs there, {left} pages to follow, {rate}"),
            Phase::Verify => "the guest runs there; comparing digests of all memory".to_owned(),
            Phase::Ended => "done".to_owned(),
        };
        self.line.set_length(now.pages_sent + now.pages_left);
        self.line.set_position(now.pages_sent);
        self.line.set_message(message);
    }

    /// How fast pages went since it last looked.
    fn rate(&mut self, now: &ProgressSnapshot) -> String {
        let looked = (Instant::now(), now.pages_sent);
        let (when, sent) = self.last.replace(looked).unwrap_or(looked);
        let seconds = (looked.0 - when).as_secs_f64();
        let bytes = (now.pages_sent.saturating_sub(sent) * PAGE_SIZE as u64) as f64;
        show_bandwidth(if seconds > 0.0 { (bytes / seconds) as u64 } else { now.bytes_per_second })
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}
