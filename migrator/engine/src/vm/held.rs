//! A VM that its user has paused: it moves as any other, but nobody runs it on the way, nor afterwards.

use std::sync::Arc;

use super::{ConsoleHistory, Network, SourceVm, VmDescription, VmError};
use crate::pages::{GuestPages, PageNumber, PageSet};

/// A paused VM, for a migration. Whatever the engine asks, it stands still, as it is paused already; what
/// [`SourceVm::release`] let go of is taken back when its user resumes it.
pub struct HeldVm<'vm>(pub &'vm mut dyn SourceVm);

impl SourceVm for HeldVm<'_> {
    fn describe(&self) -> VmDescription {
        VmDescription { paused: true, ..self.0.describe() }
    }

    fn pages(&self) -> Arc<dyn GuestPages> {
        self.0.pages()
    }

    fn start_dirty_log(&mut self) -> Result<(), VmError> {
        self.0.start_dirty_log()
    }

    fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), VmError> {
        self.0.take_dirty(dirty)
    }

    fn stop_dirty_log(&mut self) -> Result<(), VmError> {
        self.0.stop_dirty_log()
    }

    fn before_pause(&mut self) -> Result<(), VmError> {
        self.0.before_pause()
    }

    fn pause(&mut self) -> Result<(), VmError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), VmError> {
        Ok(())
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        self.0.network()
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        self.0.console()
    }

    fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
        self.0.save_state()
    }

    fn release(&mut self) -> Result<(), VmError> {
        self.0.release()
    }

    fn first_pages(&self) -> Vec<PageNumber> {
        self.0.first_pages()
    }
}
