//! What is typed into a guest's console while the guest moves, and what its users see of it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Duration,
};

use crate::ferry::{Host, PATIENCE, await_that};

/// One who types numbered lines, goes after the guest, and types again only what is said not to have been read.
pub struct Typist {
    stream: UnixStream,
    /// All lines, one after the other.
    lines: Vec<u8>,
    count: usize,
    /// How much of it was written to a console and not given back.
    written: usize,
}

impl Typist {
    pub fn at(console: PathBuf) -> Typist {
        Typist { stream: connect(console), lines: Vec::new(), count: 0, written: 0 }
    }

    /// Types the next line, in pieces. Returns false once the console's connection has ended.
    pub fn types_a_line(&mut self) -> bool {
        self.lines.extend(format!("line {}\r", self.count).bytes());
        self.count += 1;
        self.types_the_rest()
    }

    fn types_the_rest(&mut self) -> bool {
        while self.written < self.lines.len() {
            let piece = &self.lines[self.written..];
            match self.stream.write(&piece[..piece.len().min(3)]) {
                Ok(count) => self.written += count,
                Err(_) => return false,
            }
        }
        true
    }

    /// Types until the connection ends, reads where the guest is and what it has not got, and goes there.
    pub fn follows(&mut self, address: &str, console: PathBuf) {
        let begin = std::time::Instant::now();
        while self.types_a_line() {
            assert!(begin.elapsed() < PATIENCE, "the connection does not end");
            thread::sleep(Duration::from_millis(10));
        }
        let goodbye = read_to_end(&mut self.stream);
        assert!(goodbye.contains(&format!(" runs at {address} now")), "{goodbye}");
        self.written -= unread(&goodbye);
        self.stream = connect(console);
        assert!(self.types_the_rest());
    }

    /// The number of lines, once the guest has said the last of them.
    pub fn ends(mut self, says: &str) -> (usize, String) {
        self.types_a_line();
        let last = format!("{says}line {}\r\n", self.count - 1);
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        while !seen.contains(&last) {
            let length = self.stream.read(&mut buffer).expect("the guest answers");
            assert_ne!(length, 0, "the console closed: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        (self.count, seen)
    }
}

fn connect(console: PathBuf) -> UnixStream {
    let stream = UnixStream::connect(console).expect("a console");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_to_end(stream: &mut UnixStream) -> String {
    let mut words = Vec::new();
    stream.read_to_end(&mut words).expect("an end, and no reset");
    String::from_utf8_lossy(&words).into_owned()
}

/// How many bytes are said not to have been read.
fn unread(goodbye: &str) -> usize {
    let rest = goodbye.rsplit_once("; the last ").map(|(_, rest)| rest);
    rest.map_or(0, |rest| rest.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(1))
}

/// Each line is there once, in order.
pub fn assert_each_line_once(seen: &str, count: usize, says: &str) {
    let mut times = BTreeMap::<usize, usize>::new();
    let mut order = Vec::new();
    for line in seen.lines() {
        if let Some(number) = line.strip_prefix(says).and_then(|line| line.strip_prefix("line ")) {
            let number = number.trim_end().parse().unwrap_or_else(|_| panic!("{line:?}"));
            *times.entry(number).or_default() += 1;
            order.push(number);
        }
    }
    let wrong: Vec<_> = (0..count).filter(|number| times.get(number) != Some(&1)).collect();
    assert!(wrong.is_empty(), "of {count} lines these were not seen once: {wrong:?}\n{seen}");
    assert!(order.is_sorted(), "{order:?}");
}

pub fn console(host: &Host, name: &str) -> PathBuf {
    host.runtime().join("ferry").join(format!("{name}.console"))
}

#[test]
fn entry_22_every_line_typed_over_50_moves_is_heard_once() {
    let host = Host::new();
    host.run_sim("vm0", &[]);
    let mut typist = Typist::at(console(&host, "vm0"));
    let strategies = ["stop-and-copy", "pre-copy", "post-copy"];
    for at in 0..51 {
        let (from, to) = (format!("vm{at}"), format!("vm{}", at + 1));
        let address = host.receive(&to);
        let migrate = host.start(&["migrate", &from, &address, "-s", strategies[at % 3]]);
        typist.follows(&address, console(&host, &to));
        let end = migrate.end();
        assert!(end.status.success(), "{end:?}");
    }
    let (count, _) = typist.ends("heard ");
    // The history came along, too: one who comes now sees all of it.
    let mut late = connect(console(&host, "vm51"));
    let mut seen = String::new();
    let last = format!("heard line {}\r\n", count - 1);
    let mut buffer = [0; 4096];
    while !seen.contains(&last) {
        let length = late.read(&mut buffer).expect("what was written before");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(count > 51, "{count}");
    assert_each_line_once(&seen, count, "heard ");
}

/// For as long as the push takes, the source has nobody to type to.
#[test]
fn entry_22_what_a_guest_that_has_left_is_asked_is_refused_and_its_console_says_where_it_is() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let mut early = connect(console(&host, "a"));
    early.write_all(b"before\r").unwrap();
    let address = host.receive("b");
    // Typed before the guest has come: it waits for it.
    let mut eager = connect(console(&host, "b"));
    eager.write_all(b"first there\r").unwrap();
    let slow = ["migrate", "a", &address, "-s", "post-copy", "--max-bandwidth", "16Mbit"];
    let migrate = host.start(&slow);
    host.await_status("b", "running");
    let goodbye = read_to_end(&mut early);
    assert!(goodbye.contains("heard before\r\n"), "{goodbye}");
    assert!(goodbye.ends_with(&format!("[ferry: a runs at {address} now]\r\n")), "{goodbye}");
    // One who comes later sees the same, and is told at once.
    assert_eq!(read_to_end(&mut connect(console(&host, "a"))), goodbye);
    host.ferry(&["balloon", "a"]).fails(1, &["too late: a runs at"]);
    host.ferry(&["balloon", "a", "1MiB"]).fails(1, &["too late: a runs at"]);
    host.ferry(&["check", "a"]).fails(1, &["too late: a runs at"]);
    host.ferry(&["pause", "a"]).fails(1, &["too late: a runs at"]);
    host.ferry(&["resume", "--force", "a"]).fails(1, &["too late: a runs at"]);
    host.ferry(&["migrate", "a", &address]).fails(1, &["too late: a runs at"]);
    let mut seen = String::new();
    let mut buffer = [0; 512];
    while !seen.contains("heard first there\r\n") {
        let length = eager.read(&mut buffer).expect("the guest answers");
        assert_ne!(length, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let history = "A simulated guest says each line again.\r\nheard before\r\n";
    assert!(seen.starts_with(history), "the history came first, and once: {seen}");
    host.ferry(&["stop", "b"]).succeeds();
    drop(migrate.end());
}

#[test]
fn entry_22_after_a_migration_that_failed_typing_goes_on() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let mut typist = Typist::at(console(&host, "a"));
    let address = host.receive("b");
    for _ in 0..3 {
        let migrate = host.start(&["migrate", "a", &address, "--max-bandwidth", "8Mbit"]);
        host.await_status("a", "migrating");
        assert!(typist.types_a_line());
        host.ferry(&["cancel", "a"]).succeeds();
        drop(migrate.end());
        assert!(typist.types_a_line());
    }
    // One that is paused hears it when it is resumed.
    host.ferry(&["pause", "a"]).succeeds();
    host.ferry(&["migrate", "a", &address, "--timeout", "1us"]).fails(1, &["stays paused here"]);
    assert!(typist.types_a_line());
    host.ferry(&["resume", "a"]).succeeds();
    await_that("it runs", || host.status("a") == "running");
    let (count, seen) = typist.ends("heard ");
    assert_each_line_once(&seen, count, "heard ");
}
