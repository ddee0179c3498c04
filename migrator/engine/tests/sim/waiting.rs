//! A receiver that waits for somebody: what its peer does in each phase, and what the next caller meets meanwhile.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::one_guest::{PAGES, assert_memory_right, boot};
use engine::{
    destination::{ReceiveError, Reception, receive_at},
    options::Options,
    progress::Phase,
    protocol::{
        FromDestination, FromSource, GREETING_BYTES, Greeting, MigrationId, Offer, Role, encode_message,
    },
    report::{Outcome, Report},
    sim::{SimHost, SimVm},
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt},
    vm::SourceVm,
};

const STRANGER: MigrationId = [9; 16];

/// How far the peer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Greeting,
    Offer,
    Preparing,
    Links,
    Receiving,
}

/// What it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Nothing,
    Trickles,
    Vanishes,
    SaysNo,
}

/// A receiver that goes on until a VM has come. Failed tries are told.
struct Receiving {
    address: Address,
    failed: Receiver<ReceiveError<SimVm>>,
    interrupt: Interrupt,
    thread: Option<thread::JoinHandle<Option<SimVm>>>,
}

impl Receiving {
    fn begin(mut host: SimHost) -> Receiving {
        let (mut acceptor, address) = "tcp://127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
        let (sender, failed): (Sender<ReceiveError<SimVm>>, _) = channel();
        let interrupt = Interrupt::default();
        let halt = interrupt.clone();
        let receive = move || {
            Reception::open(&mut *acceptor, &halt, |reception| {
                while !halt.is_raised() {
                    match receive_at(reception, &mut host, &halt, |_, _| ()) {
                        Ok(arrival) => return Some(arrival.vm),
                        Err(error) => drop(sender.send(error)),
                    }
                }
                None
            })
        };
        Receiving { address, failed, interrupt, thread: Some(thread::spawn(receive)) }
    }

    fn migrate(&self, strategy: Strategy, source: &mut SimVm) -> Report {
        self.migrate_with(strategy, source, &Options::default())
    }

    fn migrate_with(&self, strategy: Strategy, source: &mut SimVm, options: &Options) -> Report {
        let progress = Arc::default();
        let connector = self.address.connector();
        migrate(source, &*connector, strategy, options, &Interrupt::default(), &progress)
    }

    fn arrived(mut self) -> SimVm {
        self.thread.take().unwrap().join().expect("no panic").expect("it arrived")
    }

    /// The next caller brings its VM.
    fn assert_takes_one(self, context: &str) {
        let mut source = boot(1);
        let report = self.migrate(Strategy::PreCopy, &mut source);
        assert_eq!(report.outcome, Outcome::Completed, "{context}: {:?}", report.error);
        let mut vm = self.arrived();
        vm.await_first_steps();
        assert_memory_right(&vm, context);
    }

    /// The next caller hears at once why it has to wait.
    fn assert_busy(&self, with: &str, context: &str) {
        let mut source = boot(1);
        let report = self.migrate(Strategy::PreCopy, &mut source);
        let error = report.error.unwrap_or_default();
        assert_eq!(error, format!("the destination refuses: busy with {with}"), "{context}");
        assert!(source.is_running());
    }

    fn host_and_port(&self) -> &str {
        let Address::Tcp(host_and_port) = &self.address else { panic!("a TCP address") };
        host_and_port
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.interrupt.raise();
    }
}

/// A source that comes as far as it is told.
struct Peer {
    links: Vec<TcpStream>,
    trickles: Arc<AtomicBool>,
}

impl Peer {
    fn calls(address: &str, reached: Reached) -> Peer {
        let connect = |role| {
            let mut stream = TcpStream::connect(address).unwrap();
            let greeting = Greeting::new(STRANGER, role).encode();
            match reached {
                Reached::Greeting => stream.write_all(&greeting[..1]).unwrap(),
                _ => {
                    stream.write_all(&greeting).unwrap();
                    stream.read_exact(&mut [0; GREETING_BYTES]).unwrap();
                }
            }
            stream
        };
        let mut control = connect(Role::Control);
        let offer = encode_message(&FromSource::Offer(offer("stranger", reached == Reached::Preparing)));
        let offer = offer.unwrap();
        match reached {
            Reached::Greeting => {}
            Reached::Offer => control.write_all(&offer[..offer.len() / 2]).unwrap(),
            _ => control.write_all(&offer).unwrap(),
        }
        let mut links = Vec::new();
        if reached >= Reached::Links {
            let accepted = encode_message(&FromDestination::Accepted { load_us: 0 }).unwrap();
            control.read_exact(&mut vec![0; accepted.len()]).unwrap();
        }
        if reached == Reached::Receiving {
            links.push(connect(Role::Bulk));
        }
        links.insert(0, control);
        // Until the destination is where this was to lead.
        thread::sleep(Duration::from_millis(100));
        Peer { links, trickles: Arc::default() }
    }

    fn acts(&mut self, does: Does) {
        match does {
            Does::Nothing => {}
            Does::Vanishes => self.links.clear(),
            Does::SaysNo => {
                let reason = "no \x1b[2Jmore".to_owned();
                let no = encode_message(&FromSource::Abort { reason }).unwrap();
                self.links[0].write_all(&no).unwrap();
                self.links.clear();
            }
            Does::Trickles => {
                let mut control = self.links[0].try_clone().unwrap();
                let trickles = Arc::clone(&self.trickles);
                trickles.store(true, Ordering::Release);
                thread::spawn(move || {
                    // A long message, if it is to be one.
                    let bytes = [0, 0, 16, 0].into_iter().chain(std::iter::repeat(1));
                    for byte in bytes {
                        if !trickles.load(Ordering::Acquire) || control.write_all(&[byte]).is_err() {
                            return;
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                });
            }
        }
    }

    fn goes(self) {
        self.trickles.store(false, Ordering::Release);
        self.links.iter().for_each(|link| drop(link.shutdown(std::net::Shutdown::Both)));
    }
}

pub fn offer(name: &str, populate: bool) -> Offer {
    // Memory that takes ten seconds to be backed, a bite at a time.
    let mut vm = SimVm::boot(name, if populate { 64 * 500 } else { PAGES }, crate::one_guest::workload(1))
        .expect("memory");
    vm.pause().unwrap();
    let rehearsal = vm.save_state().unwrap();
    Offer {
        vm: vm.describe().into(),
        bulk_links: 1,
        may_miss_pages: false,
        has_network: false,
        populate,
        digest: false,
        rehearsal,
        console: Vec::new(),
    }
}

fn slow_host() -> SimHost {
    SimHost { populate_nap: Duration::from_millis(20), ..SimHost::default() }
}

/// What the receiver does while its peer is in a phase and does something: every cell.
#[test]
fn entry_9_whatever_a_peer_does_the_receiver_answers_others_and_takes_the_next() {
    use Does::{Nothing, SaysNo, Trickles, Vanishes};
    use Reached::{Greeting, Links, Offer, Preparing, Receiving as Pages};
    for reached in [Greeting, Offer, Preparing, Links, Pages] {
        for does in [Nothing, Trickles, Vanishes, SaysNo] {
            let context = format!("{reached:?} {does:?}");
            let receiver = Receiving::begin(slow_host());
            let mut peer = Peer::calls(receiver.host_and_port(), reached);
            peer.acts(does);
            let is_there = matches!(does, Nothing | Trickles);
            if reached >= Preparing && is_there {
                receiver.assert_busy("stranger from 127.0.0.1", &context);
                peer.goes();
            } else if is_there {
                // It has not said yet what it wants: nobody waits for it.
                receiver.assert_takes_one(&context);
                peer.goes();
                continue;
            }
            if reached >= Preparing {
                let error = receiver.failed.recv_timeout(Duration::from_secs(10)).expect(&context);
                match does {
                    SaysNo => assert!(matches!(error, ReceiveError::Aborted { .. }), "{context}: {error}"),
                    _ => assert!(!matches!(error, ReceiveError::Aborted { .. }), "{context}: {error}"),
                }
            }
            receiver.assert_takes_one(&context);
        }
    }
}

/// The source of a cancelled try calls again before its first machine is gone.
#[test]
fn entry_9_a_receiver_is_free_at_once_after_a_cancel() {
    let receiver = Receiving::begin(slow_host());
    for _ in 0..5 {
        let peer = Peer::calls(receiver.host_and_port(), Reached::Preparing);
        drop(peer);
    }
    receiver.assert_takes_one("after five cancels");
}

#[test]
fn entry_9_a_receiver_is_busy_until_the_last_page_is_there() {
    let receiver = Receiving::begin(SimHost::default());
    let mut source = boot(3);
    let progress = Arc::<engine::progress::Progress>::default();
    let options = Options { max_bandwidth: Some(16_000_000), ..Options::default() };
    let connector = receiver.address.connector();
    let report = thread::scope(|scope| {
        let moves = scope.spawn(|| {
            let interrupt = Interrupt::default();
            migrate(&mut source, &*connector, Strategy::PostCopy, &options, &interrupt, &progress)
        });
        while progress.snapshot().phase != Phase::Push {
            thread::sleep(Duration::from_millis(1));
        }
        receiver.assert_busy("sim from 127.0.0.1", "push");
        moves.join().unwrap()
    });
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.error);
    receiver.arrived();
}

#[test]
fn entry_15_a_vm_with_a_name_for_a_terminal_is_refused_before_anything_is_made() {
    let receiver = Receiving::begin(SimHost::default());
    for name in ["", "\x1b]0;title\x07", "a b", "a\nb", "-x", "ünseen", &"x".repeat(2 << 20)] {
        let mut source = SimVm::boot(name, PAGES, crate::one_guest::workload(1)).expect("memory");
        let report = receiver.migrate(Strategy::PreCopy, &mut source);
        let error = report.error.unwrap_or_default();
        assert!(error.starts_with("the destination refuses: ") && error.contains("48 letters"), "{error}");
        assert!(source.is_running());
    }
    receiver.assert_takes_one("after bad names");
}

/// Sixteen who say nothing, and one more.
#[test]
fn entry_10_many_silent_strangers_keep_nobody_waiting() {
    let receiver = Receiving::begin(SimHost::default());
    let strangers: Vec<_> =
        (0..40).map(|_| Peer::calls(receiver.host_and_port(), Reached::Greeting)).collect();
    receiver.assert_takes_one("beside forty");
    drop(strangers);
}

/// Issue 12, entry 13: a source is patient until it is accepted, and not after it, so all memory is backed before.
#[test]
fn entry_13_memory_that_takes_long_to_back_keeps_no_vm_from_arriving() {
    let options = Options { answer_timeout: Duration::from_millis(500), ..Options::default() };
    // Twice the patience in all; every other machine has an area for missing pages.
    let bites = u32::try_from(PAGES.div_ceil(64)).unwrap();
    let host = SimHost { populate_nap: options.answer_timeout * 2 / bites, ..SimHost::default() };
    for strategy in [Strategy::PostCopy, Strategy::PostCopy, Strategy::PreCopy] {
        let receiver = Receiving::begin(host);
        // Two machines a turn and one more: the destination's is of the other kind in the next.
        let (mut source, _one_more) = (boot(1), boot(1));
        let report = receiver.migrate_with(strategy, &mut source, &options);
        assert_eq!(report.outcome, Outcome::Completed, "{strategy:?}: {:?}", report.error);
        assert!(receiver.failed.try_recv().is_err(), "no try failed");
        let mut vm = receiver.arrived();
        vm.await_first_steps();
        assert_memory_right(&vm, "after a long wait");
    }
}
