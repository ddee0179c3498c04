//! Loss on a link whose sender keeps no pace.
//!
//! Congestion control that goes by loss is quickest where nothing is lost, and many times slower than one that paces itself
//! where a hundredth is. Which it is shows only as bytes go.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt;

use super::tcp;

/// After how many bytes it is looked at again: at gigabytes a second the looking must not count.
const LOOK_EVERY_BYTES: usize = 4 << 20;
/// More than one in so many segments sent again is loss that the host's own algorithm deals with better.
const TOLERATED_ONE_IN: u32 = 200;
/// Fewer than this are no measure.
const MIN_RETRANSMITTED: u32 = 4;

/// Looks for loss, and gives a link back the host's own congestion control where there is some.
pub(super) struct LossWatch {
    own: String,
    bytes: usize,
    segments: u32,
    retransmitted: u32,
}

impl LossWatch {
    /// Of a link that is new. `own` is the host's own congestion control.
    pub fn new(own: String) -> LossWatch {
        LossWatch { own, bytes: 0, segments: 0, retransmitted: 0 }
    }

    /// Takes note of bytes sent. Returns whether the link needs no watch any more.
    pub fn sent(&mut self, bytes: usize, fd: &OwnedFd) -> bool {
        self.bytes += bytes;
        if self.bytes < LOOK_EVERY_BYTES {
            return false;
        }
        self.bytes = 0;
        let Some(info) = tcp::info(fd.as_fd()) else { return true };
        let segments = info.tcpi_data_segs_out.wrapping_sub(self.segments);
        let retransmitted = info.tcpi_total_retrans.wrapping_sub(self.retransmitted);
        (self.segments, self.retransmitted) = (info.tcpi_data_segs_out, info.tcpi_total_retrans);
        if retransmitted < MIN_RETRANSMITTED || retransmitted <= segments / TOLERATED_ONE_IN {
            return false;
        }
        let own = &self.own;
        match sockopt::set_tcp_congestion(fd, own) {
            Ok(()) => {
                tracing::info!(
                    retransmitted,
                    segments,
                    own,
                    "a link loses segments: its sender paces itself"
                );
            }
            Err(error) => {
                tracing::debug!(%error, own, "a link that loses segments keeps its congestion control");
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{FdWire, Interrupt, Wire};
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd,
    };

    /// Has the kernel drop segments that come to this socket, one in `one_in` by chance.
    fn lose(stream: &TcpStream, one_in: u32) {
        let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
        let mut program = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, random),
            instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, u32::MAX / one_in),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program and its instructions live through the call.
        let attached = unsafe {
            let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
            let len = size_of_val(&program) as libc::socklen_t;
            libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const program).cast(), len)
        };
        assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
    }

    /// Which congestion control an unpaced link has in the end.
    fn after_sending(mib: usize, one_in: Option<u32>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // An algorithm that every kernel has stands in for the host's own.
        sockopt::set_tcp_congestion(&sender, "cubic").unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        if let Some(one_in) = one_in {
            lose(&receiver, one_in);
        }
        let received = std::thread::spawn(move || {
            let mut piece = vec![0; 1 << 20];
            while receiver.read(&mut piece).unwrap() > 0 {}
        });
        let mut wire = FdWire::new(sender.into(), &Interrupt::default()).unwrap();
        wire.watch_loss("reno".to_owned());
        let piece = vec![7; 1 << 20];
        (0..mib).for_each(|_| wire.send(&piece).unwrap());
        let found = sockopt::tcp_congestion(wire.as_fd()).unwrap();
        drop(wire);
        received.join().unwrap();
        found
    }

    #[test]
    fn entry_26_a_link_that_loses_segments_gets_the_hosts_congestion_control_back() {
        assert_eq!(after_sending(48, Some(10)), "reno");
        assert_eq!(after_sending(48, None), "cubic");
    }
}
