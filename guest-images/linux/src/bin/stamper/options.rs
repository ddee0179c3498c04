//! What to write, and how fast.

use std::{num::NonZero, thread};

use telemetry::{Fill, PAGE_SIZE, Pattern};

/// Most threads.
const MAX_THREADS: u64 = 64;

/// The words after `stamper run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Memory, in pages, over all threads.
    pub pages: u64,
    /// Pages a second over all threads; `None`: as fast as they can.
    pub rate: Option<u64>,
    /// In which order.
    pub pattern: Pattern,
    /// With what.
    pub fill: Fill,
    /// How many threads, each pinned to a processor.
    pub threads: u64,
    /// Seed of all content.
    pub seed: u64,
}

impl Options {
    /// Words as in `rate=500`; each has a default.
    pub fn parse(words: &[&str]) -> Result<Options, String> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get) as u64;
        let (fill, pattern) = (Fill::Random, Pattern::Random);
        let mut options =
            Options { pages: 2048, rate: Some(500), pattern, fill, threads: processors, seed: 1 };
        for word in words {
            options.set(word).ok_or_else(|| format!("{word:?} is no option"))?;
        }
        if options.pages < options.threads {
            return Err(format!("{} threads want a page each at least", options.threads));
        }
        Ok(options)
    }

    fn set(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "working-set" => self.pages = bytes(value)? / PAGE_SIZE as u64,
            "rate" if value == "max" => self.rate = None,
            "rate" => self.rate = Some(value.parse().ok()?),
            "pattern" => self.pattern = value.parse().ok()?,
            "fill" => {
                // Memory of zeros that is written over and over proves nothing.
                self.fill = value.parse().ok().filter(|fill| *fill != Fill::Zeros)?;
            }
            "threads" => self.threads = value.parse().ok().filter(|n| (1..=MAX_THREADS).contains(n))?,
            "seed" => self.seed = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// `8MiB`
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let options =
            Options::parse(&["working-set=1MiB", "rate=max", "pattern=hot-cold", "threads=2"]).unwrap();
        assert_eq!((options.pages, options.rate, options.threads), (256, None, 2));
        assert_eq!(options.pattern, Pattern::HotCold);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for word in ["rate", "rate=x", "fill=zeros", "threads=0", "working-set=1XB", "size=1"] {
            assert!(Options::parse(&[word]).unwrap_err().contains(word));
        }
        assert!(Options::parse(&["working-set=0"]).unwrap_err().contains("a page each"));
    }
}
