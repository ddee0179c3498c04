//! The guest's IPv4 address, learned from the frames it sends.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mac::MacAddress;

/// Bytes of a frame that are looked at: Ethernet header and ARP for IPv4.
pub(super) const LOOKED_AT_BYTES: usize = 14 + 28;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// Ethernet, IPv4, 6 and 4 bytes of address (RFC 826).
const ARP_FOR_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The address, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct GuestAddress {
    /// Zero while it is not.
    bits: AtomicU32,
}

impl GuestAddress {
    pub(super) fn get(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from_bits(self.bits.load(Ordering::Relaxed)))
            .filter(|address| !address.is_unspecified())
    }

    pub(super) fn set(&self, address: Option<Ipv4Addr>) {
        self.bits.store(address.map_or(0, Ipv4Addr::to_bits), Ordering::Relaxed);
    }

    /// Looks at a frame that the guest with `mac` sends. What it says of itself by ARP counts; what it sends by IPv4 only
    /// while nothing else is known, since a guest may forward packets of others.
    pub(super) fn learn(&self, mac: MacAddress, frame: &[u8]) {
        let Some((&[.., s0, s1, s2, s3, s4, s5, t0, t1], rest)) = frame.split_first_chunk::<14>() else {
            return;
        };
        if [s0, s1, s2, s3, s4, s5] != mac.0 {
            return;
        }
        let said = match ([t0, t1], rest) {
            (ARP, rest) if rest.len() >= 28 && rest.starts_with(&ARP_FOR_IPV4) && rest[8..14] == mac.0 => {
                rest[14..].first_chunk()
            }
            (IPV4, rest) if rest.len() >= 16 && rest[0] >> 4 == 4 && self.get().is_none() => {
                rest[12..].first_chunk()
            }
            _ => None,
        };
        let Some(address) = said.copied().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes)) else { return };
        if !(address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_loopback())
        {
            self.set(Some(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn frame(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &MAC.0, &kind, payload].concat()
    }

    fn arp(sender: [u8; 4]) -> Vec<u8> {
        frame(ARP, &[&ARP_FOR_IPV4[..], &[0, 1], &MAC.0, &sender, &[0; 10]].concat())
    }

    fn ipv4(source: [u8; 4]) -> Vec<u8> {
        frame(IPV4, &[&[0x45; 12][..], &source, &[10, 0, 0, 9]].concat())
    }

    #[test]
    fn arp_says_and_ipv4_hints() {
        let address = GuestAddress::default();
        let says = |frame: &[u8]| {
            address.learn(MAC, frame);
            address.get().map(|address| address.octets())
        };
        assert_eq!(says(&arp([0; 4])), None, "a probe says nothing");
        assert_eq!(says(&ipv4([255; 4])), None);
        assert_eq!(says(&ipv4([10, 0, 0, 2])), Some([10, 0, 0, 2]));
        assert_eq!(says(&ipv4([10, 0, 0, 3])), Some([10, 0, 0, 2]));
        assert_eq!(says(&arp([10, 0, 0, 4])), Some([10, 0, 0, 4]));
        let mut foreign = arp([10, 0, 0, 5]);
        foreign[11] = 9;
        assert_eq!(says(&foreign), Some([10, 0, 0, 4]));
        for length in 0..arp([10, 0, 0, 6]).len() {
            assert_eq!(says(&arp([10, 0, 0, 6])[..length]), Some([10, 0, 0, 4]), "{length} bytes");
        }
    }
}
