//! What the tests share: tiny guests as ELF files, waiting, and skipping by name.
#![allow(dead_code, reason = "each test uses a part")]

mod elf;

use std::time::{Duration, Instant};

pub use elf::elf;
use vmm::{Backing, CpuModel, MissingPages, Vm, VmConfig, probe};

/// Where tiny guests count, unless they say otherwise.
pub const COUNTER_AT: u64 = 0x20_0000;
/// Far beyond what anything here takes; reaching it means that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Counts at [`COUNTER_AT`] for ever.
pub const COUNT: &[u8] = &[
    0xb9, 0x00, 0x00, 0x20, 0x00, // mov ecx, 0x200000
    0xff, 0x01, //             1: inc dword [ecx]
    0xeb, 0xfc, //                jmp 1b
];

/// Whether KVM can be used; if not says that `test` is skipped, and why.
pub fn has_kvm(test: &str) -> bool {
    match probe().kvm {
        Ok(_) => true,
        Err(reason) => {
            println!("skipped: {test}: {reason}");
            false
        }
    }
}

/// Whether missing pages can be served, as `has_kvm`.
pub fn has_missing_pages(test: &str) -> bool {
    match MissingPages::probe() {
        Ok(()) => has_kvm(test),
        Err(reason) => {
            println!("skipped: {test}: {reason}");
            false
        }
    }
}

pub fn config(mebibytes: u64, vcpus: u8) -> VmConfig {
    VmConfig { memory_bytes: mebibytes << 20, vcpus, backing: Backing::Anonymous, devices: Vec::new() }
}

/// A machine of 16 MiB and one vCPU, without a guest.
pub fn machine() -> Vm {
    machine_of(&config(16, 1))
}

pub fn machine_of(config: &VmConfig) -> Vm {
    let cpu = CpuModel::host().expect("this host's CPU");
    Vm::new(config, &cpu, Vec::new()).expect("a machine")
}

/// A machine of 16 MiB and one vCPU, with `code` ready to start.
pub fn booted(code: &[u8]) -> Vm {
    booted_on(&config(16, 1), code)
}

pub fn booted_on(config: &VmConfig, code: &[u8]) -> Vm {
    let mut vm = machine_of(config);
    vm.boot(&elf(code), "", None).expect("the tiny guest boots");
    vm
}

/// Copies all of memory from one machine to another, neither running.
pub fn copy_memory(from: &Vm, to: &Vm) {
    assert_eq!(from.memory().size_bytes(), to.memory().size_bytes());
    let mut resident = vec![0; from.memory().bitmap_words()];
    from.memory().resident(&mut resident).expect("residency");
    for page in pages_in(&resident) {
        let at = (page * vmm::PAGE_BYTES) as usize;
        // SAFETY: both memories have this page, they are apart, and no vCPU of either runs.
        unsafe {
            std::ptr::copy_nonoverlapping(from.memory().as_ptr().add(at), to.memory().as_ptr().add(at), 4096);
        }
    }
}

/// The pages whose bits are set.
pub fn pages_in(bits: &[u64]) -> Vec<u64> {
    let set = |word: u64, index: usize| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u64 * 64 + bit)
    };
    bits.iter().enumerate().flat_map(|(index, word)| set(*word, index)).collect()
}

pub fn read_u32(vm: &Vm, address: u64) -> u32 {
    let mut bytes = [0; 4];
    vm.memory().read(address, &mut bytes).expect("an address in memory");
    u32::from_le_bytes(bytes)
}

pub fn read_u64(vm: &Vm, address: u64) -> u64 {
    let mut bytes = [0; 8];
    vm.memory().read(address, &mut bytes).expect("an address in memory");
    u64::from_le_bytes(bytes)
}

/// Waits until `what` is true.
pub fn until(name: &str, mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {name}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Waits until the guest has counted on.
pub fn until_counting(vm: &Vm) {
    let before = read_u32(vm, COUNTER_AT);
    until("the guest counts", || read_u32(vm, COUNTER_AT) != before);
}
