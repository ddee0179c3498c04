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
        network: Some("192.0.2.7/28,gw=192.0.2.1".parse().unwrap()),
        virtio: windows(&["4K@0xd0000000:16", "512@0xfeb02e00:12"]),
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
    let text = "pulse console=ttyS0 dirty-rate=5";
    let unknown = ParseError::UnknownKey("console=ttyS0");
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
        (
            "pulse net=10.0.0.1",
            "`net=10.0.0.1`: expected an IPv4 host address as 10.0.2.15/24, or 10.0.2.15/24,gw=10.0.2.2",
        ),
        (
            "pulse virtio_mmio.device=4K@0xd0000000",
            "`virtio_mmio.device=4K@0xd0000000`: expected SIZE@ADDRESS:IRQ as 4K@0xd0000000:16, below 4 GiB, IRQ 0 to 23",
        ),
    ] {
        assert_eq!(CommandLine::parse(text).unwrap_err().to_string(), message);
    }
    assert!(CommandLine::parse_lenient("pulse vcpus=17").is_err());
}

fn windows(texts: &[&str]) -> VirtioWindows {
    let mut windows = VirtioWindows::default();
    assert!(texts.iter().all(|text| windows.push(text.parse().unwrap())));
    windows
}

#[test]
fn addresses_are_those_of_hosts() {
    for good in ["10.0.2.15/24", "10.0.2.15/24,gw=10.0.2.2", "192.0.2.0/31", "192.0.2.9/32", "0.0.2.1/8"] {
        assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        "10.0.2.15",
        "10.0.2.15/0",
        "10.0.2.15/33",
        "10.0.2.15/-1",
        "10.0.2/24",
        "10.0.2.0/24",
        "10.0.2.255/24",
        "0.0.0.0/8",
        "127.0.0.1/8",
        "224.0.0.1/24",
        "255.255.255.255/32",
        "fe80::1/64",
        "10.0.2.15/24,gw=",
        "10.0.2.15/24,gw=10.0.3.2",
        "10.0.2.15/24,gw=10.0.2.15",
        "10.0.2.15/24,gw=10.0.2.0",
        "10.0.2.15/24,10.0.2.2",
        "10.0.2.15/32,gw=10.0.2.2",
        "10.0.2.15/24 ",
    ] {
        assert_eq!(bad.parse::<Network>(), Err(()), "{bad}");
    }
}

#[test]
fn windows_are_written_as_for_linux() {
    let window = VirtioWindow { address: 0xd000_0000, bytes: 4096, irq: 16 };
    for text in ["4K@0xd0000000:16", "0x1000@0xd0000000:16", "4096@3489660928:16", "4k@0xd0000000:16:3"] {
        assert_eq!(text.parse(), Ok(window), "{text}");
    }
    for bad in [
        "",
        "4K",
        "4K@0xd0000000",
        "4K@:16",
        "@0xd0000000:16",
        "4K@0xd0000000:",
        "4K@0xd0000000:24",
        "4K@0xd0000000:-1",
        "256@0xd0000000:16",
        "4K@0xd0000002:16",
        "4K@0xfffff000:16",
        "4K@0x1d0000000:16",
        "4G@0xd0000000:16",
        "4194304K@0:16",
        "4K@0xd0000000:16:x",
        "K@0xd0000000:16",
        "4KK@0xd0000000:16",
        "\u{e9}@\u{e9}:\u{e9}",
    ] {
        assert_eq!(bad.parse::<VirtioWindow>(), Err(()), "{bad}");
    }
    let many = "virtio_mmio.device=512@0xfeb00000:5 ".repeat(17);
    let error = CommandLine::parse(&many).unwrap_err();
    assert_eq!(error.to_string(), "`virtio_mmio.device=512@0xfeb00000:5`: expected at most 16 devices");
    let most = &many[..many.len() / 17 * 16];
    assert_eq!(CommandLine::parse(most).unwrap().virtio.iter().count(), 16);
}

proptest::proptest! {
    #[test]
    fn any_text_is_refused_or_means_what_it_is_printed_as(
        text in ".{0,60}|[0-9a-fgw.,/=]{7,24}|[0-9]{1,3}[KkM]?@0x[0-9a-f]{1,9}:[0-9]{1,3}|(pulse )?(seed|check|net)=.{1,9}",
    ) {
        if let Ok(network) = text.parse::<Network>() {
            proptest::prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
        if let Ok(window) = text.parse::<VirtioWindow>() {
            proptest::prop_assert_eq!(window.to_string().parse(), Ok(window));
        }
        if let Ok(line) = CommandLine::parse(&text) {
            let printed = line.to_string();
            proptest::prop_assert_eq!(CommandLine::parse(&printed), Ok(line));
        }
    }

    #[test]
    fn any_window_is_parsed_back(address in 0u32..0xf000_0000, bytes in 0x200u32..0x10_0000, irq in 0u8..=23) {
        let window = VirtioWindow { address: address & !3, bytes, irq };
        proptest::prop_assert_eq!(window.to_string().parse(), Ok(window));
    }
}
