//! A driver of the tests inflates, deflates and reports.

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::driver::{Rig, until};
use crate::devices::virtio::hostile;

const NUMBERS: u64 = 0x20_0000;
const PAGES: u64 = 0x30_0000;

fn device(memory: Option<&Rig>) -> (Rig, BalloonPort) {
    let mut port = None;
    let make = |control| {
        let (balloon, its_port) = Balloon::new(control);
        port = Some(its_port);
        Box::new(balloon) as Box<dyn Function>
    };
    let rig = match memory {
        Some(other) => Rig::with_memory(Arc::clone(&other.memory), make),
        None => Rig::new(make),
    };
    (rig, port.expect("made"))
}

fn resident(rig: &Rig, page: u64) -> bool {
    let mut bits = vec![0; rig.memory.bitmap_words()];
    rig.memory.resident(&mut bits).expect("asks");
    bits[page as usize / 64] >> (page % 64) & 1 == 1
}

/// Fills `count` pages and clears the dirty bitmap.
fn fill(rig: &Rig, count: u64) {
    for page in 0..count {
        rig.memory.write(PAGES + page * 4096, &[7; 4096]).expect("in memory");
    }
    for word in 0..rig.memory.bitmap_words() {
        rig.memory.written().take_word(word);
    }
}

#[test]
fn pages_in_the_balloon_are_zeros_dirty_and_not_backed() {
    let (rig, port) = device(None);
    let mut driver = rig.driver(3);
    driver.set_up(0);
    rig.device.open(true);
    port.set_target_pages(5);
    until("the guest is told", || driver.read(0x60) & 2 == 2);
    assert_eq!(driver.read(0x100), 5);
    fill(&rig, 8);
    let first = (PAGES / 4096) as u32;
    // Two runs, one counting down, one alone, one that is no memory.
    let numbers = [first, first + 1, first + 5, first + 4, first + 7, u32::MAX];
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    rig.memory.write(NUMBERS, &bytes).expect("in memory");
    driver.add(0, &[(NUMBERS, bytes.len() as u32, false)]);
    driver.kick(0);
    assert_eq!(driver.wait_used(0), 0);
    driver.write(0x104, 5);
    assert_eq!(port.actual_pages(), 5);
    assert!(port.has_driver());
    for page in 0..8u32 {
        let given = numbers.contains(&(first + page));
        let dense = u64::from(first + page);
        assert_eq!(rig.memory.written().is_marked(dense), given, "page {page}");
        assert_eq!(resident(&rig, dense), !given, "page {page}");
    }
    let mut bytes = [1; 16];
    rig.memory.read(PAGES, &mut bytes).expect("in memory");
    assert_eq!(bytes, [0; 16]);
    driver.add(1, &[(NUMBERS, 4, false)]);
    driver.kick(1);
    assert_eq!(driver.wait_used(1), 0);
}

#[test]
fn reported_pages_go_whole_or_not_at_all() {
    let (rig, _port) = device(None);
    let mut driver = rig.driver(3);
    driver.set_up(0);
    rig.device.open(true);
    fill(&rig, 4);
    driver.add(2, &[(PAGES + 100, 3 * 4096, true)]);
    driver.kick(2);
    driver.wait_used(2);
    let first = PAGES / 4096;
    assert_eq!([0, 1, 2, 3].map(|page| resident(&rig, first + page)), [true, false, false, true]);
}

/// Whoever brings missing pages believes that those there are stay.
#[test]
fn nothing_is_given_back_while_missing_pages_are_served() {
    if let Err(reason) = crate::MissingPages::probe() {
        println!("skipped: nothing_is_given_back_while_missing_pages_are_served: {reason}");
        return;
    }
    let (rig, _port) = device(None);
    let mut driver = rig.driver(3);
    driver.set_up(0);
    fill(&rig, 1);
    let mut all = vec![0; rig.memory.size_bytes() as usize];
    rig.memory.read(0, &mut all).expect("one stretch of memory");
    let missing = crate::MissingPages::open(&rig.memory).expect("serves");
    missing.install(0, &all).expect("installs");
    rig.device.open(true);
    driver.add(2, &[(PAGES, 4096, true)]);
    driver.kick(2);
    driver.wait_used(2);
    assert!(resident(&rig, PAGES / 4096));
    missing.close().expect("ends");
    driver.add(2, &[(PAGES, 4096, true)]);
    driver.kick(2);
    driver.wait_used(2);
    assert!(!resident(&rig, PAGES / 4096));
}

#[test]
fn target_and_size_move_on_with_the_state() {
    let (first, port) = device(None);
    let mut driver = first.driver(3);
    driver.set_up(0);
    port.set_target_pages(9);
    driver.write(0x104, 4);
    let state = first.device.save();
    let (second, port) = device(Some(&first));
    second.device.check(&state).expect("fits");
    second.device.restore(&state);
    assert_eq!((port.target_pages(), port.actual_pages()), (9, 4));
    second.device.open(true);
    let driver = driver.on(Arc::clone(&second.device) as _, &second.memory);
    until("the guest is told", || driver.read(0x60) & 2 == 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn hostile_drivers_do_no_harm(script in proptest::collection::vec(any::<u8>(), 0..600)) {
        hostile::balloon(&script);
    }
}
