//! Whoever answers or calls that is no Ferry, or a hostile one: a clear error, no hang, and the guest
//! runs on where it was.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::one_guest::{assert_memory_right, boot};
use engine::{
    destination::{ReceiveError, receive},
    options::Options,
    protocol::{
        Capabilities, FromDestination, FromSource, GREETING_BYTES, Greeting, Offer, Role, VERSION,
        encode_message,
    },
    report::{Outcome, Report},
    sim::{SimHost, SimVm},
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt},
    vm::SourceVm,
};

/// Migrates to whatever `serve` does with the first connection; every later one is closed at once.
fn migrate_to(serve: impl FnOnce(TcpStream) + Send + 'static) -> (Report, SimVm) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap()).parse::<Address>().unwrap();
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            serve(stream);
        }
    });
    let mut source = boot(1);
    let (interrupt, progress) = (Interrupt::default(), std::sync::Arc::default());
    let report = migrate(
        &mut source,
        &*address.connector(),
        Strategy::PreCopy,
        &Options::default(),
        &interrupt,
        &progress,
    );
    assert!(source.is_running());
    assert_memory_right(&source, "stayed");
    assert_eq!(report.outcome, Outcome::Failed);
    (report, source)
}

fn error_of(serve: impl FnOnce(TcpStream) + Send + 'static) -> String {
    migrate_to(serve).0.error.expect("a failed migration says why")
}

/// Answers the greeting as a Ferry does.
fn greet(stream: &mut TcpStream) -> Greeting {
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&greeting).unwrap();
    Greeting::decode(&greeting).unwrap()
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("tcp://127.0.0.1:{port}").parse::<Address>().unwrap();
    let mut source = boot(1);
    let report = migrate(
        &mut source,
        &*address.connector(),
        Strategy::PreCopy,
        &Options::default(),
        &Interrupt::default(),
        &std::sync::Arc::default(),
    );
    let error = report.error.unwrap();
    assert!(error.contains("cannot connect to tcp://127.0.0.1") && error.contains("refused"), "{error}");
    assert!(source.is_running());
}

#[test]
fn a_web_server_answers() {
    let error = error_of(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; GREETING_BYTES]).ok();
    });
    assert!(error.contains("does not speak Ferry's protocol") && error.contains("HTTP/1.1"), "{error}");
}

#[test]
fn another_version_answers() {
    let error = error_of(|mut stream| {
        let mut greeting = [0; GREETING_BYTES];
        stream.read_exact(&mut greeting).unwrap();
        // The newest version and the oldest.
        (greeting[8], greeting[12]) = (9, 9);
        stream.write_all(&greeting).unwrap();
    });
    assert!(error.contains("version 9") && error.contains(&format!("version {VERSION}")), "{error}");
}

/// A Ferry of version 4 greets in as many bytes, and is told apart at either end.
#[test]
fn a_version_before_capabilities_is_refused_in_a_sentence() {
    let as_version_4 = |mut greeting: [u8; GREETING_BYTES]| {
        greeting[8] = 4;
        greeting[11..16].fill(0);
        greeting
    };
    let error = error_of(move |mut stream| {
        let mut greeting = [0; GREETING_BYTES];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&as_version_4(greeting)).unwrap();
    });
    assert!(error.contains("version 4") && error.contains("the same Ferry on both hosts"), "{error}");
    receive_from(|address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let greeting = Greeting::new([1; 16], Role::Control).encode();
        stream.write_all(&as_version_4(greeting)).unwrap();
        let mut answer = [0; GREETING_BYTES];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!((&answer[..8], answer[8]), (&greeting[..8], VERSION as u8));
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is dropped");
    });
}

/// A later Ferry that still speaks this version, and can do more.
#[test]
fn a_newer_source_that_speaks_this_version_is_greeted() {
    receive_from(|address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let asked = Greeting::new([1; 16], Role::Control);
        let mut greeting = asked.encode();
        greeting[8] = 9;
        (greeting[11], greeting[14], greeting[15]) = (8, 0xff, 0xff);
        stream.write_all(&greeting).unwrap();
        let mut answer = [0; GREETING_BYTES];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(asked.check_answer(&answer), Ok(Capabilities::OURS));
        // It may not open more links than this side has.
        let vm = boot(1);
        let offer = Offer {
            vm: vm.describe().into(),
            bulk_links: 8,
            may_miss_pages: false,
            has_network: false,
            populate: false,
            digest: false,
            rehearsal: Vec::new(),
            console: Vec::new(),
        };
        stream.write_all(&encode_message(&FromSource::Offer(offer)).unwrap()).unwrap();
        let mut refusal = Vec::new();
        stream.read_to_end(&mut refusal).ok();
        let refusal = String::from_utf8_lossy(&refusal);
        assert!(refusal.contains("8 bulk links instead of 1 to 1"), "{refusal}");
    });
}

#[test]
fn garbage_and_a_huge_length_after_the_greeting() {
    let garbage = error_of(|mut stream| {
        greet(&mut stream);
        stream.write_all(&[0x55; 7]).unwrap();
        stream.write_all(&[0; 1000]).ok();
        stream.read_to_end(&mut Vec::new()).ok();
    });
    assert!(garbage.contains("at most") || garbage.contains("damaged"), "{garbage}");
    let huge = error_of(|mut stream| {
        greet(&mut stream);
        stream.write_all(&[0xff; 8]).unwrap();
        stream.read_to_end(&mut Vec::new()).ok();
    });
    assert!(huge.contains("a message of 4294967295 bytes"), "{huge}");
}

#[test]
fn a_destination_that_closes_at_any_byte_of_its_first_words() {
    let accepted = encode_message(&FromDestination::Accepted { load_us: 1 }).unwrap();
    for length in 0..GREETING_BYTES + accepted.len() {
        let accepted = accepted.clone();
        let error = error_of(move |mut stream| {
            let mut words = [0; GREETING_BYTES].to_vec();
            stream.read_exact(&mut words).unwrap();
            words.extend(accepted);
            stream.write_all(&words[..length]).unwrap();
        });
        assert!(error.contains("end of file") || error.contains("reset"), "{length}: {error}");
    }
}

/// Ends the wait of a destination, also when the test fails.
struct RaiseOnDrop<'a>(&'a Interrupt);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// A destination, and what it says of callers who do as `call` does.
fn receive_from(call: impl FnOnce(&str)) -> ReceiveError<SimVm> {
    let (mut acceptor, address) = "tcp://127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
    let Address::Tcp(host_and_port) = address else { panic!("a TCP address") };
    let interrupt = Interrupt::default();
    thread::scope(|scope| {
        let received =
            scope.spawn(|| receive(&mut SimHost::default(), &mut *acceptor, &interrupt, |_, _| ()));
        let raised = RaiseOnDrop(&interrupt);
        call(&host_and_port);
        // Whoever is waited for still has had its chance.
        thread::sleep(Duration::from_millis(50));
        drop(raised);
        received.join().expect("no panic").err().expect("nothing arrived")
    })
}

#[test]
fn callers_who_are_no_ferry_are_turned_away_and_the_next_is_served() {
    let error = receive_from(|address| {
        for words in [&b"GET / HTTP/1.1\r\nHost: ferry.example\r\n\r\n"[..], &[0xff; 64], b""] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            // It may be turned away before it has said all.
            stream.write_all(words).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
        // A Ferry is still welcome.
        let mut stream = TcpStream::connect(address).unwrap();
        let greeting = Greeting::new([1; 16], Role::Control);
        stream.write_all(&greeting.encode()).unwrap();
        let mut answer = [0; GREETING_BYTES];
        stream.read_exact(&mut answer).unwrap();
        greeting.check_answer(&answer).unwrap();
    });
    assert!(matches!(error, ReceiveError::Accept(_)), "{error}");
}

#[test]
fn a_source_that_says_nonsense_is_told_so() {
    for nonsense in [FromSource::Start { valid_ms: 1 }, FromSource::Probe] {
        let error = receive_from(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&Greeting::new([1; 16], Role::Control).encode()).unwrap();
            stream.read_exact(&mut [0; GREETING_BYTES]).unwrap();
            stream.write_all(&encode_message(&nonsense).unwrap()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok();
            assert!(String::from_utf8_lossy(&answer).contains("where it should not"));
        });
        // That was no try: the next caller is waited for.
        assert!(matches!(error, ReceiveError::Accept(_)), "{error}");
    }
}

/// Issue 12, entry 10: half a byte a second must not keep a receiver busy for ever.
#[test]
fn entry_10_callers_who_trickle_are_turned_away_and_the_next_is_served() {
    let greeting = Greeting::new([1; 16], Role::Control);
    let error = receive_from(|address| {
        // One trickles its greeting, the other its offer: 8 bytes of prefix that announce a few more.
        for greets in [false, true] {
            let mut stream = TcpStream::connect(address).unwrap();
            if greets {
                stream.write_all(&greeting.encode()).unwrap();
                stream.read_exact(&mut [0; GREETING_BYTES]).unwrap();
            }
            let words = if greets { [100, 0, 0, 0].repeat(8) } else { greeting.encode().to_vec() };
            let mut other = stream.try_clone().unwrap();
            other.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
            let sender = thread::spawn(move || {
                for byte in words {
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(900));
                }
            });
            // What it says at the end is another matter; it hangs up.
            let ended = other.read_to_end(&mut Vec::new());
            let gave_up = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!gave_up, "greets: {greets}: {ended:?}");
            other.shutdown(std::net::Shutdown::Both).ok();
            sender.join().unwrap();
        }
        let mut next = TcpStream::connect(address).unwrap();
        next.write_all(&greeting.encode()).unwrap();
        next.read_exact(&mut [0; GREETING_BYTES]).unwrap();
    });
    // Nobody offered anything: it still waits when the test ends it.
    assert!(matches!(error, ReceiveError::Accept(_)), "{error}");
}
