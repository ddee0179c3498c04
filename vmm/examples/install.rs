//! What installing missing pages costs: copied in chunks, or moved in blocks of 2 MiB.
//!
//! `cargo run --release -p vmm --example install [MiB]`. "Receiving" is a copy from a buffer that stays in the cache, as a
//! socket's would be. One thread; every figure is GB/s of guest memory installed.

use std::time::Instant;

use vmm::{Backing, CpuModel, LandingArea, MissingPages, Vm, VmConfig};

fn main() {
    let mebibytes = std::env::args().nth(1).and_then(|argument| argument.parse().ok()).unwrap_or(512);
    let config = VmConfig {
        memory_bytes: mebibytes << 20,
        vcpus: 1,
        backing: Backing::Anonymous,
        devices: Vec::new(),
    };
    let cpu = CpuModel::host().expect("this host's CPU");
    // A new machine each time, as a destination is: discarded memory keeps its page tables, and blocks cannot be moved
    // whole into those. Its memory was touched once before: what the host has never used costs seconds.
    let machine = || Vm::new(&config, &cpu, Vec::new()).expect("a machine");
    let warm = machine();
    warm.memory().populate(0..warm.memory().page_count()).expect("populates");
    drop(warm);
    let received: Vec<u8> = (0..1 << 20).map(|byte| (byte % 251) as u8).collect();
    for round in 0..5 {
        for chunk in [4 << 10, 64 << 10, 256 << 10, 1 << 20] {
            let name = format!("receive + copy, chunks of {} KiB", chunk >> 10);
            let mut buffer = vec![0u8; chunk];
            measure(&machine(), round, &name, |missing, first| {
                let mut installed = 0;
                for (index, part) in received.chunks(chunk).chain(received.chunks(chunk)).enumerate() {
                    buffer.copy_from_slice(part);
                    let at = first + (index * chunk / 4096) as u64;
                    installed += missing.install(at, &buffer).expect("installs");
                }
                installed
            });
        }
        let vm = machine();
        measure(&vm, round, "receive + move, blocks of 2 MiB", |missing, first| {
            let area = missing.landing_area().expect("an area");
            assert!(missing.take(&(first..first + 512)));
            for half in 0..2 {
                // SAFETY: within the area, which nobody else uses.
                let to = unsafe { area.as_ptr().add((first * 4096) as usize + half * received.len()) };
                // SAFETY: as above; the buffer is as long as what is copied.
                unsafe { to.copy_from_nonoverlapping(received.as_ptr(), received.len()) };
            }
            let installed = missing.install_landed(first..first + 512).expect("installs");
            missing.leave(&(first..first + 512));
            installed
        });
    }
}

/// Installs all of memory, 512 pages a step.
fn measure(vm: &Vm, round: u32, name: &str, mut step: impl FnMut(&MissingPages, u64) -> u64) {
    let memory = vm.memory();
    let area = LandingArea::new(memory).expect("an area");
    area.populate_while(&|| true).expect("populates");
    let missing = MissingPages::open(memory).expect("opens").with_landing_area(area);
    let start = Instant::now();
    let installed: u64 = (0..memory.page_count()).step_by(512).map(|first| step(&missing, first)).sum();
    let took = start.elapsed();
    assert_eq!(installed, memory.page_count());
    println!("{round} {name:36} {:6.2} GB/s", memory.size_bytes() as f64 / took.as_secs_f64() / 1e9);
    missing.close().expect("closes");
}
