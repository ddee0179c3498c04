//! The network between the hosts: an Ethernet switch that learns who is where, in this process.
//!
//! QEMU hands over frames on a stream socket, each behind its length (big-endian `u32`). A port that does not take its
//! frames loses those that no longer fit into its queue, so that a host that stands still holds up nobody else.

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

/// Frames that wait for a host: at 1500 bytes each, 6 MB.
const QUEUE: usize = 4096;

/// Longest frame that is passed on; longer ones end the port.
const MAX_FRAME_BYTES: usize = 64 << 10;

type Address = [u8; 6];

#[derive(Default)]
struct Table {
    ports: Vec<SyncSender<Vec<u8>>>,
    learned: HashMap<Address, usize>,
    cut: HashSet<(usize, usize)>,
}

/// A switch. Its threads end when the sockets of its ports do.
#[derive(Clone, Default)]
pub struct Switch(Arc<Mutex<Table>>);

impl Switch {
    /// One more port; they are numbered from 0.
    ///
    /// # Errors
    /// If there is no second handle to the socket, or no thread.
    pub fn connect(&self, socket: UnixStream) -> io::Result<()> {
        let (sender, queue) = sync_channel::<Vec<u8>>(QUEUE);
        let mut output = socket.try_clone()?;
        let port = {
            let mut table = self.table();
            table.ports.push(sender);
            table.ports.len() - 1
        };
        thread::Builder::new().name(format!("port {port} out")).spawn(move || {
            for frame in queue {
                if output.write_all(&frame).is_err() {
                    break;
                }
            }
        })?;
        let switch = self.clone();
        thread::Builder::new().name(format!("port {port} in")).spawn(move || {
            let mut input = BufReader::with_capacity(256 << 10, socket);
            // It ends with the host.
            while let Ok(frame) = read_frame(&mut input) {
                switch.pass_on(port, &frame);
            }
        })?;
        Ok(())
    }

    /// Cuts the link between two ports, both ways, or mends it. Links of both to others stay.
    pub fn cut(&self, one: usize, other: usize, is_cut: bool) {
        let mut table = self.table();
        for pair in [(one, other), (other, one)] {
            if is_cut {
                table.cut.insert(pair);
            } else {
                table.cut.remove(&pair);
            }
        }
    }

    /// `frame` with its length in front, as it goes out again.
    fn pass_on(&self, from: usize, frame: &[u8]) {
        let (Some(to), Some(source)) = (address(frame, 4), address(frame, 10)) else { return };
        let mut table = self.table();
        // A guest that has moved is where it was heard last.
        table.learned.insert(source, from);
        let is_group = to[0] & 1 == 1;
        let known = table.learned.get(&to).copied().filter(|_| !is_group);
        for (port, queue) in table.ports.iter().enumerate() {
            let is_for_it = port != from && known.is_none_or(|known| known == port);
            if is_for_it && !table.cut.contains(&(from, port)) {
                // A queue that is full loses the frame, as a switch does.
                queue.try_send(frame.to_vec()).ok();
            }
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Whatever thread panicked left a table that is whole: each change is one insertion.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let bytes = u32::from_be_bytes(length) as usize;
    if bytes > MAX_FRAME_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    input.read_exact(&mut frame[4..])?;
    Ok(frame)
}

fn address(frame: &[u8], at: usize) -> Option<Address> {
    frame.get(at..at + 6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(to: u8, from: u8, content: &[u8]) -> Vec<u8> {
        let mut frame = (12 + content.len() as u32).to_be_bytes().to_vec();
        frame.extend([to, 0, 0, 0, 0, 0, from, 0, 0, 0, 0, 0]);
        frame.extend(content);
        frame
    }

    fn hosts(switch: &Switch) -> Vec<UnixStream> {
        let connect = |_| {
            let (host, port) = UnixStream::pair().unwrap();
            host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            switch.connect(port).unwrap();
            host
        };
        (0..3).map(connect).collect()
    }

    fn expect(host: &mut UnixStream, frame: &[u8]) {
        let mut bytes = vec![0; frame.len()];
        host.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, frame);
    }

    #[test]
    fn unknown_and_group_addresses_go_to_all_known_ones_to_one() {
        let mut hosts = hosts(&Switch::default());
        let (hello, to_all) = (frame(0x02, 0x0a, b"hello"), frame(0xff, 0x0c, b"all"));
        hosts[0].write_all(&hello).unwrap();
        expect(&mut hosts[1], &hello);
        expect(&mut hosts[2], &hello);
        let answer = frame(0x0a, 0x0c, b"answer");
        hosts[2].write_all(&answer).unwrap();
        expect(&mut hosts[0], &answer);
        hosts[2].write_all(&to_all).unwrap();
        // Had the answer gone to port 1 as well, it would come first.
        expect(&mut hosts[1], &to_all);
    }

    #[test]
    fn a_guest_that_moved_is_where_it_was_heard_last() {
        let mut hosts = hosts(&Switch::default());
        for host in 0..2 {
            let announcement = frame(0xff, 0x0a, b"here I am");
            hosts[host].write_all(&announcement).unwrap();
            for other in (0..3).filter(|other| *other != host) {
                expect(&mut hosts[other], &announcement);
            }
        }
        let (request, to_all) = (frame(0x0a, 0x0c, b"request"), frame(0xff, 0x0c, b"all"));
        hosts[2].write_all(&request).unwrap();
        hosts[2].write_all(&to_all).unwrap();
        expect(&mut hosts[1], &request);
        expect(&mut hosts[0], &to_all);
    }

    #[test]
    fn a_cut_link_carries_nothing_until_it_is_mended() {
        let switch = Switch::default();
        let mut hosts = hosts(&switch);
        switch.cut(1, 0, true);
        let (lost, kept) = (frame(0xff, 0x0a, b"lost"), frame(0xff, 0x0a, b"kept"));
        hosts[0].write_all(&lost).unwrap();
        expect(&mut hosts[2], &lost);
        switch.cut(0, 1, false);
        hosts[0].write_all(&kept).unwrap();
        expect(&mut hosts[1], &kept);
    }
}
