//! Memory that devices read and write: a small arena within the image. Physical addresses are virtual ones.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Two pages for each of two queues.
const PAGES: usize = 4;

#[repr(C, align(4096))]
struct Arena(UnsafeCell<[[u8; PAGE_SIZE]; PAGES]>);
// SAFETY: reached only through the pages that `dma_alloc` hands out, each to one owner.
unsafe impl Sync for Arena {}
static ARENA: Arena = Arena(UnsafeCell::new([[0; PAGE_SIZE]; PAGES]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// How the driver gets at memory and tells devices of it.
pub struct Identity;

// SAFETY: pages come from a static, zeroed arena, each at most once; they are never given back.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = NEXT.fetch_add(pages, Relaxed);
        let start = ARENA.0.get().cast::<[u8; PAGE_SIZE]>();
        if first + pages > PAGES {
            // Address 0 is the driver's sign of failure.
            return (0, NonNull::dangling());
        }
        // SAFETY: within the arena.
        let page = unsafe { start.add(first) }.cast::<u8>();
        (page.addr() as PhysAddr, NonNull::new(page).expect("a static has an address"))
    }

    /// # Safety
    /// None is needed: nothing is touched.
    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // Queues live as long as the guest; one that could not be set up leaves its pages unused.
        0
    }

    /// # Safety
    /// None is needed: whoever uses the pointer answers for what lies there.
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        // Only PCI asks.
        NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize))
            .expect("no device is at address 0")
    }

    /// # Safety
    /// None is needed: a buffer's address is all that is asked for.
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    /// # Safety
    /// None is needed: nothing is touched.
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
