//! A guest boots, finds what the boot protocol promises, and ends by the exit port.

mod common;

use common::{PATIENCE, booted, config, elf, machine, machine_of};
use vmm::{BootError, CreateError, Event, MAX_VCPUS};

#[test]
fn a_guest_exits_with_its_code() {
    if !common::has_kvm("a_guest_exits_with_its_code") {
        return;
    }
    let mut vm = booted(&[
        0xb0, 0x2a, // mov al, 42
        0xe6, 0xf4, // out 0xf4, al
        0xf4, //       hlt
    ]);
    vm.start();
    let event = vm.events().wait_for(PATIENCE).expect("an event");
    assert!(matches!(event, Event::Exited { code: 42 }), "{event}");
    vm.pause().expect("a guest that has ended can be paused");
}

#[test]
fn a_guest_finds_its_boot_information() {
    if !common::has_kvm("a_guest_finds_its_boot_information") {
        return;
    }
    let mut vm = machine();
    // Exits with the first letter of its command line: hvm_start_info has its address at offset 24.
    let code = [
        0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, // cmp dword [ebx], 0x336ec578
        0x75, 0x07, //                         jne 1f
        0x8b, 0x43, 0x18, //                   mov eax, [ebx + 24]
        0x8a, 0x00, //                         mov al, [eax]
        0xe6, 0xf4, //                         out 0xf4, al
        0xf4, //                            1: hlt
    ];
    vm.boot(&elf(&code), "quiet", None).expect("boots");
    vm.start();
    let event = vm.events().wait_for(PATIENCE).expect("an event");
    assert!(matches!(event, Event::Exited { code: b'q' }), "{event}");
}

#[test]
fn a_triple_fault_is_told() {
    if !common::has_kvm("a_triple_fault_is_told") {
        return;
    }
    // ud2, without any table of interrupts.
    let mut vm = booted(&[0x0f, 0x0b]);
    vm.start();
    let event = vm.events().wait_for(PATIENCE).expect("an event");
    assert!(matches!(event, Event::Shutdown { vcpu: 0 } | Event::Failed { vcpu: 0, .. }), "{event}");
}

#[test]
fn a_reset_is_told() {
    if !common::has_kvm("a_reset_is_told") {
        return;
    }
    let mut vm = booted(&[
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al
        0xf4, //       hlt
    ]);
    vm.start();
    let event = vm.events().wait_for(PATIENCE).expect("an event");
    assert!(matches!(event, Event::ResetRequested), "{event}");
}

#[test]
fn a_machine_boots_once_and_a_bad_kernel_does_not_count() {
    if !common::has_kvm("a_machine_boots_once_and_a_bad_kernel_does_not_count") {
        return;
    }
    let mut vm = machine();
    assert!(matches!(vm.boot(b"#!/bin/sh", "", None), Err(BootError::NotAKernel { .. })));
    let mut no_note = elf(&[0xf4]);
    no_note[64 + 56] = 0;
    assert!(matches!(vm.boot(&no_note, "", None), Err(BootError::NoEntry)));
    let mut low = elf(&[0xf4]);
    low[64 + 24..64 + 32].copy_from_slice(&0x7000u64.to_le_bytes());
    assert!(matches!(vm.boot(&low, "", None), Err(BootError::SegmentTooLow { address: 0x7000 })));
    let huge = vec![0; 16 << 20];
    assert!(matches!(vm.boot(&elf(&[0xf4]), "", Some(&huge)), Err(BootError::TooLarge { .. })));
    vm.boot(&elf(&[0xf4]), "", Some(b"an initrd")).expect("a good kernel");
    assert!(matches!(vm.boot(&elf(&[0xf4]), "", None), Err(BootError::NotNew)));
}

#[test]
fn memory_larger_than_free_is_refused_before_it_is_taken() {
    if !common::has_kvm("memory_larger_than_free_is_refused_before_it_is_taken") {
        return;
    }
    let cpu = vmm::CpuModel::host().expect("this host's CPU");
    let refused = vmm::Vm::new(&config(1 << 20, 1), &cpu, Vec::new()).expect_err("a terabyte");
    assert!(matches!(refused, CreateError::NotEnoughMemory { .. }), "{refused}");
    let refused = vmm::Vm::new(&config(8, 1), &cpu, Vec::new()).expect_err("too small");
    assert!(matches!(refused, CreateError::Config(_)), "{refused}");
    drop(machine_of(&config(16, MAX_VCPUS)));
}
