//! Frames that tell the network where a guest is now.

use std::net::Ipv4Addr;

use super::mac::MacAddress;
use super::tap::VNET_HEADER_BYTES;

/// The shortest Ethernet frame, without its checksum.
const MIN_FRAME_BYTES: usize = 60;
const BROADCAST: [u8; 6] = [0xff; 6];

/// A frame with the header a tap wants before it.
pub(super) type Announcement = [u8; VNET_HEADER_BYTES + MIN_FRAME_BYTES];

/// Gratuitous ARP (RFC 5227, 3): "I am `address`", to all.
pub(super) fn arp(mac: MacAddress, address: Ipv4Addr) -> Announcement {
    frame(mac, 0x0806, 1, address, [0; 6], address)
}

/// RARP (RFC 903): a request for one's own address, which switches learn from and nobody answers.
pub(super) fn rarp(mac: MacAddress) -> Announcement {
    frame(mac, 0x8035, 3, Ipv4Addr::UNSPECIFIED, mac.0, Ipv4Addr::UNSPECIFIED)
}

fn frame(
    mac: MacAddress,
    kind: u16,
    operation: u16,
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
) -> Announcement {
    let parts: [&[u8]; 9] = [
        &BROADCAST,
        &mac.0,
        &kind.to_be_bytes(),
        // Ethernet, IPv4, 6 and 4 bytes of address.
        &[0, 1, 8, 0, 6, 4],
        &operation.to_be_bytes(),
        &mac.0,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    ];
    let mut frame = [0; VNET_HEADER_BYTES + MIN_FRAME_BYTES];
    let mut at = VNET_HEADER_BYTES;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_say_what_they_should() {
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let arp = arp(mac, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(
            &arp[12..34],
            b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01"
        );
        assert_eq!(&arp[34..54], b"\x02\0\0\0\0\x01\x0a\0\0\x02\0\0\0\0\0\0\x0a\0\0\x02");
        let rarp = rarp(mac);
        assert_eq!(&rarp[24..34], b"\x80\x35\0\x01\x08\0\x06\x04\0\x03");
        assert_eq!(&rarp[34..54], b"\x02\0\0\0\0\x01\0\0\0\0\x02\0\0\0\0\x01\0\0\0\0");
    }
}
