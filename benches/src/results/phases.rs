//! When the phases of a migration were, on the time axis of the client's requests.

use serde::{Deserialize, Serialize};

use super::Run;
use crate::probe::MigrationWindow;

/// In microseconds from the beginning of the switchover, which is when the source was told to pause its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// The command to migrate; before zero.
    pub command: i64,
    /// The first round began: connecting and making the destination ready was over.
    pub rounds: i64,
    /// The guest ran at the destination.
    pub switchover_end: i64,
    /// The last missing page was pushed; the end of the switchover where none was missing.
    pub push_end: i64,
    /// The source was free of duty.
    pub end: i64,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Before the command.
    Before,
    /// Connecting, and making the destination ready.
    Setup,
    /// Pages go while the guest runs at the source.
    Rounds,
    /// The guest stands still.
    Switchover,
    /// The guest runs at the destination, and pages are missing there.
    Push,
    /// The guest runs at the destination, with all its pages.
    After,
}

impl Phase {
    /// In order of time.
    pub const ALL: [Phase; 6] =
        [Phase::Before, Phase::Setup, Phase::Rounds, Phase::Switchover, Phase::Push, Phase::After];

    /// Its name in files and pictures.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::Setup => "setup",
            Phase::Rounds => "rounds",
            Phase::Switchover => "switchover",
            Phase::Push => "push",
            Phase::After => "after",
        }
    }
}

impl Phases {
    /// Zero of their axis, by CLOCK_MONOTONIC: the end of the switchover, as the harness saw it, less what the engine knows
    /// of its length. Nothing if the guest did not move.
    pub fn origin_ns(window: &MigrationWindow, run: &Run) -> Option<u64> {
        Some(window.switchover_end_ns.saturating_sub(run.moved.downtime_engine_us? * 1_000))
    }

    /// From the window in which the run was, by the client's clock, and from what the engine said of its parts. Nothing if the guest did not move.
    pub fn of(window: &MigrationWindow, run: &Run) -> Option<Phases> {
        let downtime = run.moved.downtime_engine_us? as i64;
        let origin_ns = Phases::origin_ns(window, run)? as i64;
        let at = |ns: u64| (ns as i64 - origin_ns) / 1_000;
        let push = run.moved.push.map_or(0, |push| push.duration_us as i64);
        let rounds: i64 = run.moved.rounds().iter().map(|round| round.duration_us as i64).sum();
        let (command, end) = (at(window.begin_ns).min(0), at(window.end_ns).max(downtime));
        // Where there was no round, everything until the pause is setup.
        Some(Phases {
            command,
            rounds: (-rounds).max(command),
            switchover_end: downtime,
            push_end: downtime + push,
            end,
        })
    }

    /// In which of them a moment is.
    pub fn at(&self, us: i64) -> Phase {
        match us {
            us if us < self.command => Phase::Before,
            us if us < self.rounds => Phase::Setup,
            us if us < 0 => Phase::Rounds,
            us if us < self.switchover_end => Phase::Switchover,
            us if us < self.push_end => Phase::Push,
            _ => Phase::After,
        }
    }

    /// From when to when it was; nothing if it took no time, or has no end.
    pub fn span(&self, phase: Phase) -> Option<(i64, i64)> {
        let (from, to) = match phase {
            Phase::Before | Phase::After => return None,
            Phase::Setup => (self.command, self.rounds),
            Phase::Rounds => (self.rounds, 0),
            Phase::Switchover => (0, self.switchover_end),
            Phase::Push => (self.switchover_end, self.push_end),
        };
        (from < to).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: MigrationWindow =
        MigrationWindow { begin_ns: 1_000_000_000, switchover_end_ns: 1_500_000_000, end_ns: 1_900_000_000 };

    fn run(of: &str) -> Run {
        let results = crate::report::fixture();
        let mut run = results.runs.into_iter().find(|run| run.strategy.name() == of).unwrap();
        run.moved.downtime_engine_us = Some(2_000);
        run
    }

    #[test]
    fn phases_follow_each_other() {
        let phases = Phases::of(&WINDOW, &run("pre-copy")).unwrap();
        assert_eq!((phases.command, phases.switchover_end, phases.end), (-498_000, 2_000, 402_000));
        assert!(phases.rounds > phases.command && phases.rounds < 0);
        let named = [-498_001, phases.rounds - 1, -1, 0, 1_999, 2_000].map(|us| phases.at(us).name());
        assert_eq!(named, ["before", "setup", "rounds", "switchover", "switchover", "after"]);
        assert_eq!(phases.span(Phase::Push), None);
        assert_eq!(phases.span(Phase::Switchover), Some((0, 2_000)));
    }

    #[test]
    fn missing_pages_are_pushed_after_the_switchover() {
        let run = run("post-copy");
        let phases = Phases::of(&WINDOW, &run).unwrap();
        let push = run.moved.push.unwrap().duration_us as i64;
        assert_eq!(phases.span(Phase::Push), Some((2_000, 2_000 + push)));
        assert_eq!(phases.span(Phase::Rounds), None);
        assert_eq!(phases.at(2_000), Phase::Push);
    }

    #[test]
    fn a_guest_that_did_not_move_has_no_phases() {
        let mut run = run("pre-copy");
        run.moved.downtime_engine_us = None;
        assert_eq!(Phases::of(&WINDOW, &run), None);
    }
}
