//! The oracle finds whatever is done to its memory, names it, and finds nothing where nothing was done.

use std::vec::Vec;

use super::*;

mod content;

const SEED: u64 = 42;
const PAGES: u64 = 96;
const WORKING_SET: PageRange = PageRange { start: 0, end: 32 };
const REST: PageRange = PageRange { start: 32, end: PAGES };

/// Memory of a guest with one writer; pages are numbered with a hole, as around 4 GiB.
struct Bench {
    bytes: Vec<Page>,
    table: Vec<u64>,
    content: Content,
    pattern: Pattern,
}

impl Bench {
    fn new(fill: Fill, pattern: Pattern) -> Self {
        let content = Content { seed: SEED, fill, filled_pages: PAGES };
        Self {
            bytes: std::vec![[0; PAGE_SIZE]; 200],
            table: std::vec![0; WORKING_SET.len() as usize],
            content,
            pattern,
        }
    }

    /// Fills, writes `writes` pages, lets `meddle` loose on the bytes, and checks.
    fn check(&mut self, writes: u64, meddle: impl FnOnce(&mut [Page], &Memory)) -> Vec<Mismatch> {
        let base = self.bytes.as_mut_ptr();
        // SAFETY: the ranges are within `bytes`, and the writer below is alone and gone at the end.
        let mut memory = unsafe { Memory::new(base.cast()) };
        memory.push(PageRange { start: 3, end: 43 });
        memory.push(PageRange { start: 100, end: 156 });
        assert_eq!(memory.page_count(), PAGES);
        let mut writer = Writer::new(memory, &mut self.table, WORKING_SET, 5, self.content, self.pattern);
        (0..PAGES).for_each(|index| writer.fill_page(index));
        (0..writes).for_each(|_| writer.write_next());
        // SAFETY: the writer holds no reference between its calls.
        meddle(unsafe { core::slice::from_raw_parts_mut(base, 200) }, &memory);
        run(&mut Checker::new(&writer, REST), &mut writer)
    }
}

fn run(checker: &mut Checker, writer: &mut Writer<'_>) -> Vec<Mismatch> {
    let mut found = Vec::new();
    loop {
        match checker.step(writer) {
            CheckStep::Right | CheckStep::Audited => {}
            CheckStep::Wrong(mismatch) => found.push(mismatch),
            CheckStep::Done => return found,
        }
    }
}

#[test]
fn untouched_memory_is_right() {
    for fill in [Fill::Zeros, Fill::Random, Fill::Text] {
        for pattern in [Pattern::Sequential, Pattern::Random, Pattern::HotCold] {
            for writes in [0, 1, 31, 32, 1_000] {
                assert_eq!(Bench::new(fill, pattern).check(writes, |_, _| {}), []);
            }
        }
    }
}

#[test]
fn a_flipped_byte_of_any_page_is_found() {
    for fill in [Fill::Zeros, Fill::Random, Fill::Text] {
        for index in 0..PAGES {
            let offset = (index as usize * 1_021) % PAGE_SIZE;
            let mut number = 0;
            let found = Bench::new(fill, Pattern::Sequential).check(20, |pages, memory| {
                number = memory.number(index);
                pages[number as usize][offset] ^= 0x10;
            });
            assert_eq!(found.len(), 1, "{fill} index {index} byte {offset}");
            assert_eq!((found[0].page, found[0].offset), (number, offset as u64));
        }
    }
}

#[test]
fn each_kind_of_damage_has_its_name() {
    let damage = |writes, meddle: fn(&mut [Page])| {
        let found = Bench::new(Fill::Random, Pattern::Sequential).check(writes, |pages, _| meddle(pages));
        assert_eq!(found.len(), 1);
        found[0]
    };
    // Sequential: index 0 is page 3; 40 writes put sequences 33–40 over 1–8 in pages 3–10, and 9–32 in the others.
    let stamp = |page, sequence| Stamp::new(SEED, page, sequence, 5);

    let lost = damage(40, |pages| pages[3].fill(0));
    assert_eq!((lost.kind, lost.expected), (MismatchKind::Lost, stamp(3, 33)));

    let stale = damage(40, |pages| {
        stamp_page(&mut pages[3], &Stamp::new(SEED, 3, 1, 5), Fill::Random);
    });
    assert_eq!((stale.kind, stale.expected.sequence, stale.found.sequence), (MismatchKind::Stale, 33, 1));

    let unwritten = damage(40, |pages| {
        stamp_page(&mut pages[3], &Stamp::of_fill(SEED, 3), Fill::Random);
    });
    assert_eq!((unwritten.kind, unwritten.found.writer), (MismatchKind::Stale, FILL_WRITER));

    let newer = damage(40, |pages| {
        stamp_page(&mut pages[3], &Stamp::new(SEED, 3, 65, 5), Fill::Random);
    });
    assert_eq!((newer.kind, newer.found.sequence), (MismatchKind::Newer, 65));

    let misplaced = damage(40, |pages| pages[3] = pages[4]);
    assert_eq!((misplaced.kind, misplaced.found), (MismatchKind::Misplaced, stamp(4, 34)));

    let torn = damage(40, |pages| pages[3][2048..].fill(0));
    assert_eq!((torn.kind, torn.offset), (MismatchKind::Torn, 2048));

    let corrupt = damage(40, |pages| pages[3][..2048].fill(7));
    assert_eq!(corrupt.kind, MismatchKind::Corrupt);
}

#[test]
fn memory_nobody_wrote_must_be_zero() {
    let found = Bench::new(Fill::Zeros, Pattern::Random).check(10, |pages, _| pages[150][4095] = 1);
    assert_eq!((found[0].kind, found[0].page, found[0].offset), (MismatchKind::NotZero, 150, 4095));
    let mut part = Bench::new(Fill::Random, Pattern::Random);
    part.content.filled_pages = 50;
    assert_eq!(part.check(10, |pages, memory| assert!(is_zero(&pages[memory.number(50) as usize]))), []);
}

#[test]
fn a_stale_table_is_found_even_if_it_agrees_with_stale_pages() {
    let mut bench = Bench::new(Fill::Random, Pattern::Sequential);
    let base = bench.bytes.as_mut_ptr();
    // SAFETY: as in `Bench::check`.
    let mut memory = unsafe { Memory::new(base.cast()) };
    memory.push(PageRange { start: 0, end: PAGES });
    let table = bench.table.as_mut_ptr();
    let mut writer = Writer::new(memory, &mut bench.table, WORKING_SET, 0, bench.content, bench.pattern);
    (0..PAGES).for_each(|index| writer.fill_page(index));
    (0..33).for_each(|_| writer.write_next());
    // SAFETY: test-made damage, between the writer's calls: page and table both fall back to the first write.
    unsafe {
        stamp_page(&mut *base, &Stamp::new(SEED, 0, 1, 0), Fill::Random);
        *table = 1;
    }
    let found = run(&mut Checker::new(&writer, REST), &mut writer);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, MismatchKind::Table);
}

#[test]
fn a_check_between_writes_finds_nothing() {
    // A table longer than one audit step, so that writes fall into the middle of its sum.
    let (pages, set) = (6_000, PageRange { start: 0, end: 5_000 });
    let mut bytes = std::vec![[0u8; PAGE_SIZE]; pages];
    let mut table = std::vec![0; 5_000];
    // SAFETY: as in `Bench::check`.
    let mut memory = unsafe { Memory::new(bytes.as_mut_ptr().cast()) };
    memory.push(PageRange { start: 0, end: pages as u64 });
    let content = Content { seed: SEED, fill: Fill::Zeros, filled_pages: 0 };
    let mut writer = Writer::new(memory, &mut table, set, 0, content, Pattern::Random);
    let mut checker = Checker::new(&writer, PageRange { start: 5_000, end: 6_000 });
    loop {
        (0..7).for_each(|_| writer.write_next());
        match checker.step(&mut writer) {
            CheckStep::Right | CheckStep::Audited => {}
            CheckStep::Wrong(mismatch) => panic!("{mismatch}"),
            CheckStep::Done => return,
        }
    }
}

#[test]
fn patterns_visit_what_they_say() {
    let visits = |pattern| {
        let mut bench = Bench::new(Fill::Random, pattern);
        assert_eq!(bench.check(32_000, |_, _| {}), []);
        bench.table
    };
    // Entries hold the last sequence: with 1 000 writes a page, all are recent, but for the cold pages.
    assert!(visits(Pattern::Random).iter().all(|last| *last > 31_000));
    assert_eq!(visits(Pattern::Sequential)[0], 31_969);
    let hot_cold = visits(Pattern::HotCold);
    assert!(hot_cold[..3].iter().all(|last| *last > 31_900), "3 of 32 pages are hot");
    assert!(hot_cold[3..].iter().all(|last| *last > 0));
}

#[test]
fn slices_cover_a_range_once() {
    let range = PageRange { start: 10, end: 1_011 };
    for parts in 1..=16 {
        let mut next = range.start;
        for part in 0..parts {
            let slice = range.slice(part, parts);
            assert_eq!(slice.start, next);
            next = slice.end;
        }
        assert_eq!(next, range.end);
    }
}
