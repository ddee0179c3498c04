//! Markers: strategies are told apart by shape, too.

use maud::{Markup, html};

use crate::summary::Row;

/// A shape for each strategy, so that nobody needs colours.
pub fn marker(row: &Row<'_>, x: f64, y: f64) -> String {
    match row.strategy.name() {
        "stop-and-copy" => format!("M{:.1} {:.1}h7v7h-7z", x - 3.5, y - 3.5),
        "pre-copy" => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", x - 4.0),
        "post-copy" => format!("M{x:.1} {:.1}l4.5 8h-9z", y - 5.0),
        _ => format!("M{x:.1} {:.1}l4.5 5l-4.5 5l-4.5-5z", y - 5.0),
    }
}

/// A piece of the line, for the legend.
pub fn sample(row: &Row<'_>) -> Markup {
    let class = format!("s-{}", row.strategy.name());
    html! {
        svg.sample viewBox="0 0 22 12" aria-hidden="true" {
            line class=(format!("{} {class}", if row.is_ours() { "curve" } else { "curve dashed" })) x1="0" x2="22" y1="6" y2="6" {}
            path class=(class) d=(marker(row, 11.0, 6.0)) {}
        }
    }
}
