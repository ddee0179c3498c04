//! The thread that sends by the schedule and takes what comes back.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::{
    ProbeConfig, ProbeError, Recording, datagrams::Datagrams, echo::Echo, now_ns, requests::Requests,
    schedule::Schedule,
};

/// From the start of the thread to the first request.
const LEAD_NS: u64 = 5_000_000;
/// How long answers are waited for when nothing is sent any more. TCP sends again after a fifth of a second, then
/// after twice that, and so on.
const DRAIN_NS: u64 = 3_000_000_000;

/// All three kinds of traffic.
#[derive(Debug)]
pub struct Traffic {
    requests: Requests,
    datagrams: Option<Datagrams>,
    echo: Option<Echo>,
    request_period: Duration,
    datagram_period: Duration,
    longest: Duration,
    stalls: Histogram<u32>,
}

impl Traffic {
    /// Connects to all services.
    ///
    /// # Errors
    /// If one is not there in time.
    pub fn connect(config: &ProbeConfig) -> Result<Traffic, ProbeError> {
        let room = |period: Duration| times_in(config.longest, period) as usize;
        let requests = Requests::connect(config.http, config.patience, room(config.request_period))?;
        let datagrams = config
            .udp
            .map(|address| Datagrams::connect(address, config.patience, room(config.datagram_period)))
            .transpose()?;
        let echo = config.stream.map(|address| Echo::connect(address, config.patience)).transpose()?;
        let (request_period, datagram_period) = (config.request_period, config.datagram_period);
        let stalls = stall_histogram();
        Ok(Traffic {
            requests,
            datagrams,
            echo,
            request_period,
            datagram_period,
            longest: config.longest,
            stalls,
        })
    }

    /// Runs until it is told to stop, or the longest time is over.
    pub fn flow(mut self, stop: &AtomicBool) -> Recording {
        run_first();
        let begin = now_ns() + LEAD_NS;
        let schedule =
            |begin, period: Duration| Schedule::new(begin, nanos(period), times_in(self.longest, period));
        let mut requests = schedule(begin, self.request_period);
        // Between the requests: neither waits for the other's system calls.
        let mut datagrams = schedule(begin + nanos(self.datagram_period) / 2, self.datagram_period);
        let mut drained_ns = None;
        loop {
            let now = now_ns();
            while let Some(scheduled) = requests.due(now) {
                let now = now_ns();
                self.stalls.saturating_record((now - scheduled) / 1_000);
                self.requests.send(scheduled, now);
            }
            while let Some(scheduled) = datagrams.due(now) {
                if let Some(udp) = &mut self.datagrams {
                    udp.send(scheduled, now_ns());
                }
                if let Some(echo) = &mut self.echo {
                    echo.send();
                }
            }
            self.requests.retry(now);
            if stop.load(Ordering::Acquire) {
                requests.end();
                datagrams.end();
            }
            let next = requests.next().into_iter().chain(datagrams.next()).min();
            let wake = next.unwrap_or_else(|| *drained_ns.get_or_insert(now + DRAIN_NS));
            if next.is_none() && (self.is_idle() || now >= wake) {
                return self.finish(now_ns());
            }
            self.wait(wake.saturating_sub(now_ns()));
        }
    }

    /// Takes what comes until so much time is over.
    fn wait(&mut self, ns: u64) {
        let requests = self.requests.waits_for();
        let datagrams = self.datagrams.as_ref().map(|udp| (udp.as_fd(), false));
        let echo = self.echo.as_ref().and_then(|echo| Some((echo.waits_for()?, false)));
        let mut files = [requests, datagrams, echo].map(to_poll);
        // A connection that is down is tried again soon.
        poll(&mut files, ns.min(10_000_000));
        let [requests, datagrams, echo] = files.map(|file| file.revents != 0);
        if requests {
            self.requests.ready(now_ns);
        }
        if datagrams && let Some(udp) = &mut self.datagrams {
            udp.receive(now_ns);
        }
        if echo && let Some(echo) = &mut self.echo {
            echo.receive();
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.is_idle()
            && self.datagrams.as_ref().is_none_or(Datagrams::is_idle)
            && self.echo.as_ref().is_none_or(Echo::is_idle)
    }

    fn finish(self, end_ns: u64) -> Recording {
        let requests = self.requests.finish();
        let datagrams = self.datagrams.map(Datagrams::finish);
        let echo = self.echo.map(Echo::finish);
        let (duplicated, reordered) =
            datagrams.as_ref().map_or((0, 0), |udp| (udp.duplicated, udp.reordered));
        Recording {
            requests: requests.records,
            datagrams: datagrams.map(|udp| udp.records).unwrap_or_default(),
            end_ns,
            duplicated,
            reordered,
            connections_reset: requests.resets + echo.as_ref().map_or(0, |echo| echo.resets),
            responses_malformed: requests.malformed,
            retransmissions: requests.retransmitted + echo.as_ref().map_or(0, |echo| echo.retransmitted),
            stream_bytes_checked: echo.as_ref().map(|echo| echo.bytes),
            stream_errors: echo.as_ref().map(|echo| echo.errors),
            stalls: self.stalls,
        }
    }
}

/// Up to a minute, in three digits; its size does not change while it is used.
fn stall_histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("1 µs to 60 s in three digits is a valid range")
}

fn nanos(period: Duration) -> u64 {
    u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn times_in(longest: Duration, period: Duration) -> u64 {
    nanos(longest) / nanos(period)
}

/// Has this thread run before others where that is permitted, and wake up on time where it is not. How late it is all
/// the same is measured.
fn run_first() {
    // SAFETY: it takes numbers, and concerns this thread only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
    if !linux_host::scheduling::go_first() {
        linux_host::scheduling::set_nice(-20);
    }
}

fn to_poll(file: Option<(BorrowedFd<'_>, bool)>) -> libc::pollfd {
    // The kernel passes over a negative descriptor.
    let fd = file.map_or(-1, |(fd, _)| fd.as_raw_fd());
    let writes = file.is_some_and(|(_, writes)| writes);
    let events = libc::POLLIN | if writes { libc::POLLOUT } else { 0 };
    libc::pollfd { fd, events, revents: 0 }
}

/// Nothing is ready if a signal comes; then it is asked again.
fn poll(files: &mut [libc::pollfd; 3], ns: u64) {
    let timeout = libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the array and the time live until the call returns, and no signal mask is given.
    let ready = unsafe { libc::ppoll(files.as_mut_ptr(), 3, &raw const timeout, ptr::null()) };
    debug_assert!(ready >= 0 || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted);
    if ready <= 0 {
        files.iter_mut().for_each(|file| file.revents = 0);
    }
}
