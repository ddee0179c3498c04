//! A VM that stands still, and the duty to run it.

use std::error::Error;

use super::{SourceVm, VmError};
use crate::pages::{PageNumber, PageSet};

/// A VM that stands still and runs on when this is dropped, whatever went wrong: "paused on success,
/// resumed on failure" as a type.
pub struct PausedVm<'vm> {
    vm: Option<&'vm mut dyn SourceVm>,
}

impl<'vm> PausedVm<'vm> {
    /// Pauses.
    ///
    /// # Errors
    /// The VM runs on then.
    pub fn pause(vm: &'vm mut dyn SourceVm) -> Result<PausedVm<'vm>, VmError> {
        vm.pause()?;
        Ok(PausedVm { vm: Some(vm) })
    }

    /// As [`SourceVm::save_state`].
    ///
    /// # Errors
    /// As there.
    pub fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
        self.vm().save_state()
    }

    /// As [`SourceVm::take_dirty`].
    ///
    /// # Errors
    /// As there.
    pub fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), VmError> {
        self.vm().take_dirty(dirty)
    }

    /// As [`SourceVm::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(&mut self) -> Result<(), VmError> {
        self.vm().release()
    }

    /// As [`SourceVm::first_pages`].
    pub fn first_pages(&mut self) -> Vec<PageNumber> {
        self.vm().first_pages()
    }

    /// Gives up the duty to run this guest, for ever: it will not be resumed here. Done just before
    /// the destination is told to start it.
    pub fn relinquish(mut self) {
        self.vm = None;
    }

    fn vm(&mut self) -> &mut dyn SourceVm {
        &mut **self.vm.as_mut().expect("only relinquish takes it, and consumes self")
    }
}

impl Drop for PausedVm<'_> {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.take()
            && let Err(error) = vm.resume()
        {
            tracing::error!(error = &error as &dyn Error, "the guest could not be resumed");
        }
    }
}
