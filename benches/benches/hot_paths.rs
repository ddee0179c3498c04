//! The engine's hot paths, each alone: what a page costs, in nanoseconds, and a GiB, in milliseconds.
//!
//! ```sh
//! cargo bench -p benches --bench hot_paths
//! ```

use std::{
    hint::black_box,
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::Duration,
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    pages::{
        Claims, GuestPages, Landing, PAGE_SIZE, PageNumber, PageRun, PageSet, PageSink, PageStream, RunBytes,
        digest_of,
    },
    protocol::FrameKind,
    transport::{Acceptor, Connector, Interrupt, Wire, memory},
};

/// Pages of a GiB.
const GIB: u64 = (1 << 30) / PAGE_SIZE as u64;
/// Pages that are moved at a time: 64 MiB, more than the caches hold.
const MOVED: u64 = GIB / 16;

/// Memory of a guest that does not run: one page in eight is zero.
struct Memory {
    bytes: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: an allocation that lives as long as this, whose bytes are read and written as the engine does with a guest's.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(page_count: u64, is_filled: bool) -> Memory {
        let layout = std::alloc::Layout::from_size_align(page_count as usize * PAGE_SIZE, PAGE_SIZE)
            .expect("a size that fits");
        // SAFETY: the size is not zero.
        let bytes = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!bytes.is_null(), "no memory for {page_count} pages");
        let memory = Memory { bytes, layout };
        for page in (0..page_count).filter(|page| is_filled && !page.is_multiple_of(8)) {
            // SAFETY: within the allocation, and nobody else has it yet.
            unsafe { bytes.add(page as usize * PAGE_SIZE).write_bytes(page as u8 | 1, PAGE_SIZE) };
        }
        memory
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody has it any more.
        unsafe { std::alloc::dealloc(self.bytes, self.layout) };
    }
}

impl GuestPages for Memory {
    fn page_count(&self) -> u64 {
        (self.layout.size() / PAGE_SIZE) as u64
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        assert!(run.end() <= self.page_count(), "{run:?}");
        // SAFETY: within the allocation, which lives as long as self.
        unsafe { RunBytes::new(self.bytes.add(run.byte_offset()), run.byte_len()) }
    }

    fn absent(&self) -> PageSet {
        PageSet::empty(self.page_count())
    }
}

/// Takes all that is sent, and does nothing with it.
struct Nowhere(UnixStream);

impl Wire for Nowhere {
    fn send_parts(&mut self, head: &[u8], payload: &[RunBytes<'_>], tail: &[u8]) -> io::Result<()> {
        black_box((head, payload, tail));
        Ok(())
    }

    fn receive(&mut self, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.receive(buffer)
    }

    fn receive_runs(&mut self, _: &[RunBytes<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn set_patience(&mut self, _: Option<Duration>) {}

    fn set_deadline(&mut self, _: Option<Duration>) {}

    fn set_peer_timeout(&mut self, _: Option<Duration>) {}

    fn set_interrupt(&mut self, _: &Interrupt) {}

    fn ignore_interrupt(&mut self) {}

    fn hang_up(&self) {}

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One page in `one_in`, spread as a guest's writes are.
fn dirty(one_in: u64) -> PageSet {
    let mut set = PageSet::empty(GIB);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..GIB / one_in {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        set.insert((state >> 33) % GIB);
    }
    set
}

fn runs_of_a_dirty_log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dirty log to runs, 1 GiB");
    for one_in in [4, 50, 1000] {
        let set = dirty(one_in);
        group.throughput(Throughput::Elements(set.len()));
        group.bench_function(BenchmarkId::new("dirty one in", one_in), |bencher| {
            bencher.iter(|| set.runs().map(|run| run.count).sum::<u64>());
        });
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let memory = Memory::new(MOVED, true);
    let mut group = criterion.benchmark_group("frames built, sent nowhere, 64 MiB");
    group.throughput(Throughput::Elements(MOVED));
    for (name, length) in [("one run", MOVED), ("runs of 4 pages", 4)] {
        let (end, _other) = UnixStream::pair().expect("a socket pair");
        let mut stream = PageStream::new(Box::new(Nowhere(end)), None);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let firsts = (0..MOVED).step_by(length as usize);
                let runs = firsts.map(|first: PageNumber| PageRun::new(first, length));
                stream.send(&memory, runs, None, FrameKind::LivePages, |_| ()).expect("nowhere takes all")
            });
        });
    }
    group.finish();
}

fn moved(criterion: &mut Criterion) {
    let (source, target) = (Memory::new(MOVED, true), Arc::new(Memory::new(MOVED, false)));
    let mut group = criterion.benchmark_group("pages through a socket pair into place, 64 MiB");
    group.throughput(Throughput::Bytes(MOVED * PAGE_SIZE as u64)).sample_size(20);
    let (connector, mut acceptor) = memory::pair();
    let interrupt = Interrupt::default();
    for (name, keep_digest) in [("plain", false), ("with a digest", true)] {
        let here = connector.connect(&interrupt).expect("a pair");
        let mut there = acceptor.accept(&interrupt, None).expect("a pair");
        let into = target.clone();
        let receives = thread::spawn(move || {
            let mut sink = PageSink::new(MOVED);
            let mut landing = Landing::new(&*into, keep_digest, &Arc::default());
            while sink.receive_stage(&mut *there, &mut landing).is_ok() {
                if there.send(&[1]).is_err() {
                    return;
                }
            }
        });
        let mut stream = PageStream::new(here, None);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let all = [PageRun::new(0, MOVED)];
                stream.send(&source, all, None, FrameKind::LivePages, |_| ()).expect("it is received");
                stream.end_stage(0).expect("it is received");
                stream.wire().receive(&mut [0]).expect("it is in place");
            });
        });
        drop(stream);
        receives.join().expect("no panic");
    }
    group.finish();
}

fn claims(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claims, 1 GiB");
    group.throughput(Throughput::Elements(GIB));
    let all = PageSet::all(GIB);
    group.bench_function("the push takes all", |bencher| {
        let taken = |claims: Claims| {
            let mut from = 0;
            while let Some(run) = claims.claim_next(from) {
                from = run.end();
            }
            claims
        };
        bencher.iter_batched(|| Claims::new(&all), taken, BatchSize::LargeInput);
    });
    group.finish();
}

fn digest(criterion: &mut Criterion) {
    let memory = Memory::new(MOVED, true);
    let mut group = criterion.benchmark_group("digest of memory, 64 MiB");
    group.throughput(Throughput::Bytes(MOVED * PAGE_SIZE as u64)).sample_size(20);
    group.bench_function("all processors", |bencher| {
        // SAFETY: nobody writes to it.
        bencher.iter(|| unsafe { digest_of(&memory) });
    });
    group.finish();
}

criterion_group!(hot_paths, runs_of_a_dirty_log, frames, moved, claims, digest);
criterion_main!(hot_paths);
