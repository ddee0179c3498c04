//! A paused guest stands still, and runs on when resumed.

mod common;

use common::{COUNT, COUNTER_AT, booted, read_u32, until_counting};
use vmm::PauseError;

#[test]
fn a_paused_guest_stands_still() {
    if !common::has_kvm("a_paused_guest_stands_still") {
        return;
    }
    let mut vm = booted(COUNT);
    assert!(matches!(vm.pause(), Err(PauseError::NotStarted)));
    vm.start();
    for _ in 0..50 {
        until_counting(&vm);
        vm.pause().expect("pauses");
        vm.pause().expect("is paused already");
        let before = read_u32(&vm, COUNTER_AT);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(read_u32(&vm, COUNTER_AT), before, "a paused guest counted");
        vm.resume().expect("resumes");
        vm.resume().expect("runs already");
    }
    until_counting(&vm);
}

/// As one does that arrived paused.
#[test]
fn a_guest_that_never_ran_here_runs_when_it_is_resumed() {
    if !common::has_kvm("a_guest_that_never_ran_here_runs_when_it_is_resumed") {
        return;
    }
    let mut vm = booted(COUNT);
    vm.resume().expect("runs");
    until_counting(&vm);
    vm.pause().expect("pauses");
}

#[test]
fn pausing_at_once_after_resuming_is_safe() {
    if !common::has_kvm("pausing_at_once_after_resuming_is_safe") {
        return;
    }
    let mut vm = booted(COUNT);
    vm.start();
    for _ in 0..2_000 {
        vm.pause().expect("pauses");
        vm.resume().expect("resumes");
    }
    until_counting(&vm);
}

/// Writes to the exit port's neighbours, that is leaves the guest all the time: pauses fall on outstanding exits.
#[test]
fn a_pause_completes_the_outstanding_exit() {
    if !common::has_kvm("a_pause_completes_the_outstanding_exit") {
        return;
    }
    // Each turn reads a port where nobody answers, which must give 0xff, and counts; else it exits with 1.
    let mut vm = booted(&[
        0xb9, 0x00, 0x00, 0x20, 0x00, //    mov ecx, 0x200000
        0xb0, 0x00, //                   1: mov al, 0
        0xe4, 0x80, //                      in al, 0x80
        0x3c, 0xff, //                      cmp al, 0xff
        0x75, 0x04, //                      jne 2f
        0xff, 0x01, //                      inc dword [ecx]
        0xeb, 0xf4, //                      jmp 1b
        0xb0, 0x01, //                   2: mov al, 1
        0xe6, 0xf4, //                      out 0xf4, al
        0xf4, //                            hlt
    ]);
    vm.start();
    for _ in 0..500 {
        vm.pause().expect("pauses");
        let state = vm.save().expect("saves");
        assert!(!state.is_empty());
        vm.resume().expect("resumes");
    }
    until_counting(&vm);
    assert!(vm.events().poll().is_none(), "a read was lost at a pause");
}
