//! A guest goes on in another machine, and in a third.

mod common;

use common::{COUNT, COUNTER_AT, booted, copy_memory, elf, machine, machine_of, read_u32, until_counting};
use vmm::{RestoreError, SaveError};

/// Pauses `from`, and gives memory and state to a new machine, which is ready but not started.
fn moved(from: &mut vmm::Vm) -> vmm::Vm {
    from.pause().expect("pauses");
    let state = from.save().expect("saves");
    let mut to = machine_of(from.config());
    copy_memory(from, &to);
    to.restore(&state).expect("restores");
    to
}

#[test]
fn a_guest_counts_on_in_a_second_and_a_third_machine() {
    if !common::has_kvm("a_guest_counts_on_in_a_second_and_a_third_machine") {
        return;
    }
    let mut first = booted(COUNT);
    first.start();
    until_counting(&first);
    let mut second = moved(&mut first);
    let at_first = read_u32(&first, COUNTER_AT);
    assert_eq!(read_u32(&second, COUNTER_AT), at_first);
    second.start();
    until_counting(&second);
    let mut third = moved(&mut second);
    let at_second = read_u32(&second, COUNTER_AT);
    assert!(at_second > at_first);
    third.start();
    until_counting(&third);
    third.pause().expect("pauses");
    assert!(read_u32(&third, COUNTER_AT) > at_second);
    assert_eq!(read_u32(&first, COUNTER_AT), at_first, "the first stood still");
    // The source may run on after a failed try: its state was read, not taken.
    first.resume().expect("resumes");
    until_counting(&first);
}

#[test]
fn all_general_and_vector_registers_go_along() {
    if !common::has_kvm("all_general_and_vector_registers_go_along") {
        return;
    }
    // Fills general registers and xmm3, tells so by counting to 1, waits for a 1 behind the counter, and exits with 7 if
    // all is as it was.
    #[rustfmt::skip]
    let mut vm = booted(&[
        0x0f, 0x20, 0xe0, //                            mov eax, cr4
        0x0d, 0x00, 0x06, 0x00, 0x00, //                or eax, OSFXSR | OSXMMEXCPT
        0x0f, 0x22, 0xe0, //                            mov cr4, eax
        0xb9, 0x00, 0x00, 0x20, 0x00, //                mov ecx, 0x200000
        0xba, 0x44, 0x33, 0x22, 0x11, //                mov edx, 0x11223344
        0xbe, 0x88, 0x77, 0x66, 0x55, //                mov esi, 0x55667788
        0x89, 0x71, 0x10, //                            mov [ecx + 16], esi
        0xf3, 0x0f, 0x6f, 0x59, 0x10, //                movdqu xmm3, [ecx + 16]
        0xc7, 0x01, 0x01, 0x00, 0x00, 0x00, //          mov dword [ecx], 1
        0x83, 0x79, 0x04, 0x01, //                   1: cmp dword [ecx + 4], 1
        0x75, 0xfa, //                                  jne 1b
        0x81, 0xfa, 0x44, 0x33, 0x22, 0x11, //          cmp edx, 0x11223344
        0x75, 0x0e, //                                  jne 2f
        0xf3, 0x0f, 0x7f, 0x59, 0x20, //                movdqu [ecx + 32], xmm3
        0x39, 0x71, 0x20, //                            cmp [ecx + 32], esi
        0x75, 0x04, //                                  jne 2f
        0xb0, 0x07, //                                  mov al, 7
        0xe6, 0xf4, //                                  out 0xf4, al
        0xf4, //                                     2: hlt
    ]);
    vm.start();
    common::until("the registers are filled", || read_u32(&vm, COUNTER_AT) == 1);
    let mut second = moved(&mut vm);
    second.memory().write(COUNTER_AT + 4, &1u32.to_le_bytes()).expect("an address in memory");
    second.start();
    let event = second.events().wait_for(common::PATIENCE).expect("an event");
    assert!(matches!(event, vmm::Event::Exited { code: 7 }), "{event}");
}

#[test]
fn a_restore_may_be_rehearsed() {
    if !common::has_kvm("a_restore_may_be_rehearsed") {
        return;
    }
    let mut first = booted(COUNT);
    first.start();
    let mut second = machine();
    for _ in 0..3 {
        first.resume().expect("resumes");
        until_counting(&first);
        first.pause().expect("pauses");
        second.restore(&first.save().expect("saves")).expect("restores");
    }
    copy_memory(&first, &second);
    second.start();
    until_counting(&second);
    let state = first.save().expect("saves");
    assert!(matches!(second.restore(&state), Err(RestoreError::Started)));
}

#[test]
fn a_machine_that_never_ran_can_be_saved() {
    if !common::has_kvm("a_machine_that_never_ran_can_be_saved") {
        return;
    }
    let mut empty = machine();
    assert!(matches!(empty.save(), Err(SaveError::NotPaused)));
    let mut first = booted(COUNT);
    let state = first.save().expect("saves");
    copy_memory(&first, &empty);
    empty.restore(&state).expect("restores");
    empty.start();
    until_counting(&empty);
    assert!(matches!(empty.save(), Err(SaveError::NotPaused)));
    assert!(empty.boot(&elf(COUNT), "", None).is_err());
}

#[test]
fn a_state_of_another_machine_is_refused() {
    if !common::has_kvm("a_state_of_another_machine_is_refused") {
        return;
    }
    let state = booted(COUNT).save().expect("saves");
    for config in [common::config(32, 1), common::config(16, 2)] {
        let refused = machine_of(&config).restore(&state).expect_err("another machine");
        assert!(matches!(refused, RestoreError::OtherMachine { .. }), "{refused}");
    }
}
