//! What a test does to guest memory, the guest finds and names.

use guest_images::pulse::{CommandLine, DirtyRate, Pattern};
use telemetry::oracle::{MismatchKind, Stamp, stamp_page};

use crate::machine::Machine;
use crate::{MIB, line};

#[test]
fn damage_is_found_and_named() {
    let line = CommandLine { dirty_rate: DirtyRate::PagesPerSecond(0), ..line(1) };
    let Some(mut machine) = Machine::start(32 * MIB, &line) else {
        return;
    };
    machine.wait_until("ready", telemetry::Snapshot::is_ready);
    assert_eq!(machine.check().errors, 0);

    // The last megabyte is filled and belongs to no writer.
    let page = 31 * MIB / 4096;
    machine.write(page * 4096, &[0; 4096]);
    machine.write((page + 1) * 4096 + 3000, b"flip");
    let mut other = [0; 4096];
    stamp_page(&mut other, &Stamp::of_fill(line.seed, page + 3), line.fill);
    machine.write((page + 2) * 4096, &other);

    assert_eq!(machine.check().errors, 3);
    let snapshot = machine.snapshot();
    let found: Vec<_> = snapshot.named_errors().map(|error| (error.page, error.kind)).collect();
    let expected =
        [(page, MismatchKind::Lost), (page + 1, MismatchKind::Torn), (page + 2, MismatchKind::Misplaced)];
    assert_eq!(found, expected);
    // The guest itself tells whoever looks at its console.
    machine.wait_for_line("lost: all zero, expected the fill");
}

#[test]
fn a_page_that_falls_back_is_stale() {
    let line = CommandLine { pattern: Pattern::Sequential, ..line(2) };
    let Some(mut machine) = Machine::start(32 * MIB, &line) else {
        return;
    };
    machine.wait_until("two rounds of the working set", |now| now.pages_written() > 2_100);
    // The image ends below 6 MiB, and the working set is the first memory after it and the table.
    let address = 8 * MIB;
    let old = machine.read(address, 4096);
    let first = machine.snapshot();
    let number = first.pages_written();
    machine.wait_until("another round", |now| now.pages_written() > number + 1_100);
    // The writer comes by again after 100 ms; the check must come before it, so try until one has seen the old page.
    for _ in 0..50 {
        machine.write(address, &old);
        if machine.check().errors > 0 {
            break;
        }
    }
    let snapshot = machine.snapshot();
    let error = snapshot.named_errors().next().expect("a stale page");
    assert_eq!((error.kind, error.page), (MismatchKind::Stale, address / 4096));
    assert!(error.found.sequence < error.expected.sequence, "{error}");
    assert_eq!(error.found.page, error.expected.page);
}
