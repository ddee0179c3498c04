//! What differs between kinds of devices.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::chain::{BadChain, Chain};
use super::interrupt::Interrupt;
use super::queue::{Broken, VirtQueue};
use super::state::{FunctionState, FunctionStateError};
use crate::memory::GuestMemory;

/// Chains that are worked off before others get a chance at the device's lock.
pub(super) const CHAINS_AT_ONCE: u32 = 64;

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There is more to do.
    Again,
    /// Wait for a kick, and for the function's source too if `source` says so.
    Wait { source: bool },
}

/// What a function works with.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) interrupt: &'a Interrupt,
    /// Somebody wants the machine to stand still: finish what was taken, take no more.
    pub(super) hurry: &'a AtomicBool,
}

impl Work<'_> {
    pub(super) fn hurries(&self) -> bool {
        self.hurry.load(Ordering::SeqCst)
    }
}

/// Works off a queue: `handle` does what each chain asks for and returns how many bytes it wrote into it. Returns whether
/// there is more to do.
pub(super) fn work_off<'m>(
    queue: &mut VirtQueue,
    work: Work<'m>,
    mut handle: impl FnMut(Result<Chain<'m>, BadChain>) -> u32,
) -> Result<bool, Broken> {
    if !queue.is_ready() {
        return Ok(false);
    }
    let memory = work.memory;
    let mut left = CHAINS_AT_ONCE;
    queue.silence(memory)?;
    let more = loop {
        if left == 0 || work.hurries() {
            break true;
        }
        let Some(chain) = queue.pop(memory)? else {
            if queue.listen(memory)? {
                // Came while nobody listened. A driver that goes on like this gets as many chains as others.
                left -= 1;
                continue;
            }
            break false;
        };
        left -= 1;
        let head = chain.head_index();
        let written = handle(Chain::walk(memory, chain));
        queue.push_used(memory, head, written)?;
    };
    if left < CHAINS_AT_ONCE && queue.wants_interrupt(memory)? {
        work.interrupt.used_buffers();
    }
    Ok(more)
}

/// A kind of device behind the transport. All calls come with the device's lock held.
pub(super) trait Function: Send + fmt::Debug {
    /// Its number in the specification, chapter 5.
    fn device_id(&self) -> u32;

    /// Features it offers beyond those of every device.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues.
    fn queue_sizes(&self) -> &'static [u16];

    /// Reads its configuration; zeros where there is none.
    fn read_config(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }

    /// Writes its configuration, if the driver may write any of it.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    /// Works off its queues, each of which may be not ready. At the end nothing that was taken is left undone.
    fn work(&mut self, queues: &mut [VirtQueue], work: Work<'_>) -> Result<Next, Broken>;

    /// What its worker waits for beside kicks: readable when there is something to do.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Says whether its worker is to go ahead of others, if that is ever wanted of it.
    fn precedence(&self) -> Option<Arc<AtomicBool>> {
        None
    }

    /// The machine runs from here on; `_first` if it never ran here before.
    fn started(&mut self, _first: bool) {}

    /// The machine stands still.
    fn stopped(&mut self) {}

    /// The driver reset the device.
    fn reset(&mut self);

    /// What there is to save beyond registers and queues.
    fn save(&self) -> FunctionState;

    /// Whether a saved state can be this function's.
    fn check(&self, state: &FunctionState) -> Result<(), FunctionStateError>;

    /// Takes over a checked state.
    fn restore(&mut self, state: &FunctionState);
}

/// Reads from a configuration of which `config` is all.
pub(super) fn read_config_bytes(config: &[u8], offset: u64, into: &mut [u8]) {
    into.fill(0);
    let from = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    let length = from.len().min(into.len());
    into[..length].copy_from_slice(&from[..length]);
}
