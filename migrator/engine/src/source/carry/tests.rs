//! Carrying when more frames come than there is room for.

use std::sync::Mutex;

use super::*;
use crate::transport::{Acceptor, Connector, Interrupt, memory};

/// A queue with so many frames, each of which is its number.
struct Queue(Mutex<std::ops::Range<u32>>);

impl Network for Queue {
    fn take_frame(&self, frame: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
        let next = self.0.lock().expect("nobody panics").next();
        Ok(next.map(|number| {
            frame[..64].fill(0);
            frame[..4].copy_from_slice(&number.to_le_bytes());
            (0, 64)
        }))
    }

    fn wait(&self, at_most: Duration) {
        std::thread::sleep(at_most);
    }

    fn inject(&self, _: u16, _: &[u8]) -> Result<(), VmError> {
        Ok(())
    }

    fn announce(&self) -> Result<(), VmError> {
        Ok(())
    }

    fn learning_time(&self) -> Duration {
        Duration::from_millis(1)
    }
}

/// More than a destination has room for while its guest does not run yet: the rest comes when it is about to.
#[test]
fn frames_of_a_long_pause_wait_for_the_handover_and_none_is_lost() {
    const MORE: u32 = 500;
    let count = WAITING_FRAMES as u32 + MORE;
    let queue = Arc::new(Queue(Mutex::new(0..count)));
    let interrupt = Interrupt::default();
    let (connector, mut acceptor) = memory::pair();
    let wire = connector.connect(&interrupt).expect("a link");
    let mut other = acceptor.accept(&interrupt, None).expect("a link");
    let arrived = std::thread::spawn(move || {
        let (mut header, mut frame) = ([0; NETWORK_HEADER_BYTES], [0; 64]);
        let mut numbers = Vec::new();
        loop {
            other.receive(&mut header).expect("a header");
            let Some((_, len)) = NetworkHeader::decode(header).expect("a good one") else {
                return numbers;
            };
            other.receive(&mut frame[..len]).expect("a frame");
            numbers.push(u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]));
        }
    });
    let left = || queue.0.lock().expect("nobody panics").len();
    let mut carrier = Some(Carrier::spawn(wire, queue.clone()).expect("a thread"));
    let mut carrying = Carrying::begin(&mut carrier);
    while left() > MORE as usize {
        std::thread::sleep(TICK);
    }
    std::thread::sleep(4 * TICK);
    assert_eq!(left(), MORE as usize, "more was taken than there is room for");
    carrying.handed_over();
    carrying.announced();
    drop(carrying);
    assert_eq!(carrier.expect("it was handed over").finish(), u64::from(count));
    assert!(arrived.join().expect("no panic").into_iter().eq(0..count));
}
