//! `pulse` under QEMU: it boots, writes, idles, finds what is done to its memory, and finds nothing else.
//!
//! With `/dev/kvm` under KVM, else under QEMU's software CPU. Without QEMU every test says that it was skipped.

mod console;
mod damage;
mod gaps;
mod launch;
mod machine;
mod network;

use guest_images::pulse::{CommandLine, DirtyRate, Fill, Idle, Pattern};
use launch::{Accelerator, MachineKind};
use machine::Machine;

const MIB: u64 = 1 << 20;

fn line(vcpus: u64) -> CommandLine {
    CommandLine { vcpus, working_set_bytes: 4 * MIB, ..CommandLine::default() }
}

/// Boots, lets it run for a moment, checks twice, and stops it.
fn lives(machine: &mut Machine, line: &CommandLine) {
    machine.wait_until("ready", telemetry::Snapshot::is_ready);
    let ready = machine.snapshot();
    assert_eq!(ready.vcpus.len() as u64, line.vcpus);
    assert_eq!(ready.fill, line.fill);
    assert!(ready.tsc_khz > 100_000, "TSC of {} kHz", ready.tsc_khz);
    for vcpu in 0..line.vcpus as usize {
        machine
            .wait_until("a step of each vCPU", |now| now.vcpus[vcpu].heartbeat > ready.vcpus[vcpu].heartbeat);
    }
    if line.dirty_rate != DirtyRate::PagesPerSecond(0) {
        machine.wait_until("500 writes", |now| now.pages_written() >= 500);
    }
    for _ in 0..2 {
        let result = machine.check();
        assert_eq!(result.errors, 0, "{:?}", machine.snapshot().named_errors().collect::<Vec<_>>());
        assert_eq!(result.pages, ready.owned_pages);
    }
    let end = machine.snapshot();
    assert_eq!(end.errors(), 0);
    assert!(end.fault.is_none());
    if line.idle == Idle::Halt {
        machine.wait_until("a HLT of each vCPU", |now| now.vcpus.iter().all(|vcpu| vcpu.halts > 0));
    }
    assert_eq!(machine.stop(5), 5);
}

fn boots(memory_bytes: u64, line: &CommandLine) {
    if let Some(mut machine) = Machine::start(memory_bytes, line) {
        lives(&mut machine, line);
    }
}

#[test]
fn boots_in_16_mib() {
    boots(16 * MIB, &line(1));
    // The default working set is larger than this memory: it is cut to what there is.
    boots(16 * MIB, &CommandLine::default());
}

#[test]
fn boots_above_the_hole_at_4_gib() {
    boots(5 * 1024 * MIB, &CommandLine { fill: Fill::Zeros, working_set_bytes: 64 * MIB, ..line(2) });
}

#[test]
fn boots_with_2_and_4_vcpus() {
    boots(64 * MIB, &line(2));
    boots(64 * MIB, &line(4));
}

#[test]
fn every_content_and_pattern() {
    for fill in [Fill::Zeros, Fill::Random, Fill::Text] {
        for pattern in [Pattern::Sequential, Pattern::Random, Pattern::HotCold] {
            boots(32 * MIB, &CommandLine { fill, pattern, fill_bytes: Some(16 * MIB), ..line(1) });
        }
    }
}

#[test]
fn idles_without_writes() {
    boots(32 * MIB, &CommandLine { dirty_rate: DirtyRate::PagesPerSecond(0), ..line(2) });
}

#[test]
fn writes_as_fast_as_it_can() {
    boots(32 * MIB, &CommandLine { dirty_rate: DirtyRate::Max, ..line(2) });
}

#[test]
fn sleeps_between_writes() {
    boots(32 * MIB, &CommandLine { idle: Idle::Halt, ..line(2) });
}

#[test]
fn boots_on_a_pc_with_firmware() {
    // On the software CPU: a KVM with page-table virtualisation takes half a minute for the firmware.
    for kind in [MachineKind::Q35, MachineKind::Pc] {
        let line = CommandLine { fill: Fill::Zeros, ..line(1) };
        if let Some(mut machine) = Machine::start_as(kind, Accelerator::Tcg, 64 * MIB, &line) {
            lives(&mut machine, &line);
        }
    }
}

#[test]
fn boots_on_the_software_cpu() {
    let line = line(2);
    if let Some(mut machine) = Machine::start_as(MachineKind::Microvm, Accelerator::Tcg, 24 * MIB, &line) {
        lives(&mut machine, &line);
    }
}
