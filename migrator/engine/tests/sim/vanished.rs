//! Issue 12, entry 11: a destination whose host lost power. Nothing it sends arrives, no FIN and no RST either.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use crate::{
    one_guest::{assert_memory_right, boot},
    relay::vanish,
    waiting::offer,
};
use engine::{
    destination::receive,
    options::Options,
    protocol::{FromSource, GREETING_BYTES, Greeting, Role, encode_message},
    report::Outcome,
    sim::SimHost,
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt},
};

#[test]
fn entry_11_a_destination_that_vanishes_is_noticed_by_what_it_does_not_acknowledge() {
    // With the offer unread it is the offer that is never acknowledged, without it the kernel's probes.
    for reads_offer in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host_and_port = listener.local_addr().unwrap().to_string();
        let address = format!("tcp://{host_and_port}").parse::<Address>().unwrap();
        let (over, is_over) = channel::<()>();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut greeting = [0; GREETING_BYTES];
            stream.read_exact(&mut greeting).unwrap();
            if !reads_offer {
                vanish(&stream);
            }
            stream.write_all(&greeting).unwrap();
            if reads_offer {
                stream.read_exact(&mut [0; 8]).unwrap();
                thread::sleep(Duration::from_millis(100));
                vanish(&stream);
            }
            // It is gone, not closed.
            is_over.recv_timeout(Duration::from_secs(20)).expect("the source notices before");
        });
        let mut source = boot(1);
        let options = Options { peer_timeout: Duration::from_secs(1), ..Options::default() };
        let report = migrate(
            &mut source,
            &*address.connector(),
            Strategy::PreCopy,
            &options,
            &Interrupt::default(),
            &std::sync::Arc::default(),
        );
        over.send(()).ok();
        peer.join().unwrap();
        assert_eq!(report.outcome, Outcome::Failed);
        assert!(source.is_running());
        assert_memory_right(&source, "stayed");
        let error = report.error.unwrap();
        assert!(error.contains(&format!("nothing heard from {host_and_port} for 1 s")), "{error}");
    }
}

#[test]
fn entry_11_a_source_that_vanishes_is_noticed() {
    let (mut acceptor, address) = "tcp://127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
    acceptor.set_peer_timeout(Duration::from_secs(1));
    let host_and_port = address.to_string().replace("tcp://", "");
    let interrupt = Interrupt::default();
    thread::scope(|scope| {
        let received =
            scope.spawn(|| receive(&mut SimHost::default(), &mut *acceptor, &interrupt, |_, _| ()));
        let mut stream = TcpStream::connect(host_and_port).unwrap();
        stream.write_all(&Greeting::new([1; 16], Role::Control).encode()).unwrap();
        stream.read_exact(&mut [0; GREETING_BYTES]).unwrap();
        // Its other links never come.
        stream.write_all(&encode_message(&FromSource::Offer(offer("gone", false))).unwrap()).unwrap();
        thread::sleep(Duration::from_millis(100));
        vanish(&stream);
        let error = received.join().unwrap().err().expect("nothing arrived");
        let words = format!(
            "{error}: {}",
            std::error::Error::source(&error).map_or(String::new(), |e| format!("{e:?}"))
        );
        let here = stream.local_addr().unwrap();
        assert!(words.contains(&format!("nothing heard from {here} for 1 s")), "{words}");
    });
}
