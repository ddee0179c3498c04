//! What the host builds, the guest reads.

use super::*;
use std::string::ToString;

#[test]
fn what_is_printed_is_parsed_back() {
    let line = CommandLine {
        fill: Fill::Text,
        fill_bytes: Some(12 << 20),
        working_set_bytes: 8 << 20,
        dirty_rate: DirtyRate::Max,
        pattern: Pattern::HotCold,
        idle: Idle::Halt,
        seed: 7,
        vcpus: 16,
        tsc_khz: Some(2_400_000),
        gap_threshold_us: 20,
        check_seconds: 3,
    };
    assert_eq!(CommandLine::parse(&line.to_string()), Ok(line));
    assert_eq!(CommandLine::parse(&CommandLine::default().to_string()), Ok(CommandLine::default()));
}

#[test]
fn sizes_have_binary_units() {
    let line = CommandLine::parse("pulse working-set=64KiB fill-bytes=5GiB").unwrap();
    assert_eq!((line.working_set_bytes, line.fill_bytes), (65_536, Some(5 << 30)));
    assert!(CommandLine::parse("pulse working-set=64MB").is_err());
    assert!(CommandLine::parse("pulse working-set=99999999999GiB").is_err());
}

#[test]
fn unknown_keys_are_refused_by_the_host_and_ignored_by_the_guest() {
    let text = "pulse virtio_mmio.device=512@0xfeb00e00:12 dirty-rate=5";
    let unknown = ParseError::UnknownKey("virtio_mmio.device=512@0xfeb00e00:12");
    assert_eq!(CommandLine::parse(text), Err(unknown));
    let line = CommandLine::parse_lenient(text).unwrap();
    assert_eq!(line.dirty_rate, DirtyRate::PagesPerSecond(5));
}

#[test]
fn bad_values_name_key_value_and_what_was_expected() {
    for (text, message) in [
        ("pulse vcpus=17", "`vcpus=17`: expected 1 to 16"),
        ("pulse vcpus=0", "`vcpus=0`: expected 1 to 16"),
        ("pulse fill=ones", "`fill=ones`: expected zeros, random or text"),
        ("pulse idle=", "`idle=`: expected spin or halt"),
        ("pulse dirty-rate=-1", "`dirty-rate=-1`: expected pages per second, or max"),
        ("pulse nonsense", "unknown guest option `nonsense`"),
    ] {
        assert_eq!(CommandLine::parse(text).unwrap_err().to_string(), message);
    }
    assert!(CommandLine::parse_lenient("pulse vcpus=17").is_err());
}
