//! Horizontal bars: they take labels of any length, rows of any number, and a phone's width.

use maud::{Markup, html};

use super::scale::Scale;

/// Drawn at this width; a page may show it somewhat wider or narrower.
pub const WIDTH: f64 = 380.0;
const BAR: f64 = 11.0;
const LABEL: f64 = 17.0;
/// Room for the names of bars, and for what they say.
const NAMES: (f64, f64) = (44.0, 54.0);

/// A chart of bars.
#[derive(Debug)]
pub struct Bars {
    /// One block for each arm, with a heading where another guest begins.
    pub blocks: Vec<Block>,
    /// How to write a value on the axis.
    pub tick: fn(u64) -> String,
    /// What the picture says, for those who cannot see it.
    pub describes: String,
    /// Bars have names and say their values: room for that is left beside them.
    pub named: bool,
}

/// One label with its bars.
#[derive(Debug)]
pub struct Block {
    /// Above it, if this is the first of a kind.
    pub heading: Option<String>,
    /// What the bars are of.
    pub label: String,
    /// Their values in words, at the other end of the label's line.
    pub says: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug)]
pub struct Bar {
    /// Its length.
    pub value: u64,
    /// Classes for its colour.
    pub class: String,
    /// What it says when pointed at.
    pub title: String,
    /// Single runs, over it: value and what it says.
    pub dots: Vec<(u64, String)>,
    /// A mark to compare with, if there is one.
    pub mark: Option<(u64, String)>,
    /// What stands before it and behind it, if its chart has names.
    pub name: Option<(&'static str, String)>,
}

impl Block {
    fn height(&self) -> f64 {
        let heading = if self.heading.is_some() { LABEL + 8.0 } else { 0.0 };
        heading + LABEL + self.bars.len() as f64 * (BAR + 3.0) + 8.0
    }
}

impl Bars {
    /// The scale that fits all that is drawn.
    pub fn scale(&self) -> Scale {
        let bars = self.blocks.iter().flat_map(|block| &block.bars);
        let values = bars.flat_map(|bar| {
            let dots = bar.dots.iter().map(|dot| dot.0);
            std::iter::once(bar.value).chain(dots).chain(bar.mark.iter().map(|mark| mark.0))
        });
        Scale::fit(values)
    }

    /// The picture.
    pub fn draw(&self) -> Markup {
        let scale = self.scale();
        let (before, behind) = if self.named { NAMES } else { (0.0, 0.0) };
        let from = 4.0 + before;
        let x = |value: f64| from + scale.place(value) * (WIDTH - 22.0 - before - behind);
        let height: f64 = self.blocks.iter().map(Block::height).sum();
        let mut top = 0.0;
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {:.0}", height + 18.0)) role="img" aria-label=(self.describes) {
                @for tick in scale.ticks() {
                    line.grid x1=(px(x(tick))) x2=(px(x(tick))) y1="0" y2=(px(height)) {}
                    (self.tick_label(x(tick), height + 13.0, tick))
                }
                @for block in &self.blocks {
                    @let begin = top;
                    ({ top += block.height(); block.draw(begin, from, &x) })
                }
            }
        }
    }

    fn tick_label(&self, x: f64, y: f64, tick: f64) -> Markup {
        let (anchor, x) = match x {
            left if left < 16.0 => ("start", left - 2.0),
            right if right > WIDTH - 24.0 => ("end", WIDTH - 2.0),
            x => ("middle", x),
        };
        html! { text.tick x=(px(x)) y=(px(y)) text-anchor=(anchor) { ((self.tick)(tick as u64)) } }
    }
}

impl Block {
    fn draw(&self, begin: f64, from: f64, x: &dyn Fn(f64) -> f64) -> Markup {
        let heading = if self.heading.is_some() { LABEL + 8.0 } else { 0.0 };
        let label = begin + heading;
        html! {
            @if let Some(heading) = &self.heading {
                text.heading x="4" y=(px(begin + LABEL)) { (heading) }
            }
            text.label x="4" y=(px(label + 13.0)) { (self.label) }
            text.value x=(px(WIDTH - 4.0)) y=(px(label + 13.0)) text-anchor="end" { (self.says) }
            @for (i, bar) in self.bars.iter().enumerate() {
                (bar.draw(label + LABEL + i as f64 * (BAR + 3.0), from, x))
            }
        }
    }
}

impl Bar {
    fn draw(&self, y: f64, from: f64, x: &dyn Fn(f64) -> f64) -> Markup {
        html! {
            @if let Some((name, says)) = &self.name {
                text.tick x="4" y=(px(y + BAR - 1.5)) { (name) }
                text.value x=(px(WIDTH - 4.0)) y=(px(y + BAR - 1.5)) text-anchor="end" { (says) }
            }
            rect class=(self.class) x=(px(from)) y=(px(y)) height=(px(BAR)) rx="2"
                width=(px((x(self.value as f64) - from).max(1.0))) { title { (self.title) } }
            @if let Some((value, title)) = &self.mark {
                @let at = px(x(*value as f64));
                line.mark x1=(at) x2=(at) y1=(px(y - 2.0)) y2=(px(y + BAR + 2.0)) { title { (title) } }
            }
            @for (value, title) in &self.dots {
                circle.dot cx=(px(x(*value as f64))) cy=(px(y + BAR / 2.0)) r="3" { title { (title) } }
            }
        }
    }
}

/// A position, to a tenth of a pixel.
pub fn px(value: f64) -> String {
    format!("{value:.1}")
}
