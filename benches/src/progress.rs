//! How far it is, and how long it will take.

use std::time::{Duration, Instant};

/// Of a number of steps that take about the same time each, or come in passes that do.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    done: usize,
    steps: usize,
}

impl Progress {
    /// Begins now; `steps` are to be made.
    pub fn begin(steps: usize) -> Progress {
        Progress { begin: Instant::now(), done: 0, steps }
    }

    /// One step more is done. Says which one it was, and about how long the others will take.
    pub fn step(&mut self) -> String {
        self.done += 1;
        let left = match time_left(self.begin.elapsed(), self.done, self.steps) {
            Some(left) => format!(", about {left} left"),
            None => String::new(),
        };
        format!("[{:>width$}/{}{left}]", self.done, self.steps, width = self.steps.to_string().len())
    }
}

/// In words; nothing if nothing is left. Arms differ, so it is an estimate, and gets better with each pass.
fn time_left(elapsed: Duration, done: usize, steps: usize) -> Option<String> {
    let left = steps.checked_sub(done).filter(|left| *left > 0)?;
    let seconds = elapsed.as_secs_f64() / done.max(1) as f64 * left as f64;
    Some(match seconds {
        s if s < 90.0 => format!("{} s", s.ceil()),
        s if s < 5_400.0 => format!("{} min", (s / 60.0).round()),
        s => format!("{} h {} min", (s / 3_600.0).floor(), (s % 3_600.0 / 60.0).floor()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        let left = |seconds, done, steps| time_left(Duration::from_secs(seconds), done, steps);
        assert_eq!(left(10, 2, 10).as_deref(), Some("40 s"));
        assert_eq!(left(60, 10, 50).as_deref(), Some("4 min"));
        assert_eq!(left(3_600, 10, 30).as_deref(), Some("2 h 0 min"));
        assert_eq!((left(10, 10, 10), left(0, 0, 0)), (None, None));
    }

    #[test]
    fn the_last_step_has_nothing_left() {
        let mut progress = Progress::begin(2);
        assert!(progress.step().starts_with("[1/2, about "));
        assert_eq!(progress.step(), "[2/2]");
    }
}
