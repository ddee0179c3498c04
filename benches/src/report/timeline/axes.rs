//! The axes that all panels share: time across, response time upwards by its logarithm.

use super::{HEIGHT, Panel, STRIP, WIDTH};

/// The same for all panels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axes {
    /// From here, in microseconds from the beginning of the switchover.
    pub from_us: i64,
    /// To here.
    pub to_us: i64,
    /// Response times from this power of ten of microseconds.
    pub low: i32,
    /// To here.
    pub high: i32,
}

impl Axes {
    /// Around the longest migration, with a fifth of it before and after, and all that waited in it; not more than was recorded.
    pub fn fit<'a>(panels: impl Iterator<Item = &'a Panel<'a>> + Clone) -> Option<Axes> {
        let phases = panels.clone().filter_map(|panel| panel.run.phases);
        let (command, end) = phases
            .map(|phases| (phases.command, phases.end.max(phases.push_end)))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        let recovered = panels.clone().filter_map(|panel| {
            let back = panel.run.client.as_ref()?.recovery_us? as i64;
            Some(panel.run.phases?.switchover_end + back)
        });
        // What comes back late is shown, but not at the cost of everything else.
        let end = recovered.max().map_or(end, |back| end.max(back.min(end + 2 * (end - command))));
        let margin = ((end - command) / 5).max(5_000);
        let requests = || panels.clone().flat_map(|panel| &panel.requests);
        let first = requests().map(|request| request.scheduled_us).min()?;
        let last = requests().map(|request| request.scheduled_us).max()?;
        let (from_us, to_us) = ((command - margin).max(first), (end + margin).min(last));
        let to_us = to_us.max(from_us + 1_000);
        let times = || {
            let inside = requests().filter(move |request| (from_us..=to_us).contains(&request.scheduled_us));
            inside.filter_map(|request| request.response_us)
        };
        let power = |us: u32| f64::from(us.max(1)).log10();
        let low = times().min().map_or(2, |us| power(us).floor() as i32);
        let high = times().max().map_or(3, |us| (power(us) + 0.02).ceil() as i32).max(low + 1);
        Some(Axes { from_us, to_us, low, high })
    }

    /// Where a moment lies in the drawing.
    pub fn x(&self, us: i64) -> f64 {
        ((us - self.from_us) as f64 / (self.to_us - self.from_us) as f64 * WIDTH).clamp(0.0, WIDTH)
    }

    /// Where a response time lies in the drawing.
    pub fn y(&self, us: f64) -> f64 {
        let place = (us.max(1.0).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        HEIGHT - place.clamp(0.0, 1.0) * (HEIGHT - STRIP)
    }

    /// The same, and which of them a narrow page leaves out where there are many: every second, and never zero.
    pub fn labels(&self) -> Vec<(i64, bool)> {
        let ticks = self.ticks();
        let zero = ticks.iter().position(|&us| us == 0).unwrap_or(0);
        let is_odd = |i: usize| ticks.len() > 3 && i.abs_diff(zero) % 2 == 1;
        ticks.iter().enumerate().map(|(i, &us)| (us, is_odd(i))).collect()
    }

    /// A few round moments.
    pub fn ticks(&self) -> Vec<i64> {
        let rough = (self.to_us - self.from_us) as f64 / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough);
        let step = step.unwrap_or(rough).max(1.0) as i64;
        let first = self.from_us.div_euclid(step) + 1;
        (first..).map(|i| i * step).take_while(|&us| us < self.to_us).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes = Axes { from_us: -300_000, to_us: 300_000, low: 2, high: 5 };

    #[test]
    fn a_moment_and_a_time_have_one_place() {
        assert_eq!([AXES.x(-300_000), AXES.x(0), AXES.x(900_000)], [0.0, WIDTH / 2.0, WIDTH]);
        assert_eq!([AXES.y(100.0), AXES.y(1e5), AXES.y(1e9)], [HEIGHT, STRIP, STRIP]);
    }

    #[test]
    fn zero_has_a_label_on_every_page() {
        assert_eq!(AXES.ticks(), [-200_000, -100_000, 0, 100_000, 200_000]);
        let kept: Vec<i64> =
            AXES.labels().into_iter().filter(|label| !label.1).map(|label| label.0).collect();
        assert_eq!(kept, [-200_000, 0, 200_000]);
    }
}
