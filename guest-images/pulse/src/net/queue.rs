//! One virtqueue of whole frames: a descriptor and a fixed buffer for each.

use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering::SeqCst, fence};

use virtio_drivers::Result;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::dma::Identity;

/// Bytes of a buffer: the header, and a frame of 1514.
pub const BUFFER_BYTES: usize = 2048;
/// Bytes of virtio-net's header before each frame (virtio 1.2, 5.1.6).
pub const HEADER_BYTES: usize = 12;

/// A queue's buffers.
#[repr(C, align(4096))]
pub struct Frames<const N: usize>(UnsafeCell<[[u8; BUFFER_BYTES]; N]>);
// SAFETY: reached only through the one `Queue` that `Queue::new` makes of it.
unsafe impl<const N: usize> Sync for Frames<N> {}

impl<const N: usize> Frames<N> {
    /// Buffers of zeros.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([[0; BUFFER_BYTES]; N]))
    }
}

/// A virtqueue and its buffers. Each buffer is the device's or the driver's, never both's.
pub struct Queue<const N: usize> {
    queue: VirtQueue<Identity, N>,
    index: u16,
    frames: &'static Frames<N>,
    /// Buffer of each descriptor that the device has.
    buffer_of: [u16; N],
    /// Buffers given to the device since it was last notified.
    added: u16,
    /// How many were given to it in all, as its 16-bit index counts.
    total: u16,
}

impl<const N: usize> Queue<N> {
    /// Sets up the device's queue `index`.
    ///
    /// # Safety
    /// `frames` belongs to this queue alone.
    pub unsafe fn new(
        transport: &mut impl Transport,
        index: u16,
        event_index: bool,
        frames: &'static Frames<N>,
    ) -> Result<Self> {
        let queue = VirtQueue::new(transport, index, false, event_index)?;
        Ok(Self { queue, index, frames, buffer_of: [0; N], added: 0, total: 0 })
    }

    /// Asks the device not to interrupt, where it and the driver do not tell each other by index.
    pub fn want_no_interrupts(&mut self) {
        self.queue.set_dev_notify(false);
    }

    /// Gives the device a buffer to write a frame to.
    pub fn give_to_fill(&mut self, buffer: u16) {
        let bytes = self.bytes(buffer);
        // SAFETY: the buffer is static and from now on the device's, until `take` returns it.
        let token = unsafe { self.queue.add(&[], &mut [&mut *bytes]) };
        self.given(buffer, token);
    }

    /// Gives the device a buffer with a frame of `bytes` bytes behind its header.
    pub fn give_to_send(&mut self, buffer: u16, bytes: usize) {
        let frame = self.bytes(buffer);
        // SAFETY: as in `give_to_fill`; the slice is within the buffer, or indexing panics.
        let token = unsafe { self.queue.add(&[&(&*frame)[..HEADER_BYTES + bytes]], &mut []) };
        self.given(buffer, token);
    }

    fn given(&mut self, buffer: u16, token: Result<u16>) {
        // There are as many buffers as descriptors, so there is room.
        let token = token.expect("a free buffer has a free descriptor");
        self.buffer_of[usize::from(token)] = buffer;
        self.added += 1;
        self.total = self.total.wrapping_add(1);
    }

    /// Whether the device is done with a buffer.
    pub fn has_used(&self) -> bool {
        if self.queue.can_pop() {
            return true;
        }
        // The driver has told, by a plain store, from which buffer on it wants to be interrupted. The device may have
        // looked before it saw that: look again after it can see it.
        fence(SeqCst);
        self.queue.can_pop()
    }

    /// Takes back the next buffer that the device is done with: its number, and how many bytes the device wrote.
    pub fn take(&mut self, is_filled: bool) -> Option<(u16, usize)> {
        if !self.has_used() {
            return None;
        }
        let token = self.queue.peek_used()?;
        let buffer = *self.buffer_of.get(usize::from(token))?;
        let bytes = self.bytes(buffer);
        // SAFETY: the buffer that was given with this token. One that was sent was shorter, but as the same single
        // descriptor, and nothing is done with it here.
        let taken = unsafe {
            if is_filled {
                self.queue.pop_used(token, &[], &mut [&mut *bytes])
            } else {
                self.queue.pop_used(token, &[&*bytes], &mut [])
            }
        };
        taken.ok().map(|length| (buffer, (length as usize).min(BUFFER_BYTES)))
    }

    /// A buffer's bytes. To be touched only while it is the driver's.
    pub fn bytes(&self, buffer: u16) -> *mut [u8; BUFFER_BYTES] {
        // SAFETY: `buffer` comes from this queue, or is below `N`; the arithmetic stays within the static.
        unsafe { self.frames.0.get().cast::<[u8; BUFFER_BYTES]>().add(usize::from(buffer) % N) }
    }

    /// Notifies the device of the buffers it was given, if it wants to know: an exit to the machine.
    pub fn notify(&mut self, transport: &mut impl Transport) {
        let added = core::mem::take(&mut self.added);
        if added == 0 {
            return;
        }
        // The device sees the buffers before the driver sees whether it waits for them.
        fence(SeqCst);
        // The driver compares indices as numbers, and so is wrong about buffers that cross the index's wrap.
        if self.total < added || self.queue.should_notify() {
            transport.notify(self.index);
        }
    }
}
