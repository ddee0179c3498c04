//! The kernel's network emulator on an interface's way out, by one netlink message (linux/pkt_sched.h, rtnetlink(7)).

use std::{fs, io};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};
use testbed::Link;

const RTM_NEWQDISC: u16 = 36;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_NETEM_RATE: u16 = 6;
const TCA_NETEM_RATE64: u16 = 8;
const TCA_NETEM_LATENCY64: u16 = 10;

/// Frames that are on their way at most: enough for a tenth of a second at a gigabit.
const LIMIT: u32 = 10_000;

/// Gives an interface these qualities in place of those it had.
pub fn shape(interface: &str, link: &Link) -> io::Result<()> {
    let index = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    let index: i32 = index.trim().parse().map_err(io::Error::other)?;
    // No protocol is NETLINK_ROUTE, and no address is the kernel.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&socket, &message(index, link), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // Header (16 bytes: length, type, …), then the error as a negative number, 0 for success.
    let word =
        |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_le_bytes);
    let kind = u16::from_le_bytes([answer[4], answer[5]]);
    match word(16) {
        Some(0) if length >= 20 && kind == NLMSG_ERROR => Ok(()),
        Some(error) if length >= 20 && kind == NLMSG_ERROR => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::Error::other("the kernel's answer is none")),
    }
}

/// `tc qdisc replace dev … root netem …`
fn message(index: i32, link: &Link) -> Vec<u8> {
    let mut options = Vec::new();
    let loss = (link.loss * f64::from(u32::MAX)) as u32;
    // struct tc_netem_qopt: latency (see below), limit, loss, gap, duplicate, jitter.
    for word in [0, LIMIT, loss, 0, 0, 0] {
        options.extend(word.to_le_bytes());
    }
    attribute(&mut options, TCA_NETEM_LATENCY64, &(link.delay.as_nanos() as i64).to_le_bytes());
    if link.bits_per_second > 0 {
        let bytes_per_second = link.bits_per_second / 8;
        // struct tc_netem_rate: rate, overhead of a packet, size and overhead of a cell.
        let mut rate = u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        rate.extend([0; 12]);
        if bytes_per_second > u64::from(u32::MAX) {
            attribute(&mut options, TCA_NETEM_RATE64, &bytes_per_second.to_le_bytes());
        }
        attribute(&mut options, TCA_NETEM_RATE, &rate);
    }
    let mut body = vec![0; 4];
    body.extend(index.to_le_bytes());
    // struct tcmsg: family and padding, interface, handle, parent, info.
    for word in [0, TC_H_ROOT, 0] {
        body.extend(word.to_le_bytes());
    }
    attribute(&mut body, TCA_KIND, b"netem\0");
    attribute(&mut body, TCA_OPTIONS, &options);
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE;
    let mut message = (16 + body.len() as u32).to_le_bytes().to_vec();
    message.extend(RTM_NEWQDISC.to_le_bytes());
    message.extend(flags.to_le_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(body);
    message
}

/// Length, type, value, and padding to four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((4 + value.len() as u16).to_le_bytes());
    to.extend(kind.to_le_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
