//! A wire over any stream socket.
//!
//! The socket blocks, but never longer than a tick: then the interrupt and the patience are looked
//! at. So nothing on the path costs a system call more than plain reads and writes, and a cancel is
//! seen within a tick wherever a thread waits.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::net::{Shutdown, shutdown, sockopt};

use super::{Interrupt, Pace, Wire, loss::LossWatch};
use crate::pages::RunBytes;

/// How long one wait lasts at most before it looks around.
const TICK: Duration = Duration::from_millis(20);
/// How long an interrupt leaves the rest of a message to come.
const REST_GRACE: Duration = Duration::from_millis(50);

/// How often the kernel asks an idle peer at least.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The most bytes that one system call moves while a guest runs. Where the kernel does not preempt itself, as servers'
/// kernels do not, no other thread gets the processor before the call is over; and what was just copied still lies in the
/// cache.
const MAX_CALL_BYTES: usize = 128 << 10;
/// The same for a guest that stands still.
const MAX_HASTY_CALL_BYTES: usize = 1 << 20;

/// The most bytes that wait in the kernel to be sent while a guest runs; bytes on the way do not count, so a long link is
/// filled all the same. What waits there is sent in one go within an interrupt when acknowledgements come, for milliseconds
/// if it is megabytes, and meanwhile that processor runs no thread and delivers no frame, be it the guest's or its clients'.
const MAX_UNSENT_BYTES: libc::c_int = 128 << 10;
/// The same for a guest that stands still: the sender need not wake up for every bit.
const MAX_HASTY_UNSENT_BYTES: libc::c_int = 4 << 20;

/// A wire over a connected stream socket.
pub struct FdWire {
    fd: OwnedFd,
    /// Who is at the other end, for messages.
    peer: String,
    interrupt: Interrupt,
    patience: Option<Duration>,
    deadline: Option<Instant>,
    peer_timeout: Option<Duration>,
    /// How long a call goes on once the interrupt is raised.
    grace: Duration,
    pace: Pace,
    /// Of a sender that keeps no pace.
    loss: Option<LossWatch>,
    parts: Parts,
}

/// Addresses for one gathering write or scattering read; kept, so that no frame allocates.
#[derive(Default)]
struct Parts(Vec<libc::iovec>);

// SAFETY: the addresses are filled in and used within one call, and mean nothing between calls.
unsafe impl Send for Parts {}

impl Parts {
    fn push(&mut self, start: *mut u8, len: usize) {
        if len > 0 {
            self.0.push(libc::iovec { iov_base: start.cast(), iov_len: len });
        }
    }
}

impl FdWire {
    /// Over a socket that is connected.
    ///
    /// # Errors
    /// If the socket does not take a time-out.
    pub fn new(fd: OwnedFd, interrupt: &Interrupt) -> io::Result<FdWire> {
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TICK))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(TICK))?;
        let (interrupt, pace) = (interrupt.clone(), Pace::Considerate);
        let wire = FdWire {
            peer: peer_of(&fd),
            fd,
            interrupt,
            patience: None,
            deadline: None,
            peer_timeout: None,
            grace: Duration::ZERO,
            pace,
            loss: None,
            parts: Parts::default(),
        };
        wire.limit_unsent(MAX_UNSENT_BYTES);
        Ok(wire)
    }

    /// Gives the link the host's `own` congestion control back if it turns out to lose segments.
    pub(super) fn watch_loss(&mut self, own: String) {
        self.loss = Some(LossWatch::new(own));
    }

    /// Only TCP has such a limit: other sockets send at once.
    fn limit_unsent(&self, limit: libc::c_int) {
        // SAFETY: the option is a C int, which lives through the call. A socket that has no such option says so.
        unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_NOTSENT_LOWAT,
                (&raw const limit).cast(),
                size_of_val(&limit) as libc::socklen_t,
            );
        }
    }

    /// Runs `step` over the parts until all are done. `step` returns the bytes it moved.
    fn drive(
        &mut self,
        step: impl Fn(i32, &[libc::iovec]) -> isize,
        closed: io::ErrorKind,
    ) -> io::Result<()> {
        let mut next = 0;
        let mut idle_since: Option<Instant> = None;
        let mut interrupted_since: Option<Instant> = None;
        while next < self.parts.0.len() {
            // Also where something moves: a link that never has to wait, or whose peer moves a byte at a time, would not
            // see it otherwise.
            self.look_around(&mut interrupted_since)?;
            match self.step(next, &step) {
                0 => return Err(closed.into()),
                moved if moved > 0 => {
                    idle_since = None;
                    next = self.advance(next, moved as usize);
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted => continue,
                        io::ErrorKind::WouldBlock => {}
                        _ => return Err(self.in_words(error)),
                    }
                    let since = *idle_since.get_or_insert_with(|| Instant::now() - TICK);
                    if self.patience.is_some_and(|patience| since.elapsed() >= patience) {
                        return Err(self.nothing_moved(closed, since.elapsed()));
                    }
                }
            }
        }
        Ok(())
    }

    /// A peer that acknowledges nothing, by what the kernel calls it.
    fn in_words(&self, error: io::Error) -> io::Error {
        let heard = match self.peer_timeout {
            Some(timeout) => format!("nothing heard from {} for {}", self.peer, seconds(timeout)),
            None => format!("nothing heard from {}", self.peer),
        };
        match error.raw_os_error() {
            Some(libc::ETIMEDOUT) => io::Error::new(io::ErrorKind::TimedOut, heard),
            // What a router, or this host's own search for the neighbour, said meanwhile.
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                io::Error::new(io::ErrorKind::TimedOut, format!("{heard} ({error})"))
            }
            _ => error,
        }
    }

    fn nothing_moved(&self, closed: io::ErrorKind, elapsed: Duration) -> io::Error {
        let what = if closed == io::ErrorKind::WriteZero { "nothing taken by" } else { "nothing heard from" };
        io::Error::new(io::ErrorKind::TimedOut, format!("{what} {} for {}", self.peer, seconds(elapsed)))
    }

    /// Whether a call may go on: fails once the interrupt is raised, or the deadline has passed.
    fn look_around(&self, interrupted_since: &mut Option<Instant>) -> io::Result<()> {
        if self.interrupt.is_raised() {
            let since = interrupted_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.grace {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let words = format!("timed out: {} moves too little at a time", self.peer);
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        Ok(())
    }

    fn max_call_bytes(&self) -> usize {
        match self.pace {
            Pace::Considerate => MAX_CALL_BYTES,
            Pace::Hasty => MAX_HASTY_CALL_BYTES,
        }
    }

    /// Whether a segment that is not full waits for more. Each call of a long message would else end with one: on loopback of
    /// a hundred bytes, and it goes a segment's whole way through both hosts. (`MSG_MORE` holds it only until the next
    /// acknowledgement, where a socket delays nothing otherwise.) Only TCP has segments.
    fn hold_short_segments(&self, hold: bool) {
        sockopt::set_tcp_cork(&self.fd, hold).ok();
    }

    /// Runs `step` once, over as many parts from `next` on as one call should move.
    fn step(&mut self, next: usize, step: impl Fn(i32, &[libc::iovec]) -> isize) -> isize {
        let max_bytes = self.max_call_bytes();
        let parts = &mut self.parts.0[next..];
        let (mut count, mut room) = (0, max_bytes);
        while count < parts.len().min(libc::UIO_MAXIOV as usize) && room > 0 {
            room = room.saturating_sub(parts[count].iov_len);
            count += 1;
        }
        // The last one may be longer than there is room: it is cut for this call.
        let whole = parts[count - 1].iov_len;
        let before: usize = parts[..count - 1].iter().map(|part| part.iov_len).sum();
        parts[count - 1].iov_len = whole.min(max_bytes - before);
        let moved = step(self.fd.as_raw_fd(), &parts[..count]);
        parts[count - 1].iov_len = whole;
        moved
    }

    /// Takes `moved` bytes off the parts from `next` on; returns the first that is not done.
    fn advance(&mut self, mut next: usize, mut moved: usize) -> usize {
        while moved > 0 {
            let part = &mut self.parts.0[next];
            let step = moved.min(part.iov_len);
            part.iov_base = part.iov_base.cast::<u8>().wrapping_add(step).cast();
            part.iov_len -= step;
            moved -= step;
            if part.iov_len == 0 {
                next += 1;
            }
        }
        next
    }

    fn drive_receive(&mut self) -> io::Result<()> {
        // SAFETY: the parts are within memory that the callers borrowed for this call and that the
        // kernel may write: a `&mut [u8]`, or runs of guest memory.
        self.drive(
            |fd, parts| unsafe { libc::readv(fd, parts.as_ptr(), parts.len() as i32) },
            io::ErrorKind::UnexpectedEof,
        )
    }
}

impl Wire for FdWire {
    fn send_parts(&mut self, head: &[u8], payload: &[RunBytes<'_>], tail: &[u8]) -> io::Result<()> {
        self.parts.0.clear();
        self.parts.push(head.as_ptr().cast_mut(), head.len());
        payload.iter().for_each(|run| self.parts.push(run.as_ptr(), run.len()));
        self.parts.push(tail.as_ptr().cast_mut(), tail.len());
        let bytes = self.parts.0.iter().map(|part| part.iov_len).sum::<usize>();
        let is_long = bytes > self.max_call_bytes();
        if is_long {
            self.hold_short_segments(true);
        }
        // SAFETY: the parts are within memory borrowed for this call; the kernel only reads it.
        let sent = self.drive(
            |fd, parts| unsafe { libc::writev(fd, parts.as_ptr(), parts.len() as i32) },
            io::ErrorKind::WriteZero,
        );
        if is_long {
            self.hold_short_segments(false);
        }
        self.loss.take_if(|loss| loss.sent(bytes, &self.fd));
        sent
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.parts.0.clear();
        self.parts.push(buffer.as_mut_ptr(), buffer.len());
        self.drive_receive()
    }

    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.grace = REST_GRACE;
        let received = self.receive(buffer);
        self.grace = Duration::ZERO;
        received
    }

    fn receive_runs(&mut self, runs: &[RunBytes<'_>]) -> io::Result<()> {
        self.parts.0.clear();
        runs.iter().for_each(|run| self.parts.push(run.as_ptr(), run.len()));
        self.drive_receive()
    }

    fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    fn set_deadline(&mut self, left: Option<Duration>) {
        self.deadline = left.map(|left| Instant::now() + left);
    }

    fn set_peer_timeout(&mut self, timeout: Option<Duration>) {
        self.peer_timeout = timeout;
        // Only TCP has such limits: other sockets have their peer on this host.
        sockopt::set_socket_keepalive(&self.fd, timeout.is_some()).ok();
        // Unacknowledged bytes, and probes where there are none, count against the same time.
        let millis = timeout.map_or(0, |timeout| timeout.as_millis().min(i32::MAX as u128) as u32);
        sockopt::set_tcp_user_timeout(&self.fd, millis).ok();
        if let Some(timeout) = timeout {
            let probe = (timeout / 3).clamp(Duration::from_secs(1), MAX_PROBE_INTERVAL);
            sockopt::set_tcp_keepidle(&self.fd, probe).ok();
            sockopt::set_tcp_keepintvl(&self.fd, probe).ok();
        }
    }

    fn set_pace(&mut self, pace: Pace) {
        if pace != self.pace {
            self.pace = pace;
            self.limit_unsent(match pace {
                Pace::Considerate => MAX_UNSENT_BYTES,
                Pace::Hasty => MAX_HASTY_UNSENT_BYTES,
            });
        }
    }

    fn set_interrupt(&mut self, interrupt: &Interrupt) {
        self.interrupt = interrupt.clone();
    }

    fn ignore_interrupt(&mut self) {
        self.interrupt = Interrupt::default();
    }

    fn hang_up(&self) {
        // An error means that the peer was faster.
        shutdown(&self.fd, Shutdown::Both).ok();
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The other end of a socket, in words.
fn peer_of(fd: &OwnedFd) -> String {
    let address = socket2::SockRef::from(fd).peer_addr().ok().and_then(|address| address.as_socket());
    address.map_or_else(|| "the peer".to_owned(), |address| address.to_string())
}

/// `15 s`, rounded.
fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tcp;
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    fn pair(interrupt: &Interrupt) -> (FdWire, FdWire) {
        let (a, b) = UnixStream::pair().unwrap();
        (FdWire::new(a.into(), interrupt).unwrap(), FdWire::new(b.into(), interrupt).unwrap())
    }

    #[test]
    fn what_is_gathered_is_scattered_in_order() {
        let (mut a, mut b) = pair(&Interrupt::default());
        let mut there = vec![0; 1 << 20];
        let sender = std::thread::spawn(move || a.send(&[9; 5]).and_then(|()| a.send(&[7; 1 << 20])));
        let mut head = [0; 5];
        b.receive(&mut head).unwrap();
        b.receive(&mut there).unwrap();
        sender.join().unwrap().unwrap();
        assert!(head == [9; 5] && there.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn parts_that_one_call_cannot_move_arrive_whole() {
        for pace in [Pace::Considerate, Pace::Hasty] {
            move_long_parts(pace);
        }
    }

    fn move_long_parts(pace: Pace) {
        let (mut a, mut b) = pair(&Interrupt::default());
        a.set_pace(pace);
        b.set_pace(pace);
        let lens = [MAX_CALL_BYTES - 1, 2, 0, 5 * MAX_CALL_BYTES, MAX_CALL_BYTES, 1, 3 * MAX_CALL_BYTES / 2];
        let filled: Vec<Vec<u8>> = (1..)
            .zip(lens)
            .map(|(value, len)| (0..len).map(|at| (at % 251) as u8 ^ value).collect())
            .collect();
        let whole = filled.concat();
        let sender = std::thread::spawn(move || a.send(&whole));
        let mut received: Vec<Vec<u8>> = lens.iter().map(|&len| vec![0; len]).collect();
        received.iter_mut().for_each(|part| b.parts.push(part.as_mut_ptr(), part.len()));
        b.drive_receive().unwrap();
        sender.join().unwrap().unwrap();
        assert!(received == filled);
    }

    /// A segment too many for each call is half as many again.
    #[test]
    fn a_message_of_many_calls_is_sent_in_full_segments() {
        const MESSAGE_BYTES: usize = 16 * MAX_CALL_BYTES;
        const MESSAGES: usize = 8;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sender.set_nodelay(true).unwrap();
        let mut receiver = listener.accept().unwrap().0;
        let received = std::thread::spawn(move || io::copy(&mut receiver, &mut io::sink()).unwrap());
        let mut wire = FdWire::new(sender.into(), &Interrupt::default()).unwrap();
        let message = vec![7; MESSAGE_BYTES];
        (0..MESSAGES).for_each(|_| wire.send(&message).unwrap());
        let info = tcp::info(wire.as_fd()).expect("Linux tells");
        wire.hang_up();
        assert_eq!(received.join().unwrap(), (MESSAGES * MESSAGE_BYTES) as u64);
        let full = MESSAGES * MESSAGE_BYTES / info.tcpi_snd_mss as usize;
        let sent = info.tcpi_data_segs_out as usize;
        assert!(sent <= full * 5 / 4, "{sent} segments for what {full} hold");
    }

    #[test]
    fn a_wait_ends_by_interrupt_by_patience_and_by_the_peer() {
        let interrupt = Interrupt::default();
        let (mut a, b) = pair(&interrupt);
        let kind = |wire: &mut FdWire| wire.receive(&mut [0]).unwrap_err().kind();
        a.set_patience(Some(TICK));
        assert_eq!(kind(&mut a), io::ErrorKind::TimedOut);
        interrupt.raise();
        a.set_patience(None);
        assert_eq!(kind(&mut a), io::ErrorKind::Interrupted);
        a.ignore_interrupt();
        b.hang_up();
        assert_eq!(kind(&mut a), io::ErrorKind::UnexpectedEof);
    }
}
