//! Quantities, as they are typed and as they are shown.

use std::time::Duration;

use crate::statistics::Spread;

/// Reads a size of memory: `512MiB`, `4GiB`, `65536`.
///
/// # Errors
/// In words, for the command line.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("{text:?} is no size: write 65536, 64KiB, 512MiB or 4GiB")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is no size: write 512MiB or 4GiB"))?;
    count.checked_mul(unit).ok_or_else(|| format!("{text:?} is more than there can be"))
}

/// Reads a duration: `50ms`, `2s`, `800us`.
///
/// # Errors
/// In words, for the command line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let wrong = || format!("{text:?} is no duration: write 800us, 50ms or 2s");
    let count: u32 = digits.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "us" | "µs" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => return Err(wrong()),
    };
    unit.checked_mul(count).ok_or_else(wrong)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Microseconds in three significant digits, in the unit that fits: `843 µs`, `1.27 ms`, `2.05 s`.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", digits(us as f64 / 1e3)),
        _ => format!("{} s", digits(us as f64 / 1e6)),
    }
}

/// As [`micros`], before or after something: `−1.27 ms`, `0`, `+843 µs`.
pub fn signed_micros(us: i64) -> String {
    match us {
        0 => "0".to_owned(),
        us if us < 0 => format!("−{}", micros(us.unsigned_abs())),
        us => format!("+{}", micros(us.unsigned_abs())),
    }
}

/// From where to where a value went, to stand under its median: in the median's unit, which is not said again.
pub fn micros_range(spread: &Spread) -> String {
    let unit = unit_of(spread.median);
    format!("{}–{}", digits(spread.min as f64 / unit), digits(spread.max as f64 / unit))
}

/// Two values in the unit that fits the second, which is said once: `80 / 126 µs`, `0.8 / 2.11 ms`.
pub fn micros_pair(first: u64, second: u64) -> String {
    format!("{} / {}", digits(first as f64 / unit_of(second)), micros(second))
}

/// How many microseconds the unit has that fits.
fn unit_of(us: u64) -> f64 {
    match us {
        0..1_000 => 1.0,
        1_000..1_000_000 => 1e3,
        _ => 1e6,
    }
}

/// Bytes in binary units: `512 MiB`, `4.25 MiB`.
pub fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c < 1024.0 => format!("{c} B"),
        c if c < 1_048_576.0 => format!("{} KiB", digits(c / 1024.0)),
        c if c < 1_073_741_824.0 => format!("{} MiB", digits(c / 1_048_576.0)),
        c => format!("{} GiB", digits(c / 1_073_741_824.0)),
    }
}

/// A speed in decimal units, as links are rated: `3.85 GB/s`.
pub fn speed(bytes_per_second: u64) -> String {
    let speed = bytes_per_second as f64;
    match bytes_per_second {
        0..1_000_000 => format!("{} kB/s", digits(speed / 1e3)),
        1_000_000..1_000_000_000 => format!("{} MB/s", digits(speed / 1e6)),
        _ => format!("{} GB/s", digits(speed / 1e9)),
    }
}

/// A count with thin gaps between thousands: `131 072`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits, without zeros that say nothing.
pub fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("12MB").is_err());
        assert!(parse_bytes("MiB").is_err());
        assert!(parse_bytes("99999999999GiB").is_err());
        assert_eq!(parse_duration("50ms"), Ok(Duration::from_millis(50)));
        assert!(parse_duration("50").is_err());
    }

    #[test]
    fn quantities_have_three_digits_and_a_unit() {
        assert_eq!([micros(843), micros(1_266), micros(150_400)], ["843 µs", "1.27 ms", "150 ms"]);
        assert_eq!([signed_micros(-1_266), signed_micros(0), signed_micros(20)], ["−1.27 ms", "0", "+20 µs"]);
        assert_eq!(micros_range(&Spread { min: 1_100, median: 1_200, max: 1_900 }), "1.1–1.9");
        assert_eq!(micros_range(&Spread { min: 900, median: 1_200, max: 19_000 }), "0.9–19");
        assert_eq!([micros_pair(80, 126), micros_pair(795, 2_110)], ["80 / 126 µs", "0.8 / 2.11 ms"]);
        assert_eq!([bytes(512 << 20), bytes(1_500)], ["512 MiB", "1.46 KiB"]);
        assert_eq!(speed(3_849_000_000), "3.85 GB/s");
        assert_eq!(count(131_072), "131\u{202f}072");
        assert_eq!(digits(100.0), "100");
    }
}
