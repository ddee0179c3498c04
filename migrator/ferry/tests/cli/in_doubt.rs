//! Nobody knows whether the guest runs at the destination: the answer to Start is lost, by a cut in the link or by the
//! death of the destination.
//!
//! Between the two processes stands a relay that reads the control link, so that the cut comes exactly there.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use engine::pages::PAGE_SIZE;
use engine::protocol::{FromDestination, FromSource, GREETING_BYTES, Greeting, Role, decode_message};
use serde::de::DeserializeOwned;

use crate::ferry::{Host, Running, await_that};

/// Where the relay cuts all links of a migration.
enum Cut {
    /// Instead of passing on Start, and after doing this.
    AtStart(Box<dyn FnMut() + Send>),
    /// Instead of passing on the answer to Start.
    AtAnswer,
}

/// All that the threads of a relay share.
struct Relay {
    cut: Mutex<Cut>,
    ends: Mutex<Vec<TcpStream>>,
}

/// Relays all links of one migration, until it cuts them. Returns where to migrate to.
fn relay(to: &str, cut: Cut) -> String {
    let to = to.strip_prefix("tcp://").expect("an address").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let relay = Arc::new(Relay { cut: Mutex::new(cut), ends: Mutex::default() });
    // Ends with the test's process; it holds nothing but sockets.
    thread::spawn(move || {
        while let Ok((source, _)) = listener.accept() {
            let relay = relay.clone();
            let destination = TcpStream::connect(&to).unwrap();
            thread::spawn(move || relay.link(source, destination).ok());
        }
    });
    address
}

impl Relay {
    /// Passes on what is said on one link, both ways.
    fn link(self: Arc<Relay>, mut source: TcpStream, mut destination: TcpStream) -> io::Result<()> {
        self.ends.lock().unwrap().extend([source.try_clone()?, destination.try_clone()?]);
        let mut greeting = [0; GREETING_BYTES];
        source.read_exact(&mut greeting)?;
        destination.write_all(&greeting)?;
        let is_control = Greeting::decode(&greeting).expect("a greeting").role == Role::Control;
        let (mut answers, mut back) = (destination.try_clone()?, source.try_clone()?);
        let relay = self.clone();
        thread::spawn(move || relay.answers(is_control, &mut answers, &mut back).ok());
        if !is_control {
            return io::copy(&mut source, &mut destination).map(drop);
        }
        loop {
            let (bytes, message) = read_message::<FromSource>(&mut source)?;
            if matches!(message, FromSource::Start { .. })
                && let Cut::AtStart(first) = &mut *self.cut.lock().unwrap()
            {
                first();
                return self.cut_all();
            }
            destination.write_all(&bytes)?;
            if let FromSource::State(state) = message {
                let mut along = vec![0; state.along.pages.len() * PAGE_SIZE];
                source.read_exact(&mut along)?;
                destination.write_all(&along)?;
            }
        }
    }

    fn answers(&self, is_control: bool, from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
        if !is_control {
            return io::copy(from, to).map(drop);
        }
        let mut greeting = [0; GREETING_BYTES];
        from.read_exact(&mut greeting)?;
        to.write_all(&greeting)?;
        loop {
            let (bytes, message) = read_message::<FromDestination>(from)?;
            let is_answer = matches!(message, FromDestination::Running { .. });
            if is_answer && matches!(*self.cut.lock().unwrap(), Cut::AtAnswer) {
                return self.cut_all();
            }
            to.write_all(&bytes)?;
        }
    }

    fn cut_all(&self) -> io::Result<()> {
        for end in self.ends.lock().unwrap().drain(..) {
            // One that has closed is cut already.
            end.shutdown(Shutdown::Both).ok();
        }
        Ok(())
    }
}

/// A message of the control link, and its bytes: length, checksum, and what they are of.
fn read_message<M: DeserializeOwned>(from: &mut TcpStream) -> io::Result<(Vec<u8>, M)> {
    let mut bytes = vec![0; 8];
    from.read_exact(&mut bytes)?;
    let number = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"));
    let (length, checksum) = (number(0) as usize, number(4));
    bytes.resize(8 + length, 0);
    from.read_exact(&mut bytes[8..])?;
    let message = decode_message(checksum, &bytes[8..]).expect("a message");
    Ok((bytes, message))
}

/// Its address, and the process.
fn receive(host: &Host) -> (String, Running) {
    let mut receive =
        host.start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--name", "b", "--no-console"]);
    let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
    (address, receive)
}

/// The source does not know, says what to look for, and does not let its guest run by mistake.
fn assert_in_doubt(host: &Host, address: &str, strategy: &str) {
    let done = host.ferry(&["migrate", "a", address, "-s", strategy, "--json"]);
    done.fails(
        3,
        &[
            "it is not known whether a runs at the destination",
            "Here it is paused and whole",
            "`ferry stop a`",
            "`ferry resume --force a`",
        ],
    );
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["outcome"], "unknown");
    assert_eq!(host.status("a"), "unknown");
    host.ferry(&["resume", "a"]).fails(1, &["look there first", "--force"]);
    host.ferry(&["migrate", "a", address]).fails(1, &["look there first"]);
}

#[test]
fn a_lost_answer_leaves_the_guest_at_the_destination() {
    for strategy in ["stop-and-copy", "pre-copy"] {
        let host = Host::new();
        host.run_sim("a", &[]);
        let (address, _receive) = receive(&host);
        assert_in_doubt(&host, &relay(&address, Cut::AtAnswer), strategy);
        // The user looks there, finds it, and ends what is left of it here.
        host.await_status("b", "running");
        host.assert_alive("b");
        host.ferry(&["stop", "a"]).succeeds();
        await_that("it is gone", || !host.socket("a").exists());
        host.assert_alive("b");
    }
}

/// With pages missing the guest there cannot run on, and the memory here is what there is of it.
#[test]
fn an_answer_lost_with_missing_pages_leaves_its_memory_here() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let (address, _receive) = receive(&host);
    assert_in_doubt(&host, &relay(&address, Cut::AtAnswer), "post-copy");
    host.await_status("b", "interrupted");
    // Entry 24: no force makes a whole guest of one with holes.
    for words in [
        &["resume", "b"][..],
        &["resume", "--force", "b"],
        &["migrate", "b", &address, "--verify"],
        &["check", "b"],
    ] {
        host.ferry(words).fails(1, &["never came", "`ferry stop b`"]);
    }
    host.ferry(&["stop", "b"]).succeeds();
    await_that("it is gone", || !host.socket("b").exists());
    host.ferry(&["resume", "--force", "a"]).succeeds();
    host.assert_alive("a");
}

#[test]
fn a_word_that_never_came_leaves_the_guest_here() {
    for strategy in ["stop-and-copy", "pre-copy", "post-copy"] {
        let host = Host::new();
        host.run_sim("a", &[]);
        let (address, _receive) = receive(&host);
        assert_in_doubt(&host, &relay(&address, Cut::AtStart(Box::new(|| {}))), strategy);
        // The user looks there: it waits for a VM, and runs none.
        host.await_status("b", "receiving");
        host.ferry(&["resume", "--force", "a"]).succeeds();
        host.assert_alive("a");
        // And a second try succeeds.
        host.ferry(&["migrate", "a", &address, "-s", strategy, "--verify"]).succeeds();
        host.assert_alive("b");
    }
}

#[test]
fn a_destination_that_is_killed_at_the_word_leaves_the_guest_here() {
    for strategy in ["stop-and-copy", "pre-copy", "post-copy"] {
        let host = Host::new();
        host.run_sim("a", &[]);
        let (address, receive) = receive(&host);
        let receive = Arc::new(Mutex::new(receive));
        let victim = receive.clone();
        let kill = move || {
            // Kill -9, and gone before the source hears anything.
            let child = &mut victim.lock().unwrap().child;
            child.kill().unwrap();
            child.wait().unwrap();
        };
        assert_in_doubt(&host, &relay(&address, Cut::AtStart(Box::new(kill))), strategy);
        // The user looks there: nothing is left.
        host.ferry(&["info", "b"]).fails(1, &["b"]);
        host.ferry(&["resume", "--force", "a"]).succeeds();
        host.assert_alive("a");
    }
}
