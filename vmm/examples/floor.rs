//! The floor of a switchover: what pausing, saving, restoring and starting cost when no byte of memory has to move.
//!
//! `cargo run --release -p vmm --example floor [vcpus] [rounds]` prints medians and 99th percentiles in microseconds. The
//! guest counts in memory without rest, so that the host sees its progress.

use std::time::{Duration, Instant};

use vmm::{Backing, CpuModel, Vm, VmConfig};

/// Where the guest counts.
const COUNTER_AT: u64 = 0x20_0000;

/// Counts at `COUNTER_AT` for ever, in 32-bit protected mode.
const COUNT: &[u8] = &[
    0xb9, 0x00, 0x00, 0x20, 0x00, // mov ecx, 0x200000
    0xff, 0x01, //             1: inc dword [ecx]
    0xeb, 0xfc, //                jmp 1b
];

#[path = "../tests/common/elf.rs"]
mod elf;

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<u32>().ok());
    let vcpus = arguments.next().unwrap_or(1) as u8;
    let rounds = arguments.next().unwrap_or(500);
    let cpu = CpuModel::host().expect("this host's CPU");
    let config = VmConfig { memory_bytes: 64 << 20, vcpus, backing: Backing::Anonymous, devices: Vec::new() };

    let mut figures = Figures::default();
    let mut vm = figures.time("create", || Vm::new(&config, &cpu, Vec::new()).expect("a machine"));
    vm.boot(&elf::elf(COUNT), "", None).expect("boots");
    vm.start();
    wait_for_progress(&vm);

    for _ in 0..rounds {
        figures.time("pause + resume", || {
            vm.pause().expect("pauses");
            vm.resume().expect("resumes");
        });
        std::thread::sleep(Duration::from_micros(200));
    }
    for _ in 0..rounds {
        figures.time("pause", || vm.pause().expect("pauses"));
        figures.time("save", || vm.save().expect("saves"));
        figures.time("resume -> progress", || {
            vm.resume().expect("resumes");
            wait_for_progress(&vm);
        });
    }

    // Half as many machines as would fit comfortably: making and closing each costs 20 ms.
    let mut state = Vec::new();
    for _ in 0..(rounds / 10).max(20) {
        let mut next = figures.time("create", || Vm::new(&config, &cpu, Vec::new()).expect("a machine"));
        // Rehearsed, as a destination would: the first restore finds cold paths and unpopulated pages.
        next.memory().populate(0..next.memory().page_count()).expect("populates");
        if !state.is_empty() {
            next.restore(&state).expect("restores");
        }
        let gap = Instant::now();
        figures.time("pause", || vm.pause().expect("pauses"));
        state = figures.time("save", || vm.save().expect("saves"));
        let copied = Instant::now();
        copy_memory(&vm, &next);
        let copying = copied.elapsed();
        figures.time("restore", || next.restore(&state).expect("restores"));
        figures.time("start -> progress", || {
            next.start();
            wait_for_progress(&next);
        });
        figures.add("pause .. progress, without memory", gap.elapsed() - copying);
        let last = std::mem::replace(&mut vm, next);
        figures.time("drop", || drop(last));
    }
    println!("{vcpus} vCPU(s), state of {} bytes", state.len());
    figures.print();
}

fn counter(vm: &Vm) -> u32 {
    let mut bytes = [0; 4];
    vm.memory().read(COUNTER_AT, &mut bytes).expect("an address in memory");
    u32::from_le_bytes(bytes)
}

fn wait_for_progress(vm: &Vm) {
    let before = counter(vm);
    while counter(vm) == before {
        std::hint::spin_loop();
    }
}

/// The few pages this guest has, by the host's record of them.
fn copy_memory(from: &Vm, to: &Vm) {
    for address in [0, 0x6000, 0x7000, 0x8000, 0x10_0000, COUNTER_AT] {
        let mut page = [0; 4096];
        from.memory().read(address, &mut page).expect("a page");
        to.memory().write(address, &page).expect("a page");
    }
}

#[derive(Default)]
struct Figures {
    series: Vec<(&'static str, Vec<Duration>)>,
}

impl Figures {
    fn time<T>(&mut self, name: &'static str, what: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = what();
        self.add(name, start.elapsed());
        result
    }

    fn add(&mut self, name: &'static str, took: Duration) {
        match self.series.iter_mut().find(|(known, _)| *known == name) {
            Some((_, series)) => series.push(took),
            None => self.series.push((name, vec![took])),
        }
    }

    fn print(&mut self) {
        println!("{:36} {:>10} {:>10} {:>6}", "microseconds", "median", "p99", "n");
        for (name, series) in &mut self.series {
            series.sort_unstable();
            let at =
                |share: f64| series[((series.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1000.0;
            println!("{name:36} {:>10.1} {:>10.1} {:>6}", at(0.5), at(0.99), series.len());
        }
    }
}
