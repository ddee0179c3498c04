//! Sizes, bandwidths and durations as they are typed; those shown are `crate::shown`'s.

use std::time::Duration;

pub use crate::shown::{show_bandwidth, show_bytes, show_count, show_micros};
use engine::transport::MIN_PEER_TIMEOUT;

/// `512MiB`, `4GiB`, `512M`: memory is binary, whichever way it is written.
pub fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("write a size as 512MiB or 4GiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a size as 512MiB or 4GiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than any machine has".to_owned())
}

/// `1Gbit`, `100M`: bits a second, in powers of ten.
pub fn bandwidth(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "write bits a second as 1Gbit or 100Mbit";
    let (number, unit) = split(text);
    let unit = unit.to_ascii_lowercase();
    let unit = unit.trim_end_matches("/s").trim_end_matches("bit");
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let bits = number * factor;
    if (1.0..1e18).contains(&bits) { Ok(bits as u64) } else { Err(EXPECTED.to_owned()) }
}

/// `50ms`, `1.5s`, `60s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "write a time as 50ms, 300us or 60s".to_owned();
    let (number, unit) = split(text);
    if let (Ok(number), Some(seconds)) = (number.parse::<f64>(), seconds_of(unit)) {
        return Duration::try_from_secs_f64(number * seconds).map_err(|_| expected());
    }
    humantime::parse_duration(text).map_err(|_| expected())
}

/// A [`duration`] in which something can happen.
pub fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => {
            Err("nothing can be done in no time: write a time as 50ms, 300us or 60s".to_owned())
        }
        time => Ok(time),
    }
}

/// How many rounds pre-copy may make.
pub fn rounds(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => {
            Err("pre-copy without rounds is stop-and-copy: ask for that strategy, or for 1 at least"
                .to_owned())
        }
        Ok(rounds) => Ok(rounds),
        Err(_) => Err("write a number, as 30".to_owned()),
    }
}

/// A [`duration`] that the kernel can wait for a peer.
pub fn peer_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    match timeout >= MIN_PEER_TIMEOUT {
        true => Ok(timeout),
        false => Err("write a second at least, as 15s".to_owned()),
    }
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        _ => return None,
    })
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_understood() {
        assert_eq!(memory("512MiB"), Ok(512 << 20));
        assert_eq!(memory("4G"), Ok(4 << 30));
        assert_eq!(memory("4096"), Ok(4096));
        assert!(memory("4Gbit").is_err() && memory("").is_err() && memory("99999999TiB").is_err());
        assert_eq!(bandwidth("1Gbit"), Ok(1_000_000_000));
        assert_eq!(bandwidth("2.5Mbit/s"), Ok(2_500_000));
        assert_eq!(bandwidth("800"), Ok(800));
        assert!(bandwidth("0").is_err() && bandwidth("fast").is_err() && bandwidth("1MiB").is_err());
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1min"), Ok(Duration::from_secs(60)));
        assert!(duration("50").is_err() && duration("-1s").is_err());
        assert_eq!((some_time("2ms"), rounds("30")), (Ok(Duration::from_millis(2)), Ok(30)));
        assert!(some_time("0s").is_err() && rounds("0").is_err() && rounds("many").is_err());
    }
}
