//! The memory of a KVM machine, and the pages that are missing from it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use vmm::{GuestMemory, LandingArea};

use engine::{
    pages::{GuestPages, PageNumber, PageRun, PageSet, RunBytes},
    vm::{MissingPages, VmError},
};

pub(super) struct KvmPages(pub(super) Arc<GuestMemory>);

impl GuestPages for KvmPages {
    fn page_count(&self) -> u64 {
        self.0.page_count()
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        let page_count = self.page_count();
        assert!(run.checked_end().is_some_and(|end| end <= page_count), "{run:?} of {page_count} pages");
        // SAFETY: within guest memory, which is one mapping that lives as long as self.
        unsafe { RunBytes::new(self.0.as_ptr().add(run.byte_offset()), run.byte_len()) }
    }

    fn absent(&self) -> PageSet {
        let mut resident = PageSet::empty(self.page_count());
        if self.0.has_missing_pages() {
            // A page that has not come yet is not one that was never written: sent as absent it would become zeros.
            return PageSet::empty(self.page_count());
        }
        match self.0.resident(resident.words_mut()) {
            Ok(()) => resident.complement(),
            // Then every page is read.
            Err(error) => {
                tracing::debug!(error = engine::report::in_words(&error), "absent pages are not known");
                PageSet::empty(self.page_count())
            }
        }
    }
}

pub(super) struct KvmMissing(vmm::MissingPages);

impl KvmMissing {
    /// No page is missing yet; whole blocks are received in `area`.
    pub(super) fn prepare(
        memory: &Arc<GuestMemory>,
        area: Option<LandingArea>,
    ) -> Result<KvmMissing, VmError> {
        let missing = vmm::MissingPages::prepare(memory).map_err(VmError::new("open missing pages"))?;
        Ok(KvmMissing(match area {
            Some(area) => missing.with_landing_area(area),
            None => missing,
        }))
    }
}

impl GuestPages for KvmMissing {
    fn page_count(&self) -> u64 {
        self.0.page_count()
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        let page_count = self.page_count();
        assert!(run.checked_end().is_some_and(|end| end <= page_count), "{run:?} of {page_count}");
        let area = self.0.landing_area().expect("asked only where there is one");
        // SAFETY: within the area, which is one mapping of all pages that lives as long as self.
        unsafe { RunBytes::new(area.as_ptr().add(run.byte_offset()), run.byte_len()) }
    }

    fn absent(&self) -> PageSet {
        PageSet::empty(self.page_count())
    }
}

impl MissingPages for KvmMissing {
    fn watch(&self, missing: &PageSet) -> Result<(), VmError> {
        let runs = missing.runs().map(|run| run.first..run.end());
        self.0.watch(runs).map_err(VmError::new("watch missing pages"))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn next_faults(&self, faults: &mut Vec<PageNumber>) -> Result<(), VmError> {
        let mut read = Vec::new();
        self.0.read_faults(&mut read).map_err(VmError::new("read page faults"))?;
        faults.extend(read.iter().map(|fault| fault.page));
        Ok(())
    }

    fn install(&self, first: PageNumber, bytes: &[u8]) -> Result<u64, VmError> {
        self.0.install(first, bytes).map_err(VmError::new("install pages"))
    }

    fn install_zeros(&self, run: PageRun) -> Result<u64, VmError> {
        self.0.install_zeros(run.first, run.count).map_err(VmError::new("install zero pages"))
    }

    fn landing_area(&self, runs: &[PageRun]) -> Option<&dyn GuestPages> {
        let [run] = runs else { return None };
        self.0.take(&(run.first..run.end())).then_some(self as &dyn GuestPages)
    }

    fn install_landed(&self, run: PageRun) -> Result<u64, VmError> {
        self.0.install_landed(run.first..run.end()).map_err(VmError::new("install received pages"))
    }

    fn leave_landing(&self, runs: &[PageRun]) {
        runs.iter().for_each(|run| self.0.leave(&(run.first..run.end())));
    }

    fn unwatch(&self) -> Result<(), VmError> {
        self.0.clone().close().map_err(VmError::new("stop watching missing pages"))
    }
}
