//! Bytes go out of the guest and into it, and unread input moves with it.

mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use common::{booted, copy_memory, machine_of, until};
use vmm::MAX_WAITING_INPUT_BYTES;

/// Says "ok", then answers each byte it gets with the next one.
#[rustfmt::skip]
const ANSWER: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, //    mov dx, 0x3f8
    0xb0, b'o', //                mov al, 'o'
    0xee, //                      out dx, al
    0xb0, b'k', //                mov al, 'k'
    0xee, //                      out dx, al
    0x66, 0xba, 0xfd, 0x03, // 1: mov dx, 0x3fd
    0xec, //                      in al, dx
    0xa8, 0x01, //                test al, 1
    0x74, 0xf7, //                jz 1b
    0x66, 0xba, 0xf8, 0x03, //    mov dx, 0x3f8
    0xec, //                      in al, dx
    0x04, 0x01, //                add al, 1
    0xee, //                      out dx, al
    0xeb, 0xed, //                jmp 1b
];

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn has(&self, expected: &[u8]) -> bool {
        *self.0.lock().expect("no panics") == expected
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that is gone.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn bytes_go_out_and_in_and_unread_ones_move() {
    if !common::has_kvm("bytes_go_out_and_in_and_unread_ones_move") {
        return;
    }
    let mut first = booted(ANSWER);
    let out = Sink::default();
    first.console().set_output(Box::new(out.clone()));
    first.start();
    until("the guest says ok", || out.has(b"ok"));
    assert_eq!(first.console().write(b"HAL"), 3);
    until("the guest answers", || out.has(b"okIBM"));

    // More than the UART holds, typed while nobody reads.
    first.pause().expect("pauses");
    let typed: Vec<u8> = (0..200).collect();
    assert_eq!(first.console().write(&typed), typed.len());
    let state = first.save().expect("saves");
    let mut second = machine_of(first.config());
    let out = Sink::default();
    second.console().set_output(Box::new(out.clone()));
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    second.start();
    let answers: Vec<u8> = (1..=200).collect();
    until("the guest answers elsewhere", || out.has(&answers));

    // A console that is gone does not stop the guest.
    second.console().set_output(Box::new(Broken));
    second.console().write(b"unheard");
    std::thread::sleep(std::time::Duration::from_millis(5));
    let out = Sink::default();
    second.console().set_output(Box::new(out.clone()));
    second.console().write(b"\x40");
    until("the guest still answers", || out.0.lock().expect("no panics").ends_with(b"A"));
}

/// Issue 12, entry 22: what is typed is read once, here or by who has the state, or it is not taken.
#[test]
fn entry_22_nothing_typed_is_taken_between_a_save_or_restore_and_the_start() {
    if !common::has_kvm("entry_22_nothing_typed_is_taken_between_a_save_or_restore_and_the_start") {
        return;
    }
    let mut first = booted(ANSWER);
    let out = Sink::default();
    first.console().set_output(Box::new(out.clone()));
    first.start();
    until("the guest says ok", || out.has(b"ok"));
    first.pause().expect("pauses");
    assert_eq!(first.console().write(b"H"), 1, "it is paused and has it all");
    let state = first.save().expect("saves");
    assert_eq!(first.console().write(b"lost"), 0);
    let mut second = machine_of(first.config());
    let elsewhere = Sink::default();
    second.console().set_output(Box::new(elsewhere.clone()));
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    assert_eq!(second.console().write(b"lost"), 0);
    second.start();
    assert_eq!(second.console().write(b"A"), 1);
    until("the guest answers elsewhere", || elsewhere.has(b"IB"));
    // As after a migration that failed.
    first.resume().expect("resumes");
    assert_eq!(first.console().write(b"L"), 1);
    until("the guest answers here", || out.has(b"okIM"));
}

#[test]
fn input_that_nobody_reads_is_bounded() {
    if !common::has_kvm("input_that_nobody_reads_is_bounded") {
        return;
    }
    let vm = booted(ANSWER);
    let taken = vm.console().write(&vec![0; 2 * MAX_WAITING_INPUT_BYTES]);
    assert_eq!(taken, MAX_WAITING_INPUT_BYTES);
    assert!(vm.console().write(&[0; 1000]) <= 64, "only what the UART took made room");
}
