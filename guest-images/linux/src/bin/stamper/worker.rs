//! The threads that write and check.

use std::{
    process::ExitCode,
    ptr,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use telemetry::{
    PAGE_SIZE,
    oracle::{CheckStep, Checker, Content, Memory, PageRange, Writer},
};

use crate::{options::Options, request};

/// How long a thread that is ahead of its rate sleeps.
const NAP: Duration = Duration::from_millis(2);

/// What the threads tell and are told. All counts are over all threads.
#[derive(Default)]
pub struct Shared {
    /// Number of the last check asked for.
    pub asked: AtomicU64,
    /// Threads that have finished that check.
    pub finished: AtomicU64,
    /// Pages that were looked at.
    pub checked: AtomicU64,
    /// Pages that were not what they must be.
    pub errors: AtomicU64,
    /// Pages written.
    pub written: AtomicU64,
    /// The latest that any thread has seen of CLOCK_MONOTONIC, in nanoseconds.
    latest: AtomicU64,
    /// Times a thread has seen it earlier than that.
    pub clock_went_back: AtomicU64,
    /// Threads that have filled their memory.
    pub ready: AtomicU64,
}

/// Writes until it is killed, and answers requests.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    let bytes = options.pages as usize * PAGE_SIZE;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a fresh mapping at a place the kernel chooses. It is never unmapped.
    let base = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, flags) };
    let base = base.map_err(|error| format!("map {bytes} bytes: {error}"))? as usize;
    let shared = Shared::default();
    let listener = request::listen()?;
    thread::scope(|scope| {
        for number in 0..options.threads {
            let shared = &shared;
            scope.spawn(move || work(number, base, options, shared));
        }
        request::answer(&listener, &shared, options.threads);
        Ok(ExitCode::SUCCESS)
    })
}

fn work(number: u64, base: usize, options: &Options, shared: &Shared) {
    pin(number);
    // SAFETY: the mapping is `run`'s and lasts for ever; each thread touches its own slice of it only.
    let mut memory = unsafe { Memory::new(base as *mut u8) };
    let all = PageRange { start: 0, end: options.pages };
    memory.push(all);
    let slice = all.slice(number, options.threads);
    let mut table = vec![0; slice.len() as usize];
    let content = Content { seed: options.seed, fill: options.fill, filled_pages: options.pages };
    let mut writer = Writer::new(memory, &mut table, slice, number, content, options.pattern);
    (slice.start..slice.end).for_each(|index| writer.fill_page(index));
    shared.ready.fetch_add(1, AcqRel);
    let begin = Instant::now();
    let mut checks_done = 0;
    loop {
        let asked = shared.asked.load(Acquire);
        if asked > checks_done {
            check(&mut writer, shared);
            checks_done = asked;
        }
        look_at_clock(shared);
        let due =
            options.rate.map(|rate| begin.elapsed().as_micros() as u64 * rate / options.threads / 1_000_000);
        // Some at a time, so that requests and the clock are looked at in between.
        let behind = due.map_or(64, |due| due.saturating_sub(writer.sequence()).min(64));
        (0..behind).for_each(|_| writer.write_next());
        shared.written.fetch_add(behind, Relaxed);
        if behind == 0 {
            thread::sleep(NAP);
        }
    }
}

/// Looks at every page of the thread's slice, and at its table.
fn check(writer: &mut Writer<'_>, shared: &Shared) {
    // All pages are in some thread's slice.
    let mut checker = Checker::new(writer, PageRange::default());
    loop {
        match checker.step(writer) {
            CheckStep::Right => _ = shared.checked.fetch_add(1, Relaxed),
            CheckStep::Wrong(mismatch) => {
                shared.checked.fetch_add(1, Relaxed);
                shared.errors.fetch_add(1, Relaxed);
                eprintln!("stamper: {mismatch:?}");
            }
            CheckStep::Audited => {}
            CheckStep::Done => break,
        }
    }
    shared.finished.fetch_add(1, Release);
}

/// No thread may see a time before one that any thread has seen.
fn look_at_clock(shared: &Shared) {
    // Read before the clock is: what another thread stores after that says nothing about this thread's reading.
    let latest = shared.latest.load(Acquire);
    let now = clock_gettime(ClockId::Monotonic);
    let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    if now < latest {
        shared.clock_went_back.fetch_add(1, Relaxed);
    }
    shared.latest.fetch_max(now, AcqRel);
}

fn pin(number: u64) {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut only = CpuSet::new();
    only.set(number as usize % processors);
    if let Err(error) = sched_setaffinity(None, &only) {
        eprintln!("stamper: thread {number} runs anywhere: {error}");
    }
}
