//! How fast and how far the link for migrations is: queueing disciplines on its ends.
//!
//! Bandwidth is a token bucket (tbf), delay is netem with the bucket below it. Their parameters are structures of
//! `linux/pkt_sched.h`, which netlink-packet-route does not know.

use std::{fmt, io, str::FromStr, time::Duration};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, Nla, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};
use serde::{Deserialize, Serialize};

use super::{NetworkConfig, NetworkError, netlink::Netlink};

/// Bits a second on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Bandwidth {
    bits_per_second: u64,
}

impl Bandwidth {
    /// Below it a migration takes longer than anybody waits, and the shaper's arithmetic is coarse.
    const LEAST: u64 = 1_000_000;
    /// Above it no kernel shapes what it says.
    const MOST: u64 = 100_000_000_000;

    /// In bits a second.
    pub fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }

    fn bytes_per_second(self) -> u64 {
        self.bits_per_second / 8
    }

    /// What may be sent at once: a millisecond's worth, and a few frames at least. Large enough for the kernel's own
    /// large segments at 1 Gbit/s and above, small enough that a switchover does not fit into it below.
    fn burst_bytes(self) -> u32 {
        (self.bytes_per_second() / 1_000).max(16 << 10) as u32
    }

    /// What may wait: a twentieth of a second's worth, so that a sender is slowed down and not robbed of frames.
    fn queue_bytes(self) -> u32 {
        (self.bytes_per_second() / 20).clamp(1 << 20, 1 << 30) as u32
    }
}

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Bandwidth, String> {
        let wrong = || format!("{text:?} is no bandwidth: write 100Mbit, 1Gbit or 10Gbit");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let unit: u64 = match unit {
            "bit" => 1,
            "kbit" | "Kbit" => 1_000,
            "Mbit" => 1_000_000,
            "Gbit" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        Bandwidth::try_from(count.saturating_mul(unit))
            .map_err(|_| format!("{text:?} cannot be shaped: from 1Mbit to 100Gbit can"))
    }
}

impl TryFrom<u64> for Bandwidth {
    type Error = String;

    /// From bits a second.
    fn try_from(bits_per_second: u64) -> Result<Bandwidth, String> {
        match bits_per_second {
            Bandwidth::LEAST..=Bandwidth::MOST => Ok(Bandwidth { bits_per_second }),
            _ => Err(format!("{bits_per_second} bits a second cannot be shaped: from 1Mbit to 100Gbit can")),
        }
    }
}

impl From<Bandwidth> for u64 {
    fn from(bandwidth: Bandwidth) -> u64 {
        bandwidth.bits_per_second
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits_per_second {
            bits if bits.is_multiple_of(1_000_000_000) => write!(f, "{}Gbit", bits / 1_000_000_000),
            bits if bits.is_multiple_of(1_000_000) => write!(f, "{}Mbit", bits / 1_000_000),
            bits if bits.is_multiple_of(1_000) => write!(f, "{}kbit", bits / 1_000),
            bits => write!(f, "{bits}bit"),
        }
    }
}

/// What the kernel says about one direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second, if they are limited.
    pub bytes_per_second: Option<u64>,
    /// How long frames are on the way.
    pub delay: Duration,
}

/// Shapes what leaves by an interface.
///
/// # Errors
/// If the kernel has no such discipline.
pub fn apply(name: &str, config: &NetworkConfig) -> Result<(), NetworkError> {
    let mut parent = TcHandle::ROOT;
    if !config.delay.is_zero() {
        let handle = TcHandle { major: 1, minor: 0 };
        add(name, "netem", parent, handle, TcAttribute::Other(netem_options(config.delay)))?;
        parent = TcHandle { major: 1, minor: 1 };
    }
    if let Some(bandwidth) = config.bandwidth {
        add(name, "tbf", parent, TcHandle { major: 2, minor: 0 }, tbf_options(bandwidth))?;
    }
    Ok(())
}

fn add(
    name: &str,
    kind: &'static str,
    parent: TcHandle,
    handle: TcHandle,
    options: TcAttribute,
) -> Result<(), NetworkError> {
    let request = || {
        let netlink = Netlink::open()?;
        let mut message = TcMessage::with_index(netlink.index(name)? as i32);
        message.header.parent = parent;
        message.header.handle = handle;
        message.attributes = vec![TcAttribute::Kind(kind.to_owned()), options];
        netlink.request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
    };
    request().map_err(|error: io::Error| match (error.kind(), kind) {
        (io::ErrorKind::NotFound, "netem") => {
            NetworkError::NoDiscipline { kind, purpose: "delay a link", option: "the delay" }
        }
        (io::ErrorKind::NotFound, _) => {
            NetworkError::NoDiscipline { kind, purpose: "limit a link's bandwidth", option: "--link" }
        }
        _ => NetworkError::interface("shape", name)(error),
    })
}

const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// `struct tc_ratespec`
const RATESPEC_BYTES: usize = 12;
/// Of a ratespec: cell_log, linklayer, overhead, cell_align, mpu.
const RATE_AT: usize = 8;
/// The unit of times in packet schedulers: `PSCHED_TICKS2NS` shifts by 6.
const TICK_NANOSECONDS: u128 = 64;

fn tbf_options(bandwidth: Bandwidth) -> TcAttribute {
    let rate = bandwidth.bytes_per_second();
    // struct tc_tbf_qopt: rate, peakrate, limit, buffer, mtu; the last two are told by TCA_TBF_BURST.
    let mut parameters = [0; 2 * RATESPEC_BYTES + 12];
    parameters[1] = TC_LINKLAYER_ETHERNET;
    let rate32 = u32::try_from(rate).unwrap_or(u32::MAX);
    parameters[RATE_AT..RATE_AT + 4].copy_from_slice(&rate32.to_ne_bytes());
    parameters[2 * RATESPEC_BYTES..][..4].copy_from_slice(&bandwidth.queue_bytes().to_ne_bytes());
    let option = |kind, bytes: &[u8]| TcOption::Other(DefaultNla::new(kind, bytes.to_vec()));
    TcAttribute::Options(vec![
        option(TCA_TBF_PARMS, &parameters),
        option(TCA_TBF_RATE64, &rate.to_ne_bytes()),
        option(TCA_TBF_BURST, &bandwidth.burst_bytes().to_ne_bytes()),
    ])
}

/// `struct tc_netem_qopt`: latency, limit, loss, gap, duplicate, jitter. It is the attribute's value itself.
fn netem_options(delay: Duration) -> DefaultNla {
    /// Frames on the way: those of 100 Gbit/s and a tenth of a second.
    const LIMIT: u32 = 1_000_000;
    let ticks = u32::try_from(delay.as_nanos() / TICK_NANOSECONDS).unwrap_or(u32::MAX);
    let mut parameters = [0; 24];
    parameters[..4].copy_from_slice(&ticks.to_ne_bytes());
    parameters[4..8].copy_from_slice(&LIMIT.to_ne_bytes());
    DefaultNla::new(TCA_OPTIONS, parameters.to_vec())
}

/// How an interface is shaped.
///
/// # Errors
/// If there is no such interface, or the kernel's answer is not understood.
pub fn of(name: &str) -> Result<Shape, NetworkError> {
    let ask = || {
        let netlink = Netlink::open()?;
        let index = netlink.index(name)? as i32;
        Ok((index, netlink.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index)))?))
    };
    let (index, answers) = ask().map_err(NetworkError::interface("ask for the shape of", name))?;
    let mut shape = Shape::default();
    for answer in answers {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { continue };
        if message.header.index == index {
            note(&message, &mut shape).ok_or_else(|| NetworkError::Answer { name: name.to_owned() })?;
        }
    }
    Ok(shape)
}

/// Nothing if a discipline that is known is told in another form.
fn note(message: &TcMessage, shape: &mut Shape) -> Option<()> {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })?;
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    });
    let bytes = options.map(|option| {
        let mut bytes = vec![0; option.value_len()];
        option.emit_value(&mut bytes);
        bytes
    });
    match kind {
        "tbf" => {
            let bytes = bytes?;
            let attribute = |kind| NlasIterator::new(&bytes).flatten().find(|nla| nla.kind() == kind);
            let rate = match attribute(TCA_TBF_RATE64) {
                Some(rate) => u64::from_ne_bytes(rate.value().try_into().ok()?),
                None => u64::from(number(attribute(TCA_TBF_PARMS)?.value().get(RATE_AT..)?)?),
            };
            shape.bytes_per_second = Some(rate);
        }
        "netem" => {
            let ticks = u128::from(number(&bytes?)?);
            shape.delay = Duration::from_nanos((ticks * TICK_NANOSECONDS) as u64);
        }
        _ => {}
    }
    Some(())
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_read_and_nonsense_is_refused() {
        for text in ["1Mbit", "100Mbit", "1Gbit", "10Gbit", "2500kbit"] {
            let bandwidth: Bandwidth = text.parse().unwrap();
            assert_eq!(bandwidth.to_string(), text);
        }
        assert_eq!("10Gbit".parse::<Bandwidth>().unwrap().bytes_per_second(), 1_250_000_000);
        for text in
            ["", "fast", "10", "10GB", "0Mbit", "1bit", "99999999999999999999Gbit", "1000Gbit", "-1Gbit"]
        {
            assert!(text.parse::<Bandwidth>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_burst_is_a_millisecond_and_never_less_than_a_large_segment_above_a_gigabit() {
        let burst = |text: &str| text.parse::<Bandwidth>().unwrap().burst_bytes();
        assert_eq!([burst("100Mbit"), burst("1Gbit"), burst("10Gbit")], [16_384, 125_000, 1_250_000]);
    }
}
