//! The payload of a frame in pieces that fit into a processor's cache: each is hashed and copied while it lies there.

use super::{Digest, GuestPages, PageRun, RunBytes};

/// 256 KiB: a quarter of a usual second-level cache, and long enough that a system call for it costs nothing beside it.
const PIECE_PAGES: u64 = 64;

/// Runs cut into pieces of at most [`PIECE_PAGES`] pages.
pub(crate) struct Pieces<R> {
    runs: R,
    rest: PageRun,
}

impl<R: Iterator<Item = PageRun>> Pieces<R> {
    /// Of these runs, in their order.
    pub fn new(runs: R) -> Pieces<R> {
        Pieces { runs, rest: PageRun::new(0, 0) }
    }

    /// The next piece into `piece`, whose room is used again; `false` when there is none.
    pub fn next_into(&mut self, piece: &mut Vec<PageRun>) -> bool {
        piece.clear();
        let mut room = PIECE_PAGES;
        while room > 0 {
            if self.rest.count == 0 {
                let Some(run) = self.runs.next() else { break };
                self.rest = run;
            }
            let part = PageRun::new(self.rest.first, self.rest.count.min(room));
            self.rest = PageRun::new(part.end(), self.rest.count - part.count);
            room -= part.count;
            if part.count > 0 {
                piece.push(part);
            }
        }
        !piece.is_empty()
    }
}

/// Where the runs' bytes are.
pub(crate) fn places<'a>(pages: &'a dyn GuestPages, runs: &[PageRun]) -> Vec<RunBytes<'a>> {
    runs.iter().map(|&run| pages.bytes(run)).collect()
}

/// Adds the runs' pages, none of which is zero, to a digest.
///
/// # Safety
/// Nobody writes to them meanwhile.
pub(crate) unsafe fn add_runs(digest: &mut Digest, pages: &dyn GuestPages, runs: &[PageRun]) {
    for &run in runs {
        // SAFETY: the caller promised that nobody writes.
        digest.add(run.first, unsafe { pages.bytes(run).frozen() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_short_and_lose_nothing() {
        let runs = [PageRun::new(5, 3), PageRun::new(10, 130), PageRun::new(200, 0), PageRun::new(300, 1)];
        let mut pieces = Pieces::new(runs.into_iter());
        let mut piece = Vec::new();
        let mut found = Vec::new();
        while pieces.next_into(&mut piece) {
            assert!(piece.iter().map(|run| run.count).sum::<u64>() <= PIECE_PAGES);
            found.extend(piece.iter().flat_map(PageRun::pages));
        }
        assert_eq!(found, runs.iter().flat_map(PageRun::pages).collect::<Vec<_>>());
        assert!(!pieces.next_into(&mut piece));
    }
}
