//! One HTTP connection: requests in, answers out, in order.

use core::fmt;

use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};
use telemetry::NetworkCounters;

use super::request::{MAX_HEAD_BYTES, Parsed, Request, Route, parse};
use super::response::{Code, MAX_RESPONSE_BYTES, Response};
use crate::guest::{Guest, Status};
use crate::slot::Slot;

/// A slot of the HTTP service.
pub struct Connection {
    pub slot: Slot,
    /// Pages still to be touched before the next answer.
    touch: Option<Touch>,
}

/// How an answer goes out.
#[derive(Clone, Copy)]
struct Manner {
    head_only: bool,
    keep_alive: bool,
}

/// A request for memory under way.
#[derive(Clone, Copy)]
struct Touch {
    manner: Manner,
    pages: u32,
    touched: u32,
    errors: u32,
    since: Instant,
}

impl Connection {
    /// A connection that a slot will become.
    pub fn new(slot: Slot) -> Self {
        Self { slot, touch: None }
    }

    /// Answers what was asked. Each request costs one of the step's `left`.
    pub fn serve(
        &mut self,
        socket: &mut Socket<'_>,
        now: Instant,
        guest: &impl Guest,
        counters: &mut NetworkCounters,
        left: &mut usize,
    ) {
        while *left > 0 {
            let is_asked = socket.can_recv() || is_at_end(socket);
            // Answers keep their requests' order; one that takes long holds up those behind it on its connection.
            if !is_asked || self.touch.is_some() {
                return;
            }
            // Without room for an answer the request stays where it is, and the peer's window closes.
            let room = socket.send_capacity() - socket.send_queue();
            if room < MAX_RESPONSE_BYTES {
                return;
            }
            *left -= 1;
            let mut head = [0; MAX_HEAD_BYTES];
            let bytes = socket.peek_slice(&mut head).unwrap_or(0);
            match parse(&head[..bytes]) {
                Parsed::Incomplete => {
                    if is_at_end(socket) {
                        self.slot.close(socket, now);
                    }
                    return;
                }
                Parsed::Refused(code) => {
                    counters.requests += 1;
                    counters.errors += 1;
                    send(socket, &Response::refusal(code, false, false));
                    self.slot.close(socket, now);
                    return;
                }
                Parsed::Request(request) => {
                    take(socket, request.bytes);
                    self.slot.is_busy(now);
                    self.answer(socket, request, now, guest, counters);
                }
            }
        }
    }

    /// Whether pages are to be touched.
    pub const fn is_touching(&self) -> bool {
        self.touch.is_some()
    }

    /// Gives up what was under way, with its connection.
    pub fn forget(&mut self) {
        self.touch = None;
    }

    /// Touches one page; true once the answer is sent.
    pub fn touch_one(
        &mut self,
        socket: &mut Socket<'_>,
        now: Instant,
        guest: &mut impl Guest,
        counters: &mut NetworkCounters,
    ) -> bool {
        let Some(touch) = &mut self.touch else { return true };
        touch.errors += u32::from(!guest.touch());
        touch.touched += 1;
        if touch.touched < touch.pages {
            return false;
        }
        let touch = *touch;
        self.touch = None;
        let body = Touched { pages: touch.pages, errors: touch.errors, took: now - touch.since };
        self.respond(socket, touch.manner, Ok(body), now, counters);
        true
    }

    fn answer(
        &mut self,
        socket: &mut Socket<'_>,
        request: Request,
        now: Instant,
        guest: &impl Guest,
        counters: &mut NetworkCounters,
    ) {
        let Request { head_only, keep_alive, .. } = request;
        let manner = Manner { head_only, keep_alive };
        match request.route {
            Ok(Route::Memory { .. }) if guest.working_set_pages() == 0 => {
                self.respond(socket, manner, Err::<Touched, _>(Code::NoWorkingSet), now, counters);
            }
            Ok(Route::Memory { pages }) => {
                self.touch = Some(Touch { manner, pages, touched: 0, errors: 0, since: now });
            }
            Ok(Route::Status) => {
                let status = StatusBody { status: guest.status(), counters: *counters };
                self.respond(socket, manner, Ok(status), now, counters);
            }
            Err(code) => self.respond(socket, manner, Err::<Touched, _>(code), now, counters),
        }
    }

    fn respond(
        &mut self,
        socket: &mut Socket<'_>,
        manner: Manner,
        answer: Result<impl fmt::Display, Code>,
        now: Instant,
        counters: &mut NetworkCounters,
    ) {
        let Manner { head_only, keep_alive } = manner;
        counters.requests += 1;
        let response = match answer {
            Ok(body) => Response::ok(body, head_only, keep_alive),
            Err(code) => {
                counters.errors += 1;
                Response::refusal(code, head_only, keep_alive)
            }
        };
        send(socket, &response);
        if !keep_alive {
            self.slot.close(socket, now);
        }
    }
}

/// Whether the peer has closed its side, and all it sent is here.
fn is_at_end(socket: &Socket<'_>) -> bool {
    socket.state() == State::CloseWait
}

fn take(socket: &mut Socket<'_>, bytes: usize) {
    let mut left = bytes;
    // In two parts where it wraps round in the receive buffer.
    while left > 0 {
        let taken = socket.recv(|data| (data.len().min(left), data.len().min(left))).unwrap_or(0);
        if taken == 0 {
            return;
        }
        left -= taken;
    }
}

fn send(socket: &mut Socket<'_>, response: &Response) {
    // `serve` saw room for it. If the connection is gone by now, so is whoever would read it.
    let sent = socket.send_slice(response.as_bytes());
    debug_assert!(sent.is_err() || sent == Ok(response.as_bytes().len()));
}

/// Body of the answer to `GET /memory`.
struct Touched {
    pages: u32,
    errors: u32,
    took: Duration,
}

impl fmt::Display for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pages, errors, took } = self;
        write!(f, "{{\"pages\":{pages},\"errors\":{errors},\"duration_us\":{}}}", took.total_micros())
    }
}

/// Body of the answer to `GET /`.
struct StatusBody {
    status: Status,
    counters: NetworkCounters,
}

impl fmt::Display for StatusBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { uptime_us, heartbeat, vcpus, pages_written, working_set_pages, errors } = self.status;
        let NetworkCounters {
            frames_in,
            frames_out,
            connections,
            requests,
            datagrams,
            errors: network_errors,
        } = self.counters;
        write!(
            f,
            "{{\"guest\":\"pulse\",\"uptime_us\":{uptime_us},\"heartbeat\":{heartbeat},\"vcpus\":{vcpus},"
        )?;
        write!(f, "\"pages_written\":{pages_written},\"working_set_pages\":{working_set_pages},")?;
        write!(
            f,
            "\"errors\":{errors},\"network\":{{\"frames_in\":{frames_in},\"frames_out\":{frames_out},"
        )?;
        write!(f, "\"connections\":{connections},\"requests\":{requests},\"datagrams\":{datagrams},")?;
        write!(f, "\"errors\":{network_errors}}}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_numbers_fit() {
        let most = u64::MAX;
        let body = StatusBody {
            status: Status {
                uptime_us: most,
                heartbeat: most,
                vcpus: most,
                pages_written: most,
                working_set_pages: most,
                errors: most,
            },
            counters: NetworkCounters {
                frames_in: most,
                frames_out: most,
                connections: most,
                requests: most,
                datagrams: most,
                errors: most,
            },
        };
        let response = Response::ok(body, false, true);
        assert!(response.as_bytes().ends_with(b"\"errors\":18446744073709551615}}\n"));
    }
}
