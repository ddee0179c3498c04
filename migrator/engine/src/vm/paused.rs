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

    /// Resumes the guest, and says if that fails: then it is still paused.
    ///
    /// # Errors
    /// As [`SourceVm::resume`].
    pub fn resume(mut self) -> Result<(), VmError> {
        self.vm.take().map_or(Ok(()), SourceVm::resume)
    }

    /// Gives up the duty to run this guest: it is not resumed here, unless the destination says that it never
    /// started it. Done just before the destination is told to start it.
    pub fn relinquish(mut self) -> RelinquishedVm<'vm> {
        RelinquishedVm { vm: self.vm.take() }
    }

    fn vm(&mut self) -> &mut dyn SourceVm {
        &mut **self.vm.as_mut().expect("only relinquish takes it, and consumes self")
    }
}

/// A paused VM that is no longer this side's to run. Nothing happens when it is dropped.
pub struct RelinquishedVm<'vm> {
    vm: Option<&'vm mut dyn SourceVm>,
}

impl<'vm> RelinquishedVm<'vm> {
    /// Takes the duty back: the destination has said that the guest does not run there and never will. Silence is not
    /// such a word.
    pub fn take_back(self) -> PausedVm<'vm> {
        PausedVm { vm: self.vm }
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
