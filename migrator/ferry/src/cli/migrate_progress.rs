//! A migration's progress: one line on a terminal, a line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    output::tell,
    units::{show_bandwidth, show_count, show_micros},
};
use engine::progress::{Phase, ProgressSnapshot};

/// Between two looks: the source's process shares its CPUs with the guest.
pub const TICK: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(5);
/// Cells of the bar, where there is room.
const BAR: usize = 10;
/// Columns of a terminal that does not tell.
const COLUMNS: usize = 80;

/// How fast things went since the look before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    bytes_per_second: u64,
    pages_per_second: f64,
}

/// Shows progress on standard error.
pub struct Display {
    /// The line of a terminal.
    line: Option<ProgressBar>,
    /// When it last looked, and pages and bytes sent by then.
    last: Option<(Instant, u64, u64)>,
    /// When it last said something where there is no terminal.
    said: Instant,
}

impl Display {
    /// An empty line, if standard error `is_terminal`.
    pub fn new(is_terminal: bool) -> Display {
        let line = || {
            let line = ProgressBar::new(0);
            line.set_style(ProgressStyle::with_template("{wide_msg}").expect("a template without mistakes"));
            line
        };
        Display { line: is_terminal.then(line), last: None, said: Instant::now() }
    }

    /// Says something above the line, or where it would be.
    pub fn say(display: Option<&Display>, words: &str) {
        match display.and_then(|display| display.line.as_ref()) {
            Some(line) => line.println(format!("ferry: {words}")),
            None => tell!("ferry: {words}"),
        }
    }

    /// Shows how far it is.
    pub fn show(&mut self, now: &ProgressSnapshot) {
        match &self.line {
            Some(line) => {
                let line = line.clone();
                line.set_message(render(now, self.speed(now), columns()));
            }
            None if self.said.elapsed() >= QUIET => {
                let speed = self.speed(now);
                self.said = Instant::now();
                tell!("ferry: {}", words(now, speed));
            }
            None => {}
        }
    }

    /// How fast pages and bytes went since it last looked.
    fn speed(&mut self, now: &ProgressSnapshot) -> Speed {
        let looked = (Instant::now(), now.pages_sent, now.bytes_sent);
        let Some((when, pages, bytes)) = self.last.replace(looked) else { return Speed::default() };
        let seconds = (looked.0 - when).as_secs_f64().max(1e-3);
        Speed {
            bytes_per_second: (now.bytes_sent.saturating_sub(bytes) as f64 / seconds) as u64,
            pages_per_second: now.pages_sent.saturating_sub(pages) as f64 / seconds,
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

/// The width of the terminal at standard error.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.map_or(COLUMNS, |size| if size.ws_col == 0 { COLUMNS } else { size.ws_col.into() })
}

/// Something to show, and how soon it is left out where there is no room: the highest first.
struct Part {
    text: String,
    rank: u8,
}

/// What is shown of a phase, in order.
fn parts(now: &ProgressSnapshot, speed: Speed) -> Vec<Part> {
    let name = match now.phase {
        Phase::Connecting => "connecting".to_owned(),
        Phase::Preparing => "preparing the destination".to_owned(),
        Phase::Rounds => format!("round {}", now.round),
        Phase::Switchover => "switchover".to_owned(),
        Phase::Push => "runs there, push".to_owned(),
        Phase::Verify => "runs there, comparing digests".to_owned(),
        Phase::Ended => "done".to_owned(),
    };
    let mut parts = vec![Part { text: name, rank: 0 }];
    let mut add = |rank, text| parts.push(Part { text, rank });
    if now.phase_pages == 0 {
        return parts;
    }
    let is_pre_copy = now.phase == Phase::Rounds;
    add(1, format!("{} %", percent(now)));
    if is_pre_copy && now.converges == Some(false) {
        add(2, "does not converge".to_owned());
    } else if now.pages_left > 0 && speed.pages_per_second >= 1.0 {
        let left_us = now.pages_left as f64 / speed.pages_per_second * 1e6;
        add(2, format!("{} left", about(left_us as u64)));
    }
    if is_pre_copy && now.expected_downtime_us > 0 {
        add(3, format!("downtime {}", show_micros(now.expected_downtime_us)));
    }
    if speed.bytes_per_second > 0 {
        add(4, show_bandwidth(speed.bytes_per_second));
    }
    if is_pre_copy && now.dirty_pages_per_second > 0 {
        add(6, format!("guest writes ~{} pages/s", show_count(now.dirty_pages_per_second)));
    }
    add(5, format!("{} pages", show_count(now.pages_left)));
    parts
}

/// All of it, for a line that may be long.
pub fn words(now: &ProgressSnapshot, speed: Speed) -> String {
    join(&parts(now, speed))
}

/// As much as `columns` have room for, with a bar if one fits.
pub fn render(now: &ProgressSnapshot, speed: Speed, columns: usize) -> String {
    let mut parts = parts(now, speed);
    let bar = if now.phase_pages > 0 { format!("{} ", bar(now)) } else { String::new() };
    // The bar is worth less than what matters, and more than the last details.
    loop {
        let line = format!("{bar}{}", join(&parts));
        let last = parts.iter().enumerate().max_by_key(|(_, part)| part.rank).map(|(i, part)| (i, part.rank));
        match last {
            _ if line.chars().count() <= columns => return line,
            Some((i, rank)) if rank > 2 => drop(parts.remove(i)),
            _ => break,
        }
    }
    join(&parts).chars().take(columns).collect()
}

fn join(parts: &[Part]) -> String {
    parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(", ")
}

fn percent(now: &ProgressSnapshot) -> u64 {
    let done = now.phase_pages.saturating_sub(now.pages_left);
    done * 100 / now.phase_pages.max(1)
}

fn bar(now: &ProgressSnapshot) -> String {
    let done = percent(now) as usize * BAR / 100;
    format!("{}{}", "━".repeat(done), "─".repeat(BAR - done))
}

/// A time as one says it.
fn about(micros: u64) -> String {
    match micros / 1_000_000 {
        0 => "1 s".to_owned(),
        seconds @ 1..100 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEED: Speed = Speed { bytes_per_second: 117_500_000, pages_per_second: 28_000.0 };

    fn round() -> ProgressSnapshot {
        ProgressSnapshot {
            phase: Phase::Rounds,
            round: 2,
            phase_pages: 131_072,
            pages_left: 72_089,
            dirty_pages_per_second: 615_000,
            expected_downtime_us: 12_340,
            ..ProgressSnapshot::default()
        }
    }

    #[test]
    fn entry_18_eighty_columns_have_all_that_matters() {
        let line = render(&round(), SPEED, 80);
        assert_eq!(line, "━━━━────── round 2, 45 %, 2 s left, downtime 12.34 ms, 940 Mbit/s, 72 089 pages");
        assert!(line.chars().count() <= 80);
        let stuck = ProgressSnapshot { converges: Some(false), ..round() };
        let line = render(&stuck, SPEED, 80);
        assert!(
            line.contains("does not converge, downtime 12.34 ms") && line.chars().count() <= 80,
            "{line}"
        );
    }

    #[test]
    fn entry_18_forty_columns_have_something() {
        assert_eq!(render(&round(), SPEED, 40), "━━━━────── round 2, 45 %, 2 s left");
        let stuck = ProgressSnapshot { converges: Some(false), round: 12, ..round() };
        assert_eq!(render(&stuck, SPEED, 40), "round 12, 45 %, does not converge");
        for columns in 0..40 {
            assert!(render(&round(), SPEED, columns).chars().count() <= columns);
        }
    }

    #[test]
    fn entry_18_the_bar_of_a_phase_begins_empty_and_never_falls() {
        let mut now = round();
        let mut before = 0;
        for left in (0..=now.phase_pages).rev().step_by(1024) {
            now.pages_left = left;
            assert!(percent(&now) >= before);
            before = percent(&now);
        }
        assert_eq!(before, 100);
        now.pages_left = now.phase_pages;
        assert!(render(&now, SPEED, 80).starts_with("────────── round 2, 0 %"));
    }

    #[test]
    fn every_phase_has_its_words() {
        let at = |phase, phase_pages| {
            let now = ProgressSnapshot { phase, phase_pages, pages_left: phase_pages / 2, ..round() };
            words(&now, SPEED)
        };
        assert_eq!(at(Phase::Connecting, 0), "connecting");
        assert_eq!(at(Phase::Preparing, 0), "preparing the destination");
        assert_eq!(at(Phase::Switchover, 56_000), "switchover, 50 %, 1 s left, 940 Mbit/s, 28 000 pages");
        assert_eq!(at(Phase::Push, 56_000), "runs there, push, 50 %, 1 s left, 940 Mbit/s, 28 000 pages");
        assert_eq!(at(Phase::Verify, 0), "runs there, comparing digests");
        let all = "round 2, 50 %, 2 s left, downtime 12.34 ms, 940 Mbit/s, guest writes ~615 000 pages/s, 65 536 pages";
        assert_eq!(at(Phase::Rounds, 131_072), all);
    }
}
