//! A migration's progress on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::units::{show_bandwidth, show_count, show_micros};
use crate::progress::{Phase, ProgressSnapshot};

/// Between two looks: the source's process shares its CPUs with the guest.
pub const TICK: Duration = Duration::from_millis(200);

/// One line on standard error.
pub struct Display(ProgressBar);

impl Display {
    /// An empty line.
    pub fn new() -> Display {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {msg}").expect("a template without mistakes");
        bar.set_style(style.progress_chars("━╸─"));
        Display(bar)
    }

    /// Says something above the line, or where it would be.
    pub fn say(display: Option<&Display>, words: &str) {
        match display {
            Some(display) => display.0.println(format!("ferry: {words}")),
            None => eprintln!("ferry: {words}"),
        }
    }

    /// Shows how far it is.
    pub fn show(&self, now: &ProgressSnapshot) {
        let rate = show_bandwidth(now.bytes_per_second);
        let left = show_count(now.pages_left);
        let message = match now.phase {
            Phase::Connecting => "connecting".to_owned(),
            Phase::Rounds if now.round == 0 => format!("round 0, {left} pages left"),
            Phase::Rounds => format!(
                "round {}, {left} pages left, {rate}, guest writes {} pages/s, expected downtime {}",
                now.round,
                show_count(now.dirty_pages_per_second),
                show_micros(now.expected_downtime_us),
            ),
            Phase::Switchover => "switchover: the guest stands still".to_owned(),
            Phase::Push => format!("the guest runs there, {left} pages to follow, {rate}"),
            Phase::Ended => "done".to_owned(),
        };
        self.0.set_length(now.pages_sent + now.pages_left);
        self.0.set_position(now.pages_sent);
        self.0.set_message(message);
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
