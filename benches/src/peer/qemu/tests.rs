//! The command line, and what is said when there is no QEMU.

use super::*;
use crate::plan::{Fill, Idle};

#[test]
fn the_address_is_found_in_what_the_monitor_says() {
    let said = "Host virtual address for 0x100000 (memory) is 0x7f5a3c100000\r\n";
    assert_eq!(host_address(said), Some(0x7f5a_3c10_0000));
    assert_eq!(host_address("No memory is mapped at address 0x100000\r\n"), None);
    assert_eq!(host_address("unknown command: 'gpa2hva'"), None);
}

#[test]
fn memory_is_of_the_size_that_ferry_has_and_preallocated_only_where_that_is_fair() {
    let workload = Workload {
        memory_bytes: 128 << 20,
        dirty_rate_pages_per_second: 0,
        working_set_bytes: 1 << 20,
        fill: Fill::Random,
        vcpus: 2,
        idle: Idle::Spin,
        link: None,
    };
    let (image, command_line) = (Path::new("/tmp/pulse"), "pulse seed=1");
    let machine = Machine {
        workload: &workload,
        image,
        command_line,
        preallocate: true,
        incoming: false,
        has_network: false,
        vhost: false,
    };
    let line = |machine: Machine<'_>| {
        let words: Vec<String> =
            machine.arguments().into_iter().map(|word| word.into_string().unwrap()).collect();
        words.join(" ")
    };
    let source = line(machine);
    assert!(source.contains("size=134217728,prealloc=on -m 131072K -smp 2"), "{source}");
    assert!(source.ends_with("-append pulse seed=1 -kernel /tmp/pulse"), "{source}");
    let destination = line(Machine { preallocate: false, incoming: true, has_network: true, ..machine });
    assert!(destination.contains("-netdev tap,id=guests,ifname=ferry0"), "{destination}");
    assert!(destination.contains("downscript=no,vhost=off"), "{destination}");
    let with_vhost = line(Machine { has_network: true, vhost: true, ..machine });
    assert!(with_vhost.contains("downscript=no,vhost=on"), "{with_vhost}");
    assert!(!source.contains("-netdev"), "{source}");
    assert!(destination.contains("prealloc=off"), "{destination}");
    assert!(destination.ends_with("-incoming defer"), "{destination}");
}

#[test]
fn what_qemu_lacks_is_named() {
    let capabilities = ["events", "postcopy-ram", "multifd"].map(str::to_owned).to_vec();
    let qemu = Qemu { program: "qemu".into(), version: "6.2.0".to_owned(), capabilities };
    assert_eq!(qemu.lacks(Setting::PostCopy), None);
    assert_eq!(qemu.lacks(Setting::PostCopyPreempt), Some("postcopy-preempt"));
    assert_eq!(qemu.lacks(Setting::StopAndCopy), None);
}

#[test]
fn that_there_is_no_qemu_is_said_with_its_package() {
    let folder = tempfile::tempdir().unwrap();
    let error = Qemu::find(Path::new("/nonexistent/qemu-system-x86_64"), folder.path()).unwrap_err();
    assert!(error.to_string().contains("qemu-system-x86;"), "{error:#}");
}

#[test]
fn a_qemu_that_ends_at_once_is_quoted() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("qemu");
    std::fs::write(&fake, "#!/bin/sh\necho 'Could not access KVM kernel module' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Qemu::find(&fake, folder.path()).unwrap_err();
    assert!(error.to_string().contains("Could not access KVM kernel module"), "{error:#}");
}
