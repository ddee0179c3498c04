//! Response time over time, one panel for each strategy: the same axes, so that heights and widths compare.
//!
//! A panel is stretched to the page's width: its dots keep their size (`vector-effect`), and its words are text of the
//! page over it, so that it can be read at any width.

mod axes;
mod dots;

use maud::{Markup, html};

use axes::Axes;
use dots::path_of;

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
        if let Some(gap) = client.switchover_client_us {
            words.push(format!("at the switchover {}", units::micros(gap)));
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
    fn only_the_runs_that_are_drawn_are_wanted() {
        let results = crate::report::fixture();
        let summary = Summary::of(&results);
        let wanted = wanted(&summary, &results);
        assert_eq!(wanted.len(), 3);
        assert!(wanted.iter().all(|place| (1..=results.runs.len()).contains(place)));
    }
}
