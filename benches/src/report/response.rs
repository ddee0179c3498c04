//! What the clients saw, in numbers: response times before, during and after, and what was lost.

use maud::{Markup, html};

use super::{
    bars::{WIDTH, px},
    scale::Scale,
};
use crate::{
    results::Percentiles,
    statistics::Spread,
    summary::{Client, Row, Summary},
    units,
};

const LABEL: f64 = 20.0;
const LINE: f64 = 17.0;
const LEFT: f64 = 52.0;

/// Arms with a client, each with what it saw, and with a heading where another guest begins.
fn clients<'a>(summary: &'a Summary<'a>) -> Vec<(Option<String>, &'a Row<'a>, Client)> {
    let mut clients = Vec::new();
    for (workload, rows) in summary.groups() {
        let mut heading = summary.name_of(&workload);
        for row in summary.rows.iter().filter(|row| rows.iter().any(|other| std::ptr::eq(*row, *other))) {
            let client = Client::of(row);
            if client.is_there() {
                clients.push((heading.take(), row, client));
            }
        }
    }
    clients
}

fn lines(client: &Client) -> [(&'static str, Option<Percentiles>); 3] {
    let times = &client.response;
    [("before", times.before), ("during", times.during), ("after", times.after)]
}

/// Percentiles as boxes: half of the requests at the mark, 99 % up to the end of the box, 99.9 % up to the end of the
/// line, the longest at the dot.
pub fn draw(summary: &Summary<'_>) -> Option<Markup> {
    let clients = clients(summary);
    let all = || clients.iter().flat_map(|(.., client)| lines(client)).filter_map(|(_, times)| times);
    let least = all().map(|times| times.p50.max(1)).min()? as f64;
    let most = all().map(|times| times.max).max()?.max(10) as f64;
    let low = least.log10().floor() as i32;
    let scale = Scale::Log(low, (most.log10().ceil() as i32).max(low + 1));
    let x = |us: f64| LEFT + scale.place(us) * (WIDTH - LEFT - 14.0);
    let heading_height = |heading: &Option<String>| if heading.is_some() { LABEL + 4.0 } else { 0.0 };
    let block = LABEL + 3.0 * LINE + 6.0;
    let height: f64 = clients.iter().map(|(heading, ..)| heading_height(heading) + block).sum();
    let mut top = 0.0;
    Some(html! {
        svg viewBox=(format!("0 0 {WIDTH} {:.0}", height + 18.0)) role="img" aria-label="Percentiles of response times" {
            @for tick in scale.ticks() {
                line.grid x1=(px(x(tick))) x2=(px(x(tick))) y1="0" y2=(px(height)) {}
                @let at_end = x(tick) > WIDTH - 24.0;
                text.tick x=(px(if at_end { WIDTH - 2.0 } else { x(tick) })) y=(px(height + 13.0))
                    text-anchor=(if at_end { "end" } else { "middle" }) { (units::micros(tick as u64)) }
            }
            @for (heading, row, client) in &clients {
                @let begin = top + heading_height(heading);
                @if let Some(heading) = heading { text.heading x="4" y=(px(begin - 4.0)) { (heading) } }
                text.label x="4" y=(px(begin + 14.0)) { (row.label()) }
                @for (i, (name, times)) in lines(client).into_iter().enumerate() {
                    @let middle = begin + LABEL + (i as f64 + 0.5) * LINE;
                    text.tick x="4" y=(px(middle + 4.0)) { (name) }
                    @if let Some(times) = times { (percentiles(row, name, &times, middle, &x)) }
                }
                ({ top = begin + block; "" })
            }
        }
    })
}

fn percentiles(row: &Row<'_>, name: &str, times: &Percentiles, y: f64, x: &dyn Fn(f64) -> f64) -> Markup {
    let at = |us: u64| x(us as f64);
    let class = format!("s-{}", row.strategy.name());
    html! {
        g {
            title {
                (row.label()) ", " (name) ": half of the requests up to " (units::micros(times.p50)) ", 99 % up to " (units::micros(times.p99))
                ", 99.9 % up to " (units::micros(times.p999)) ", the longest " (units::micros(times.max))
            }
            line class=(format!("whisker {class}")) x1=(px(at(times.p99))) x2=(px(at(times.p999))) y1=(px(y)) y2=(px(y)) {}
            rect class=(format!("{class} pale")) x=(px(at(times.p50))) width=(px((at(times.p99) - at(times.p50)).max(1.0)))
                y=(px(y - 5.0)) height="10" rx="2" {}
            line.median x1=(px(at(times.p50))) x2=(px(at(times.p50))) y1=(px(y - 6.0)) y2=(px(y + 6.0)) {}
            circle.dot cx=(px(at(times.max))) cy=(px(y)) r="3" {}
        }
    }
}

/// The table beside it; nothing where no run had a client.
pub fn table(summary: &Summary<'_>) -> Option<Markup> {
    let clients = clients(summary);
    if clients.is_empty() {
        return None;
    }
    let names = [
        "Strategy",
        "p50 before",
        "p50 during",
        "p99 before",
        "p99 during",
        "Throughput during",
        "p99, × before",
        "Back after",
        "Requests lost",
        "Sent again",
        "Broken",
        "Wrong",
    ];
    Some(html! {
        div.scroll {
            table.summary {
                thead { tr { @for name in names { th scope="col" { (name) } } } }
                tbody {
                    @for (heading, row, client) in &clients {
                        @if let Some(heading) = heading { tr.group { th colspan=(names.len()) { (heading) } } }
                        tr { @for (name, cell) in names.into_iter().zip(cells(row, client)) {
                            td data-label=(name) { span { (cell) } }
                        } }
                    }
                }
            }
        }
    })
}

fn cells(row: &Row<'_>, client: &Client) -> [String; 12] {
    let none = || "–".to_owned();
    let time = |times: Option<Percentiles>, of: fn(&Percentiles) -> u64| {
        times.as_ref().map_or_else(none, |times| units::micros(of(times)))
    };
    let tenths = |spread: Option<Spread>, unit: &str, by: f64| {
        spread.map_or_else(none, |spread| format!("{}{unit}", units::digits(spread.median as f64 / by)))
    };
    let (times, sums) = (&client.response, &client.sums);
    [
        row.label(),
        time(times.before, |times| times.p50),
        time(times.during, |times| times.p50),
        time(times.before, |times| times.p99),
        time(times.during, |times| times.p99),
        tenths(client.throughput_permille, " %", 10.0),
        tenths(client.p99_permille, "", 1_000.0),
        recovery(client),
        format!("{} of {}", units::count(sums.lost), units::count(sums.sent)),
        units::count(sums.retransmitted),
        units::count(sums.reset),
        units::count(sums.wrong),
    ]
}

fn recovery(client: &Client) -> String {
    let back = client.recovery.map(|spread| units::micros(spread.median));
    match (back, client.not_recovered) {
        (Some(back), 0) => back,
        (Some(back), not) => format!("{back}; not in {not} of {} runs", client.sums.runs),
        (None, _) => "not in time".to_owned(),
    }
}

/// What the probe itself may have added.
pub fn probe_words(summary: &Summary<'_>) -> Option<String> {
    let late = clients(summary)
        .iter()
        .filter_map(|(.., client)| client.probe_late_p99)
        .map(|late| late.max)
        .max()?;
    Some(format!(
        "The probe itself sent 99 % of its requests at most {} late, in the worst run: so much of a response time may be \
         its own.",
        units::micros(late)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{fixture, fixture_with_client};

    #[test]
    fn there_is_a_line_for_before_during_and_after() {
        let (results, _) = fixture_with_client();
        let summary = Summary::of(&results);
        let picture = draw(&summary).unwrap().into_string();
        assert_eq!(picture.matches("half of the requests").count(), 9);
        assert!(!picture.contains("NaN"));
        let table = table(&summary).unwrap().into_string();
        assert!(table.contains("Throughput during") && table.contains("post-copy"), "{table}");
        assert!(probe_words(&summary).unwrap().contains("late"));
    }

    #[test]
    fn without_a_client_there_is_neither() {
        let results = fixture();
        let summary = Summary::of(&results);
        assert!(draw(&summary).is_none() && table(&summary).is_none() && probe_words(&summary).is_none());
    }

    #[test]
    fn what_never_came_back_is_said() {
        let (mut results, _) = fixture_with_client();
        for run in &mut results.runs {
            run.client.as_mut().unwrap().recovery_us = None;
        }
        assert!(table(&Summary::of(&results)).unwrap().into_string().contains("not in time"));
    }
}
