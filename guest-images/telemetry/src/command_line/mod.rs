//! The guest's command line: `pulse key=value …`, built and validated by the host with the parser the guest uses.
//!
//! ```text
//! pulse fill=random fill-bytes=512MiB working-set=64MiB dirty-rate=10000 pattern=random idle=spin seed=1 vcpus=2
//!       net=10.0.2.15/24,gw=10.0.2.2 virtio_mmio.device=4K@0xd0000000:16
//! ```
//! `virtio_mmio.device=` comes from the machine: a VMM appends one for each of its devices, as it does for Linux.

use core::fmt;

mod network;

pub use network::{Network, VirtioWindow, VirtioWindows};

use crate::layout::MAX_VCPUS;
use crate::oracle::{Fill, Pattern};

/// How fast the working set is rewritten, over all vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DirtyRate {
    /// Pages per second; 0 leaves the guest idle.
    PagesPerSecond(u64),
    /// As fast as the vCPUs can.
    Max,
}

/// What a vCPU does while nothing is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Idle {
    /// Reads the TSC without pause: the honest measure of a gap.
    #[default]
    Spin,
    /// HLT until the next tick of a timer: 1 kHz, or 250 Hz for a guest that writes nothing.
    Halt,
}

/// Everything a guest can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandLine {
    /// Content of memory (`fill=random|zeros|text`).
    pub fill: Fill,
    /// How much of memory to fill (`fill-bytes=512MiB`); all of it by default. The rest stays zero.
    pub fill_bytes: Option<u64>,
    /// Memory that writers rewrite (`working-set=64MiB`); cut to what the guest has.
    pub working_set_bytes: u64,
    /// Writers' speed (`dirty-rate=10000|max`).
    pub dirty_rate: DirtyRate,
    /// Writers' order (`pattern=sequential|random|hot-cold`).
    pub pattern: Pattern,
    /// What is done in between (`idle=spin|halt`).
    pub idle: Idle,
    /// Seed of all content (`seed=1`).
    pub seed: u64,
    /// vCPUs, with APIC ids from 0 (`vcpus=1`).
    pub vcpus: u64,
    /// TSC frequency (`tsc-khz=`), for machines that do not tell it.
    pub tsc_khz: Option<u64>,
    /// Gaps from this on are kept one by one (`gap-threshold-us=50`).
    pub gap_threshold_us: u64,
    /// Seconds between checks the guest makes unasked (`check=`); 0 for none.
    pub check_seconds: u64,
    /// The network service's address (`net=10.0.2.15/24,gw=10.0.2.2`); without one, network devices are left alone.
    pub network: Option<Network>,
    /// The machine's virtio-mmio devices (`virtio_mmio.device=4K@0xd0000000:16`, once for each).
    pub virtio: VirtioWindows,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self {
            fill: Fill::Random,
            fill_bytes: None,
            working_set_bytes: 64 << 20,
            dirty_rate: DirtyRate::PagesPerSecond(10_000),
            pattern: Pattern::Random,
            idle: Idle::Spin,
            seed: 1,
            vcpus: 1,
            tsc_khz: None,
            gap_threshold_us: 50,
            check_seconds: 0,
            network: None,
            virtio: VirtioWindows::default(),
        }
    }
}

/// Why a command line was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError<'a> {
    /// A key the guest does not know.
    UnknownKey(&'a str),
    /// A value that is none of the key's.
    BadValue {
        /// The key.
        key: &'a str,
        /// The value.
        value: &'a str,
        /// What was expected.
        expected: &'static str,
    },
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(word) => write!(f, "unknown guest option `{word}`"),
            Self::BadValue { key, value, expected } => write!(f, "`{key}={value}`: expected {expected}"),
        }
    }
}

impl core::error::Error for ParseError<'_> {}

impl CommandLine {
    /// Parses a command line; words not given keep their defaults. A first word without `=` is the guest's name.
    ///
    /// # Errors
    /// On the first unknown key or bad value.
    pub fn parse(text: &str) -> Result<Self, ParseError<'_>> {
        Self::parse_words(text, false)
    }

    /// The same, but ignores unknown keys: machines append words that are meant for Linux.
    ///
    /// # Errors
    /// On the first bad value of a known key.
    pub fn parse_lenient(text: &str) -> Result<Self, ParseError<'_>> {
        Self::parse_words(text, true)
    }

    fn parse_words(text: &str, lenient: bool) -> Result<Self, ParseError<'_>> {
        let mut line = Self::default();
        for (i, word) in text.split_ascii_whitespace().enumerate() {
            let known = match word.split_once('=') {
                Some((key, value)) => {
                    line.set(key, value).map_err(|expected| ParseError::BadValue { key, value, expected })?
                }
                None => i == 0,
            };
            if !known && !lenient {
                return Err(ParseError::UnknownKey(word));
            }
        }
        Ok(line)
    }

    /// Sets one option by name; says whether there is such a key.
    ///
    /// # Errors
    /// What was expected instead of this value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, &'static str> {
        match key {
            "fill" => self.fill = value.parse().map_err(|()| "zeros, random or text")?,
            "fill-bytes" => self.fill_bytes = Some(bytes(value)?),
            "working-set" => self.working_set_bytes = bytes(value)?,
            "dirty-rate" if value == "max" => self.dirty_rate = DirtyRate::Max,
            "dirty-rate" => {
                let rate = number(value, 0..=1_000_000_000).ok_or("pages per second, or max")?;
                self.dirty_rate = DirtyRate::PagesPerSecond(rate);
            }
            "pattern" => {
                self.pattern = value.parse().map_err(|()| "sequential, random or hot-cold")?;
            }
            "idle" => {
                self.idle = match value {
                    "spin" => Idle::Spin,
                    "halt" => Idle::Halt,
                    _ => return Err("spin or halt"),
                }
            }
            "seed" => self.seed = number(value, 0..=u64::MAX).ok_or("a number")?,
            "vcpus" => self.vcpus = number(value, 1..=MAX_VCPUS as u64).ok_or("1 to 16")?,
            "tsc-khz" => {
                self.tsc_khz = Some(number(value, 1..=100_000_000).ok_or("a frequency in kHz")?);
            }
            "gap-threshold-us" => {
                self.gap_threshold_us = number(value, 2..=10_000_000).ok_or("microseconds, from 2")?;
            }
            "check" => self.check_seconds = number(value, 0..=86_400).ok_or("seconds")?,
            "net" => self.network = Some(value.parse().map_err(|()| network::NETWORK)?),
            "virtio_mmio.device" => {
                let window = value.parse().map_err(|()| network::WINDOW)?;
                self.virtio.push(window).then_some(()).ok_or(network::WINDOWS)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The command line as text: what [`CommandLine::parse`] reads.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pulse fill={}", self.fill)?;
        if let Some(bytes) = self.fill_bytes {
            write!(f, " fill-bytes={bytes}")?;
        }
        write!(f, " working-set={}", self.working_set_bytes)?;
        match self.dirty_rate {
            DirtyRate::PagesPerSecond(rate) => write!(f, " dirty-rate={rate}")?,
            DirtyRate::Max => f.write_str(" dirty-rate=max")?,
        }
        let idle = match self.idle {
            Idle::Spin => "spin",
            Idle::Halt => "halt",
        };
        write!(f, " pattern={} idle={idle} seed={} vcpus={}", self.pattern, self.seed, self.vcpus)?;
        if let Some(khz) = self.tsc_khz {
            write!(f, " tsc-khz={khz}")?;
        }
        write!(f, " gap-threshold-us={}", self.gap_threshold_us)?;
        if self.check_seconds > 0 {
            write!(f, " check={}", self.check_seconds)?;
        }
        if let Some(network) = &self.network {
            write!(f, " net={network}")?;
        }
        self.virtio.iter().try_for_each(|window| write!(f, " virtio_mmio.device={window}"))
    }
}

fn number(text: &str, range: core::ops::RangeInclusive<u64>) -> Option<u64> {
    text.parse().ok().filter(|number| range.contains(number))
}

/// A size: bytes, or with a binary unit.
fn bytes(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "a size as 4096, 64KiB, 512MiB or 4GiB";
    let (digits, unit) = if let Some(digits) = text.strip_suffix("KiB") {
        (digits, 1 << 10)
    } else if let Some(digits) = text.strip_suffix("MiB") {
        (digits, 1 << 20)
    } else if let Some(digits) = text.strip_suffix("GiB") {
        (digits, 1 << 30)
    } else {
        (text, 1u64)
    };
    let count: u64 = digits.parse().map_err(|_| EXPECTED)?;
    count.checked_mul(unit).ok_or(EXPECTED)
}

#[cfg(test)]
mod tests;
