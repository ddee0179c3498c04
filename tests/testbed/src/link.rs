//! What a link is like: delay, rate and loss of what leaves a host.

use std::{fmt, str::FromStr, time::Duration};

/// A link's qualities, in each direction. Without any it is as fast as the emulation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Bits a second; 0: not limited.
    pub bits_per_second: u64,
    /// Share of the frames that are lost, from 0 to 1.
    pub loss: f64,
}

/// Words that are no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no quality of a link: write delay=20ms, rate=100mbit or loss=1%")]
pub struct LinkError(String);

impl FromStr for Link {
    type Err = LinkError;

    /// `delay=20ms rate=100mbit loss=1%`, each at most once, in any order.
    fn from_str(words: &str) -> Result<Link, LinkError> {
        let mut link = Link::default();
        for word in words.split_whitespace() {
            link.set(word).ok_or_else(|| LinkError(word.to_owned()))?;
        }
        Ok(link)
    }
}

impl Link {
    fn set(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "delay" => {
                let (number, unit) = number_and_unit(value)?;
                let microseconds = number
                    * if unit == "ms" {
                        1e3
                    } else if unit == "us" {
                        1.0
                    } else {
                        return None;
                    };
                self.delay = Duration::from_micros(microseconds as u64);
            }
            "rate" => {
                let (number, unit) = number_and_unit(value)?;
                let bits = match unit {
                    "kbit" => 1e3,
                    "mbit" => 1e6,
                    "gbit" => 1e9,
                    _ => return None,
                };
                self.bits_per_second = (number * bits) as u64;
            }
            "loss" => {
                let percent: f64 = value.strip_suffix('%')?.parse().ok()?;
                self.loss = (0.0..=100.0).contains(&percent).then_some(percent / 100.0)?;
            }
            _ => return None,
        }
        Some(())
    }
}

fn number_and_unit(value: &str) -> Option<(f64, &str)> {
    let end = value.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = value[..end].parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number, &value[end..]))
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay={}us", self.delay.as_micros())?;
        if self.bits_per_second > 0 {
            write!(f, " rate={}kbit", self.bits_per_second / 1000)?;
        }
        write!(f, " loss={}%", self.loss * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_is_written() {
        let link: Link = "delay=20ms rate=100mbit loss=1%".parse().unwrap();
        assert_eq!(link, Link { delay: Duration::from_millis(20), bits_per_second: 100_000_000, loss: 0.01 });
        assert_eq!(link.to_string().parse(), Ok(link));
        assert_eq!("".parse(), Ok(Link::default()));
    }

    #[test]
    fn what_is_no_quality_is_named() {
        for word in
            ["delay=20", "delay=20s", "delay=-1ms", "rate=100", "loss=1", "loss=200%", "speed=1", "delay"]
        {
            let error = word.parse::<Link>().unwrap_err();
            assert!(error.to_string().contains(&format!("{word:?}")), "{error}");
        }
    }
}
