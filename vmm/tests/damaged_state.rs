//! A state that is not whole is refused in words, and the machine that refused it takes the whole one.

mod common;

use common::{COUNT, booted, copy_memory, machine, machine_of, until_counting};
use proptest::prelude::*;
use vmm::{DecodeError, MAX_STATE_BYTES, RestoreError, SectionError, Vm};

fn refuses(vm: &mut Vm, state: &[u8]) -> DecodeError {
    match vm.restore(state) {
        Err(RestoreError::Decode(error)) => error,
        other => panic!("not refused as undecodable: {other:?}"),
    }
}

#[test]
fn every_prefix_and_every_flipped_byte_is_refused() {
    if !common::has_kvm("every_prefix_and_every_flipped_byte_is_refused") {
        return;
    }
    let mut first = booted(COUNT);
    let state = first.save().expect("saves");
    let mut second = machine_of(first.config());
    for length in 0..state.len() {
        refuses(&mut second, &state[..length]);
    }
    let mut flipped = state.clone();
    for at in 0..state.len() {
        flipped[at] ^= 0x41;
        refuses(&mut second, &flipped);
        flipped[at] = state[at];
    }
    let mut longer = state.clone();
    longer.push(0);
    assert!(matches!(refuses(&mut second, &longer), DecodeError::Section(SectionError::Length { .. })));
    let huge = vec![0; MAX_STATE_BYTES + 1];
    assert!(matches!(refuses(&mut second, &huge), DecodeError::Section(SectionError::TooLong { .. })));
    copy_memory(&first, &second);
    second.restore(&state).expect("the whole one is taken");
    second.start();
    until_counting(&second);
}

/// Offsets of the format: the header, and within a section its name, version, instance, length and CRC.
const HEADER: usize = 16;
const SECTION_HEADER: usize = 20;

/// The sections of a state, each with its header.
fn sections(state: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &state[HEADER..];
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[12..16].try_into().expect("4 bytes")) as usize;
        let (section, after) = rest.split_at(SECTION_HEADER + length);
        sections.push(section.to_vec());
        rest = after;
    }
    sections
}

/// A state with sound lengths and checksums, whatever is in its sections.
fn sealed(header: &[u8], sections: &[Vec<u8>]) -> Vec<u8> {
    let mut state = header[..HEADER].to_vec();
    for section in sections {
        let mut section = section.clone();
        let length = (section.len() - SECTION_HEADER) as u32;
        section[12..16].copy_from_slice(&length.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&section[..16]);
        crc.update(&section[SECTION_HEADER..]);
        section[16..20].copy_from_slice(&crc.finalize().to_le_bytes());
        state.extend(section);
    }
    let total = (state.len() as u32).to_le_bytes();
    state[12..16].copy_from_slice(&total);
    state
}

#[test]
fn sections_are_named_when_unknown_missing_doubled_or_of_another_version() {
    if !common::has_kvm("sections_are_named_when_unknown_missing_doubled_or_of_another_version") {
        return;
    }
    let state = booted(COUNT).save().expect("saves");
    let good = sections(&state);
    let mut vm = machine();
    vm.restore(&sealed(&state, &good)).expect("sealing anew changes nothing");
    let mut refused = |sections: &[Vec<u8>]| refuses(&mut vm, &sealed(&state, sections)).to_string();
    for at in 0..good.len() {
        let name = String::from_utf8_lossy(&good[at][..8]).trim_end_matches('\0').to_owned();
        let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut sections = good.clone();
            change(&mut sections);
            sections
        };
        let unknown = refused(&with(&|sections| sections[at][..8].copy_from_slice(b"teapot\0\0")));
        assert!(unknown.contains("\"teapot\", which this program does not know"), "{unknown}");
        let missing = refused(&with(&|sections| drop(sections.remove(at))));
        assert!(missing.contains("no section") && missing.contains(&name), "{missing}");
        let doubled = refused(&with(&|sections| sections.push(good[at].clone())));
        assert!(doubled.contains("too many") && doubled.contains(&name), "{doubled}");
        let version = refused(&with(&|sections| sections[at][8] = 9));
        assert!(version.contains("version 9") && version.contains(&name), "{version}");
        let instance = refused(&with(&|sections| sections[at][11] = 9));
        assert!(instance.contains("too many") && instance.contains(&name), "{instance}");
        let longer = refused(&with(&|sections| sections[at].push(0)));
        assert!(longer.contains("1 bytes too many") && longer.contains(&name), "{longer}");
        let shorter = refused(&with(&|sections| {
            sections[at].pop();
        }));
        assert!(shorter.contains("does not decode") && shorter.contains(&name), "{shorter}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Payloads with sound checksums but hostile contents: refused, or applied by KVM without harm to this process.
    #[test]
    fn hostile_payloads_do_no_harm(section in 0usize..9, at in 0usize..9000, byte: u8, cut in 0usize..3) {
        if common::has_kvm("hostile_payloads_do_no_harm") {
            thread_local! {
                static FIXTURE: std::cell::RefCell<(Vec<u8>, Vm)> = {
                    let mut vm = booted(COUNT);
                    let state = vm.save().expect("saves");
                    std::cell::RefCell::new((state, machine()))
                };
            }
            FIXTURE.with_borrow_mut(|(state, vm)| {
                let mut sections = sections(state);
                let index = section % sections.len();
                let changed = &mut sections[index];
                let length = changed.len() - SECTION_HEADER;
                if length > 0 {
                    changed[SECTION_HEADER + at % length] = byte;
                }
                changed.truncate(changed.len() - cut.min(length));
                let hostile = sealed(state, &sections);
                // Taken or refused, but decided; and the machine can be asked again.
                let _ = vm.restore(&hostile);
            });
        }
    }
}
