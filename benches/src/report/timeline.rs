//! Response time over time, one panel for each strategy: the same axes, so that heights and widths compare.
//!
//! A panel is stretched to the page's width: its dots keep their size (`vector-effect`), and its words are text of the
//! page over it, so that it can be read at any width.

use std::collections::HashMap;

use maud::{Markup, html};

use crate::{
    results::{Kind, Phase, Request, Results, Run, Timelines},
    summary::{Row, Summary},
    units,
};

/// Of the drawing; the page stretches it.
const WIDTH: f64 = 1000.0;
/// Of the drawing, and on the page.
const HEIGHT: f64 = 150.0;
/// At the top, where lost requests are marked.
const STRIP: f64 = 14.0;

/// What can be drawn, and what cannot.
pub struct Panels<'a> {
    guests: Vec<Guest<'a>>,
    axes: Axes,
}

struct Guest<'a> {
    name: Option<String>,
    panels: Vec<Panel<'a>>,
}

struct Panel<'a> {
    row: &'a Row<'a>,
    run: &'a Run,
    requests: Vec<Request>,
}

/// The same for all panels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axes {
    from_us: i64,
    to_us: i64,
    /// Powers of ten of microseconds.
    low: i32,
    high: i32,
}

/// Which requests are needed: those of the runs that stand for their arms. Their places in the file, from 1.
pub fn wanted(summary: &Summary<'_>, results: &Results) -> Vec<usize> {
    summary.rows.iter().filter_map(|row| place(row.median_run()?, results)).collect()
}

fn place(run: &Run, results: &Results) -> Option<usize> {
    Some(results.runs.iter().position(|other| std::ptr::eq(run, other))? + 1)
}

impl<'a> Panels<'a> {
    /// Of all arms whose run of the median downtime has requests; nothing if there are none.
    pub fn of(summary: &'a Summary<'a>, results: &Results, timelines: &Timelines) -> Option<Panels<'a>> {
        let panel = |row: &'a Row<'a>| {
            let run = row.median_run()?;
            run.phases?;
            let all = timelines.of(place(run, results)?)?;
            let requests: Vec<Request> =
                all.iter().copied().filter(|request| request.kind == Kind::Http).collect();
            (!requests.is_empty()).then_some(Panel { row, run, requests })
        };
        let mut guests = Vec::new();
        for (workload, rows) in summary.groups() {
            let rows = summary.rows.iter().filter(|row| rows.iter().any(|other| std::ptr::eq(*row, *other)));
            let panels: Vec<Panel<'_>> = rows.filter_map(panel).collect();
            if !panels.is_empty() {
                guests.push(Guest { name: summary.name_of(&workload), panels });
            }
        }
        let axes = Axes::fit(guests.iter().flat_map(|guest| &guest.panels))?;
        Some(Panels { guests, axes })
    }

    /// The pictures, and what they mean.
    pub fn draw(&self) -> Markup {
        let shown = |us: i64| units::signed_micros(us);
        html! {
            figure.wide.timeline {
                h2 { "Response time, request by request" }
                ul.legend {
                    @for phase in [Phase::Setup, Phase::Rounds, Phase::Switchover, Phase::Push] {
                        li { i class=(format!("swatch ph-{}", phase.name())) {} (phase.name()) }
                    }
                    li { i.swatch.lost-swatch {} "lost" }
                }
                @for guest in &self.guests {
                    @if let Some(name) = &guest.name { h3 { (name) } }
                    @for panel in &guest.panels { (panel.draw(&self.axes)) }
                }
                figcaption {
                    "Each dot is a request of the client in the run of the median downtime: when it was to be sent, and how "
                    "long it then took to the answer (log scale). Zero is the beginning of the switchover. All panels have the "
                    "same axes, from " (shown(self.axes.from_us)) " to " (shown(self.axes.to_us)) "; every request of every "
                    "run is in timeline.csv. Of dots that would lie on the same point of the drawing ("
                    (WIDTH) " × " (HEIGHT - STRIP) " points) one is drawn, so no extreme is left out."
                }
            }
        }
    }
}

impl Axes {
    /// Around the longest migration, with a fifth of it before and after, and all that waited in it; not more than was recorded.
    fn fit<'a>(panels: impl Iterator<Item = &'a Panel<'a>> + Clone) -> Option<Axes> {
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

    fn x(&self, us: i64) -> f64 {
        ((us - self.from_us) as f64 / (self.to_us - self.from_us) as f64 * WIDTH).clamp(0.0, WIDTH)
    }

    fn y(&self, us: f64) -> f64 {
        let place = (us.max(1.0).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        HEIGHT - place.clamp(0.0, 1.0) * (HEIGHT - STRIP)
    }

    /// The same, and which of them a narrow page leaves out where there are many: every second, and never zero.
    fn labels(&self) -> Vec<(i64, bool)> {
        let ticks = self.ticks();
        let zero = ticks.iter().position(|&us| us == 0).unwrap_or(0);
        let is_odd = |i: usize| ticks.len() > 3 && i.abs_diff(zero) % 2 == 1;
        ticks.iter().enumerate().map(|(i, &us)| (us, is_odd(i))).collect()
    }

    /// A few round moments.
    fn ticks(&self) -> Vec<i64> {
        let rough = (self.to_us - self.from_us) as f64 / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough);
        let step = step.unwrap_or(rough).max(1.0) as i64;
        let first = self.from_us.div_euclid(step) + 1;
        (first..).map(|i| i * step).take_while(|&us| us < self.to_us).collect()
    }
}

impl Panel<'_> {
    fn draw(&self, axes: &Axes) -> Markup {
        let strategy = self.row.strategy.name();
        html! {
            div.panel {
                p.panel-head { strong { i class=(format!("swatch s-{strategy}")) {} (self.row.label()) } " " span { (self.says()) } }
                div.plot data-from=(axes.from_us) data-to=(axes.to_us) data-low=(axes.low) data-high=(axes.high)
                    data-strip=(STRIP / HEIGHT) {
                    svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img"
                        aria-label=(format!("Response times of {}: {}", self.row.label(), self.says())) {
                        (self.phases(axes))
                        @for power in axes.low..=axes.high {
                            @let y = format!("{:.1}", axes.y(10f64.powi(power)));
                            line.grid x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                        }
                        @for us in axes.ticks() {
                            @let x = format!("{:.1}", axes.x(us));
                            line.grid x1=(x) x2=(x) y1="0" y2=(HEIGHT) {}
                        }
                        @for phase in Phase::ALL { (self.dots(axes, phase)) }
                        (self.lost(axes))
                    }
                    @for power in axes.low..=axes.high {
                        span.y-tick style=(format!("top:{:.2}%", axes.y(10f64.powi(power)) / HEIGHT * 100.0)) {
                            (units::micros(10u64.pow(power.max(0) as u32)))
                        }
                    }
                    @for (us, is_odd) in axes.labels() {
                        span class=(if is_odd { "x-tick odd" } else { "x-tick" })
                            style=(format!("left:{:.2}%", axes.x(us) / WIDTH * 100.0)) { (units::signed_micros(us)) }
                    }
                }
            }
        }
    }

    /// What a reader should see in it.
    fn says(&self) -> String {
        let Some(client) = &self.run.client else { return String::new() };
        let mut words = Vec::new();
        if let Some(gap) = client.downtime_client_us {
            words.push(format!("longest gap {}", units::micros(gap)));
        }
        if let Some(response) = client.longest_response_us {
            words.push(format!("longest response {}", units::micros(response)));
        }
        words.push(format!(
            "{} of {} lost",
            units::count(client.requests_lost),
            units::count(client.requests_sent)
        ));
        words.join(" · ")
    }

    fn phases(&self, axes: &Axes) -> Markup {
        let phases = self.run.phases;
        let spans = Phase::ALL.into_iter().filter_map(|phase| Some((phase, phases?.span(phase)?)));
        html! {
            @for (phase, (from, to)) in spans {
                // A switchover of a millisecond is still to be seen.
                @let (x, width) = (axes.x(from), (axes.x(to) - axes.x(from)).max(1.5));
                rect class=(format!("ph-{}", phase.name())) x=(format!("{x:.1}")) y="0" width=(format!("{width:.1}")) height=(HEIGHT) {
                    title { (phase.name()) ": " (units::micros((to - from) as u64)) ", from " (units::signed_micros(from)) " to " (units::signed_micros(to)) }
                }
            }
        }
    }

    /// The answered requests of one phase, in one path.
    fn dots(&self, axes: &Axes, phase: Phase) -> Markup {
        let phases = self.run.phases;
        let its = self.requests.iter().filter(|request| {
            (axes.from_us..=axes.to_us).contains(&request.scheduled_us)
                && phases.is_some_and(|phases| phases.at(request.scheduled_us) == phase)
        });
        let points = its.filter_map(|request| Some((request.scheduled_us, request.response_us?)));
        let path = path_of(points.map(|(at, us)| (axes.x(at), axes.y(f64::from(us)))));
        html! {
            @if !path.is_empty() {
                path class=(format!("dots s-{}", self.row.strategy.name())) data-phase=(phase.name()) d=(path) {}
            }
        }
    }

    fn lost(&self, axes: &Axes) -> Markup {
        let lost = self.requests.iter().filter(|request| request.response_us.is_none());
        let lost = lost.filter(|request| (axes.from_us..=axes.to_us).contains(&request.scheduled_us));
        let marks: Vec<f64> = lost.map(|request| axes.x(request.scheduled_us)).collect();
        html! {
            @if !marks.is_empty() {
                path.lost d=(marks.iter().map(|x| format!("M{x:.1} 1v{:.0}", STRIP - 4.0)).collect::<String>()) {
                    title { (units::count(marks.len() as u64)) " requests were never answered" }
                }
            }
        }
    }
}

/// A dot for each point of the drawing that has any; of those on one point the highest on the page, the slowest.
fn path_of(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut order: Vec<(i32, i32)> = Vec::new();
    let mut kept: HashMap<(i32, i32), (f64, f64)> = HashMap::new();
    for (x, y) in points {
        let cell = (x.round() as i32, y.round() as i32);
        let dot = kept.entry(cell).or_insert_with(|| {
            order.push(cell);
            (x, y)
        });
        if y < dot.1 {
            *dot = (x, y);
        }
    }
    order.iter().map(|cell| format!("M{:.1} {:.1}h0", kept[cell].0, kept[cell].1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture_with_client;

    #[test]
    fn each_strategy_has_a_panel_on_the_same_axes() {
        let (results, timelines) = fixture_with_client();
        let summary = Summary::of(&results);
        let page = Panels::of(&summary, &results, &timelines).unwrap().draw().into_string();
        assert_eq!(page.matches("class=\"plot\"").count(), 3);
        for phase in ["ph-rounds", "ph-switchover", "ph-push"] {
            assert!(page.contains(&format!("<rect class=\"{phase}\"")), "no {phase}");
        }
        let axis = page.split("data-from=").nth(1).unwrap().split(" data-strip").next().unwrap();
        assert_eq!(page.matches(axis).count(), 3);
        // The fixture's stop-and-copy is long enough to lose some.
        assert!(page.contains("class=\"lost\""));
        assert!(!page.contains("NaN"));
        assert!(page.len() < 200_000, "{} bytes", page.len());
    }

    #[test]
    fn without_requests_there_is_no_picture() {
        let (results, _) = fixture_with_client();
        let summary = Summary::of(&results);
        assert!(Panels::of(&summary, &results, &Timelines::default()).is_none());
        let one = [(1, vec![Request { kind: Kind::Http, scheduled_us: 0, response_us: None }])];
        let one: Timelines = one.into_iter().collect();
        // One request, and that one lost, in a run that may not be the median: nothing to divide by.
        for run in 1..=results.runs.len() {
            let timelines = [(run, one.of(1).unwrap().to_vec())].into_iter().collect();
            if let Some(panels) = Panels::of(&summary, &results, &timelines) {
                assert!(!panels.draw().into_string().contains("NaN"));
            }
        }
    }

    #[test]
    fn dots_on_the_same_point_are_drawn_once_and_the_slowest_is_kept() {
        let path = path_of([(10.0, 50.2), (10.1, 49.8), (10.2, 50.0), (10.0, 3.0)].into_iter());
        assert_eq!(path, "M10.1 49.8h0M10.0 3.0h0");
        assert_eq!(path_of([].into_iter()), "");
    }

    #[test]
    fn only_the_runs_that_are_drawn_are_wanted() {
        let results = crate::report::fixture();
        let summary = Summary::of(&results);
        let wanted = wanted(&summary, &results);
        assert_eq!(wanted.len(), 3);
        assert!(wanted.iter().all(|place| (1..=results.runs.len()).contains(place)));
    }
}
