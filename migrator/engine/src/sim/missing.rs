//! Missing pages of a simulated machine: what userfaultfd is to a real one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

use super::{guest::Abandoned, memory::SimMemory};
use crate::{
    pages::{GuestPages, PAGE_SIZE, PageNumber, PageRun, PageSet, RunBytes},
    vm::{MissingPages, VmError},
};

/// Which pages are there, and who waits.
pub(super) struct SimMissing {
    memory: Arc<SimMemory>,
    state: Mutex<State>,
    changed: Condvar,
    waiting: OwnedFd,
    /// Every other machine has a landing area, so that both ways are tested.
    area: Option<Area>,
}

struct Area(SimMemory);

impl GuestPages for Area {
    fn page_count(&self) -> u64 {
        self.0.page_count()
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        self.0.bytes(run)
    }

    fn absent(&self) -> PageSet {
        PageSet::empty(self.page_count())
    }
}

struct State {
    /// Pages that are there, while they are watched.
    present: Option<PageSet>,
    faults: Vec<PageNumber>,
    abandoned: bool,
}

impl SimMissing {
    pub fn new(memory: Arc<SimMemory>) -> io::Result<SimMissing> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let has_area = MADE.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let area = has_area.then(|| SimMemory::new(memory.page_count()).map(Area)).transpose()?;
        Ok(SimMissing {
            area,
            memory,
            state: Mutex::new(State { present: None, faults: Vec::new(), abandoned: false }),
            changed: Condvar::new(),
            waiting: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Where pages are received, if this machine has an area for them.
    pub fn area(&self) -> Option<&SimMemory> {
        self.area.as_ref().map(|area| &area.0)
    }

    /// Whether pages may be missing.
    pub fn is_watched(&self) -> bool {
        self.lock().present.is_some()
    }

    /// The machine is being dropped: whoever waits gives up.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// Waits until a page is there.
    pub fn wait_for(&self, page: PageNumber) -> Result<(), Abandoned> {
        let mut state = self.lock();
        let mut asked = false;
        while state.present.as_ref().is_some_and(|present| !present.contains(page)) {
            if state.abandoned {
                return Err(Abandoned);
            }
            if !asked {
                asked = true;
                state.faults.push(page);
                rustix::io::write(&self.waiting, &1u64.to_ne_bytes()).ok();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts pages in place that are not there. Returns how many that were.
    fn install_each(&self, run: PageRun, write: impl Fn(PageNumber)) -> u64 {
        let mut state = self.lock();
        let Some(present) = &mut state.present else { return 0 };
        let mut installed = 0;
        for page in run.pages().filter(|&page| !present.contains(page)).collect::<Vec<_>>() {
            write(page);
            present.insert(page);
            installed += 1;
        }
        self.changed.notify_all();
        installed
    }
}

impl MissingPages for SimMissing {
    fn watch(&self, missing: &PageSet) -> Result<(), VmError> {
        let mut state = self.lock();
        state.present = Some(missing.clone().complement());
        let mut runs = missing.runs();
        runs.try_for_each(|run| self.memory.discard(run)).map_err(VmError::new("empty missing pages"))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }

    fn next_faults(&self, faults: &mut Vec<PageNumber>) -> Result<(), VmError> {
        let mut count = [0; 8];
        rustix::io::read(&self.waiting, &mut count).ok();
        faults.append(&mut self.lock().faults);
        Ok(())
    }

    fn install(&self, first: PageNumber, bytes: &[u8]) -> Result<u64, VmError> {
        let run = PageRun::new(first, (bytes.len() / PAGE_SIZE) as u64);
        let page_of = |page: u64| &bytes[(page - first) as usize * PAGE_SIZE..][..PAGE_SIZE];
        Ok(self.install_each(run, |page| self.memory.write(page, page_of(page))))
    }

    fn install_zeros(&self, run: PageRun) -> Result<u64, VmError> {
        Ok(self.install_each(run, |page| self.memory.bytes(PageRun::one(page)).fill_zero()))
    }

    fn landing_area(&self, _runs: &[PageRun]) -> Option<&dyn GuestPages> {
        self.area.as_ref().map(|area| area as &dyn GuestPages)
    }

    fn install_landed(&self, run: PageRun) -> Result<u64, VmError> {
        let area =
            self.area.as_ref().ok_or(VmError { operation: "install pages", source: "no area".into() })?;
        Ok(self.install_each(run, |page| {
            let mut bytes = [0; PAGE_SIZE];
            area.0.read(page, &mut bytes);
            self.memory.write(page, &bytes);
        }))
    }

    fn leave_landing(&self, _runs: &[PageRun]) {}

    fn unwatch(&self) -> Result<(), VmError> {
        self.lock().present = None;
        self.changed.notify_all();
        Ok(())
    }
}
