use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::driver::{Driver, PATIENCE, QUEUE_SIZE, Rig, places, until};
use crate::devices::virtio::hostile;

pub(super) const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
pub(super) const RECEIVE: usize = 0;
pub(super) const TRANSMIT: usize = 1;
const EVENT_IDX: u64 = 1 << 29;

/// A card whose tap is a socket: what it sends comes out of the other end.
fn card() -> (Rig, NetPort, UnixDatagram) {
    card_on(None)
}

fn card_on(memory: Option<Arc<crate::GuestMemory>>) -> (Rig, NetPort, UnixDatagram) {
    let (inside, outside) = UnixDatagram::pair().expect("a pair");
    outside.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut port = None;
    let make = |control| {
        let (net, its_port) = Net::new(Tap::of_socket(inside), MAC, control);
        port = Some(its_port);
        Box::new(net) as Box<dyn Function>
    };
    let rig = match memory {
        Some(memory) => Rig::with_memory(memory, make),
        None => Rig::new(make),
    };
    (rig, port.expect("made"), outside)
}

/// A frame with its header, told apart by `number`.
pub(super) fn frame(number: u32, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER_BYTES];
    frame.extend(MAC.0);
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.extend(number.to_le_bytes());
    frame.extend((0..bytes).map(|at| (at as u32 ^ number) as u8));
    frame
}

pub(super) fn number_of(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[26..30].try_into().expect("4 bytes"))
}

pub(super) fn buffer_at(index: u64) -> u64 {
    0x20_0000 + index * 0x1000
}

pub(super) fn give_buffers(driver: &mut Driver, first: u64, count: u64) {
    for index in first..first + count {
        driver.add(RECEIVE, &[(buffer_at(index), 2048, true)]);
    }
    driver.kick(RECEIVE);
}

pub(super) fn received(rig: &Rig, index: u64, bytes: u32) -> Vec<u8> {
    let mut frame = vec![0; bytes as usize];
    rig.memory.read(buffer_at(index), &mut frame).expect("in memory");
    frame
}

/// Frames go both ways, whichever way the two sides tell each other of them.
#[test]
fn frames_go_both_ways() {
    for without in [0, EVENT_IDX] {
        let (rig, port, outside) = card();
        let mut driver = rig.driver(2);
        driver.set_up(without);
        rig.device.open(true);
        give_buffers(&mut driver, 0, 4);
        until("the card has dropped what is stale", || {
            outside.send(&frame(7, 100)).expect("sends");
            port.counters().received > 0
        });
        assert_eq!(driver.wait_used(RECEIVE), 130);
        let mut expected = frame(7, 100);
        expected[NUM_BUFFERS_AT] = 1;
        assert_eq!(received(&rig, 0, 130), expected);
        // Raised just after the buffer was used.
        until("an interrupt is pending", || driver.read(0x60) & 1 == 1);
        driver.write(0x64, 1);
        assert_eq!(driver.read(0x60) & 1, 0, "and acknowledged");

        // A frame of two parts, its header asking for what was not agreed on.
        let mut sent = frame(8, 500);
        rig.memory.write(buffer_at(20), &[0xff; 12]).expect("in memory");
        rig.memory.write(buffer_at(21), &sent[12..]).expect("in memory");
        for _ in 0..3 {
            driver
                .add(TRANSMIT, &[(buffer_at(20), 12, false), (buffer_at(21), sent.len() as u32 - 12, false)]);
            driver.kick(TRANSMIT);
            assert_eq!(driver.wait_used(TRANSMIT), 0);
            let mut came = vec![0; 2000];
            let length = outside.recv(&mut came).expect("receives");
            sent[..12].fill(0);
            assert_eq!(came[..length], sent);
        }
        assert_eq!(port.counters().sent, 3);
        assert_eq!(port.counters().dropped, 0);
    }
}

#[test]
fn every_page_the_card_writes_is_dirty_and_no_other() {
    let (rig, port, outside) = card();
    let mut driver = rig.driver(2);
    driver.set_up(0);
    rig.device.open(true);
    port.announce().expect("drops what is stale");
    driver.add(RECEIVE, &[(buffer_at(0) + 4000, 2048, true)]);
    for word in 0..rig.memory.bitmap_words() {
        rig.memory.written().take_word(word);
    }
    driver.kick(RECEIVE);
    outside.send(&frame(1, 200)).expect("sends");
    until("it is received", || port.counters().received == 1);
    rig.close();
    let marked: Vec<u64> =
        (0..rig.memory.page_count()).filter(|page| rig.memory.written().is_marked(*page)).collect();
    let [.., used] = places(RECEIVE);
    // The transmit queue's used ring tells the driver when to kick.
    let [.., sent] = places(TRANSMIT);
    let written = [used, sent, buffer_at(0), buffer_at(1)].map(|address| address / 4096);
    assert!(marked.iter().all(|page| written.contains(page)), "{marked:?}");
    assert!([used, buffer_at(0), buffer_at(1)].iter().all(|at| marked.contains(&(at / 4096))), "{marked:?}");
}

#[test]
fn a_paused_card_touches_nothing_and_frames_are_carried_in_order() {
    let (source, source_port, source_net) = card();
    let mut driver = source.driver(2);
    driver.set_up(0);
    source.device.open(true);
    source_port.announce().expect("drops what is stale");
    give_buffers(&mut driver, 0, 2);
    for number in 0..5 {
        source_net.send(&frame(number, 60)).expect("sends");
    }
    // Two find a buffer, the others stay in the tap.
    assert_eq!((driver.wait_used(RECEIVE), driver.wait_used(RECEIVE)), (90, 90));
    assert!(source_port.take_frame(&mut [0; 2000]).is_err(), "not while the machine runs");
    source.close();
    give_buffers(&mut driver, 2, 8);
    source_net.send(&frame(5, 60)).expect("sends");
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    let mut carried = Vec::new();
    while let Some(length) = source_port.take_frame(&mut buffer).expect("reads") {
        carried.push(buffer[..length].to_vec());
    }
    assert_eq!(carried.iter().map(|frame| number_of(frame)).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(driver.used(RECEIVE), None, "nothing arrives while it stands still");

    // The destination has the same memory, some frames of its own that are stale, and some that are not.
    let (destination, port, net) = card_on(Some(Arc::clone(&source.memory)));
    net.send(&frame(99, 60)).expect("sends");
    let state = source.device.save();
    destination.device.check(&state).expect("fits");
    destination.device.restore(&state);
    port.inject(&carried[0]).expect("room");
    destination.device.restore(&state);
    destination.device.open(true);
    for frame in &carried[1..] {
        port.inject(frame).expect("room");
    }
    port.announce().expect("announces");
    net.send(&frame(6, 60)).expect("sends");
    let mut order = Vec::new();
    for index in 2..7 {
        let bytes = driver.wait_used(RECEIVE);
        order.push(number_of(&received(&destination, index, bytes)));
    }
    assert_eq!(order, [2, 3, 4, 5, 6]);
    let counters = port.counters();
    assert_eq!((counters.injected, counters.received, counters.stale, counters.dropped), (4, 5, 1, 0));
    assert_eq!(source_port.counters(), NetCounters { received: 2, carried: 4, ..NetCounters::default() });
}

#[test]
fn frames_that_found_no_buffer_move_on_with_the_state() {
    let (first, port, _net) = card();
    let mut driver = first.driver(2);
    driver.set_up(0);
    first.device.open(true);
    for number in 0..3 {
        port.inject(&frame(number, 60)).expect("room");
    }
    assert_eq!(port.inject(&[0; MIN_FRAME_BYTES - 1]), Err(InjectError::Length { bytes: 25 }));
    first.close();
    let state = first.device.save();
    let (second, port, _net) = card_on(Some(Arc::clone(&first.memory)));
    second.device.check(&state).expect("fits");
    second.device.restore(&state);
    port.inject(&frame(3, 60)).expect("room");
    second.device.open(true);
    let mut driver = driver.on(Arc::clone(&second.device) as _, &second.memory);
    give_buffers(&mut driver, 0, 4);
    for index in 0..4 {
        let bytes = driver.wait_used(RECEIVE);
        assert_eq!(number_of(&received(&second, index, bytes)), index as u32);
    }
}

#[test]
fn a_kick_that_got_lost_is_made_up_for_at_the_start() {
    let (first, _port, _net) = card();
    let mut driver = first.driver(2);
    driver.set_up(0);
    first.device.open(true);
    first.close();
    let sent = frame(1, 60);
    first.memory.write(buffer_at(0), &sent).expect("in memory");
    driver.add(TRANSMIT, &[(buffer_at(0), sent.len() as u32, false)]);
    let state = first.device.save();
    let (second, port, net) = card_on(Some(Arc::clone(&first.memory)));
    second.device.restore(&state);
    second.device.open(true);
    let mut came = vec![0; 2000];
    assert_eq!(net.recv(&mut came).expect("sent by the second"), sent.len());
    until("it is counted", || port.counters().sent == 1);
}

#[test]
fn announcements_name_the_address_the_guest_was_heard_with() {
    let (rig, port, outside) = card();
    let mut driver = rig.driver(2);
    driver.set_up(0);
    rig.device.open(true);
    let mut came = vec![0; 2000];
    let mut next = || {
        let length = outside.recv(&mut came).expect("receives");
        came[..length].to_vec()
    };
    port.announce().expect("announces");
    assert_eq!(next()[24..26], [0x80, 0x35], "RARP alone while the address is not known");
    let arp = announce::arp(MAC, [10, 0, 0, 2].into());
    rig.memory.write(buffer_at(0), &arp).expect("in memory");
    driver.add(TRANSMIT, &[(buffer_at(0), arp.len() as u32, false)]);
    driver.kick(TRANSMIT);
    assert_eq!(next(), arp);
    rig.close();
    let state = rig.device.save();
    let (other, port, outside) = card();
    other.device.restore(&state);
    assert_eq!(port.guest_address(), Some([10, 0, 0, 2].into()));
    port.announce().expect("says nothing before the start");
    other.device.open(true);
    port.announce().expect("announces");
    let length = outside.recv(&mut came).expect("receives");
    assert_eq!(came[..length], arp);
    outside.recv(&mut came).expect("RARP, too");
    other.close();
    port.announce().expect("says nothing once the guest has left");
    outside.set_nonblocking(true).expect("a socket");
    assert!(outside.recv(&mut came).is_err(), "nothing more was said");
}

#[test]
fn long_frames_and_bad_chains_are_dropped_and_counted() {
    let (rig, port, outside) = card();
    let mut driver = rig.driver(2);
    driver.set_up(0);
    rig.device.open(true);
    port.announce().expect("drops what is stale");
    driver.add(RECEIVE, &[(buffer_at(0), 100, true)]);
    driver.kick(RECEIVE);
    outside.send(&frame(1, 71)).expect("sends");
    until("it is dropped", || port.counters().dropped == 1);
    outside.send(&frame(2, 70)).expect("sends");
    assert_eq!(driver.wait_used(RECEIVE), 100);
    for bad in [
        vec![(u64::MAX, 100, false)],
        vec![(buffer_at(0), 25, false)],
        vec![(buffer_at(0), 100, true), (buffer_at(0), 100, false)],
        vec![(buffer_at(0), 1 << 20, false)],
    ] {
        let before = port.counters().dropped;
        driver.add(TRANSMIT, &bad);
        driver.kick(TRANSMIT);
        assert_eq!(driver.wait_used(TRANSMIT), 0);
        assert_eq!(port.counters().dropped, before + 1, "{bad:?}");
    }
    assert_eq!(driver.read(0x70), 15, "and it goes on");
}

#[test]
fn an_impossible_index_needs_a_reset_and_gets_it() {
    let (rig, port, _outside) = card();
    let mut driver = rig.driver(2);
    driver.set_up(0);
    rig.device.open(true);
    let [_, available, _] = places(TRANSMIT);
    rig.memory.write(available + 2, &(QUEUE_SIZE + 1).to_le_bytes()).expect("in memory");
    driver.kick(TRANSMIT);
    until("the device says so", || driver.read(0x70) == 15 | 64);
    assert_eq!(driver.read(0x60) & 2, 2, "by an interrupt, too");
    driver.set_up(0);
    port.inject(&frame(1, 60)).expect("room");
    give_buffers(&mut driver, 0, 1);
    assert_eq!(driver.wait_used(RECEIVE), 90);
}

#[test]
fn a_state_that_no_card_has_is_refused() {
    let (rig, ..) = card();
    let mut driver = rig.driver(2);
    driver.set_up(0);
    let good = rig.device.save();
    rig.device.check(&good).expect("fits");
    type Change = fn(&mut crate::devices::virtio::state::DeviceState);
    let bad: [(&str, Change); 7] = [
        ("place", |state| state.transport.queues[0].used = u64::MAX - 3),
        ("alignment", |state| state.transport.queues[0].descriptors += 1),
        ("size", |state| state.transport.queues[1].size = 512),
        ("queues", |state| state.transport.queues.truncate(1)),
        ("status", |state| state.transport.registers.status |= 1 << 20),
        ("features", |state| state.transport.registers.driver_features |= 1 << 6),
        ("kind", |state| state.function = FunctionState::Rng),
    ];
    for (name, change) in bad {
        let mut state = good.clone();
        change(&mut state);
        assert!(rig.device.check(&state).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn hostile_drivers_do_no_harm(script in proptest::collection::vec(any::<u8>(), 0..600)) {
        hostile::net(&script);
    }
}
