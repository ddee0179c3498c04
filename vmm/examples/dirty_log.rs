//! What a harvest of dirty pages costs: KVM's bitmap, as Ferry uses it, beside the dirty ring.
//!
//! ```sh
//! cargo run --release -p vmm --example dirty_log
//! ```
//!
//! A guest of a few instructions writes a word to each of N pages of 1 GiB, then halts. Both logs then say which pages
//! those were. (Documentation/virt/kvm/api.rst: KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG; 8.29, KVM_CAP_DIRTY_LOG_RING.)

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MEM_LOG_DIRTY_PAGES, kvm_dirty_gfn, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iowr_nr};

const MEMORY_BYTES: usize = 1 << 30;
const PAGE_BYTES: usize = 4096;
const FIRST_PAGE: u32 = 512;
const RUNS: usize = 9;
/// The most that KVM takes.
const RING_ENTRIES: usize = 65536;
/// Where a vCPU's ring lies in its mapping, in pages (KVM_DIRTY_LOG_PAGE_OFFSET).
const RING_OFFSET_PAGES: usize = 64;
const DIRTY: u32 = 1;
const RESET: u32 = 2;

mod calls {
    use super::{ioctl_io_nr, ioctl_iowr_nr};
    use kvm_bindings::{KVMIO, kvm_clear_dirty_log};

    ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
    ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
}

/// `mov [ebx], ecx; add ebx, 4096; dec ecx; jnz` back; `hlt`, and from the top again.
const CODE: [u8; 14] = [0x89, 0x0b, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xf4, 0xeb, 0xf2];

struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
    memory: *mut u8,
}

impl Guest {
    fn new(kvm: &Kvm, prepare: impl FnOnce(&VmFd) -> Result<()>) -> Result<Guest> {
        let vm = kvm.create_vm()?;
        prepare(&vm)?;
        // SAFETY: a new mapping, of which nobody has a part yet.
        let memory = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(null_mut(), MEMORY_BYTES, protection, flags | libc::MAP_POPULATE, -1, 0)
        };
        ensure!(memory != libc::MAP_FAILED, "no memory");
        let memory = memory.cast::<u8>();
        // SAFETY: within the mapping.
        unsafe { memory.add(PAGE_BYTES).copy_from_nonoverlapping(CODE.as_ptr(), CODE.len()) };
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: memory as u64,
        };
        // SAFETY: the mapping outlives the machine: it is never unmapped.
        unsafe { vm.set_user_memory_region(region)? };
        let vcpu = vm.create_vcpu(0)?;
        let mut sregs = vcpu.get_sregs()?;
        sregs.cr0 |= 1;
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.ss, &mut sregs.es] {
            (segment.base, segment.limit, segment.selector, segment.g, segment.db) = (0, u32::MAX, 8, 1, 1);
        }
        (sregs.cs.type_, sregs.ds.type_) = (11, 3);
        vcpu.set_sregs(&sregs)?;
        Ok(Guest { vcpu, vm, memory })
    }

    /// Lets it write to `count` pages. Returns how long that took, without what `when_full` took.
    fn write(&mut self, count: u32, mut when_full: impl FnMut(&VmFd)) -> Result<Duration> {
        let mut regs = self.vcpu.get_regs()?;
        (regs.rip, regs.rflags) = (PAGE_BYTES as u64, 2);
        (regs.rbx, regs.rcx) = (u64::from(FIRST_PAGE) * PAGE_BYTES as u64, u64::from(count));
        self.vcpu.set_regs(&regs)?;
        let mut took = Duration::ZERO;
        loop {
            let begin = Instant::now();
            let exit = self.vcpu.run();
            took += begin.elapsed();
            match exit {
                Ok(VcpuExit::Hlt) => return Ok(took),
                Ok(VcpuExit::Unsupported(kvm_bindings::KVM_EXIT_DIRTY_RING_FULL)) => when_full(&self.vm),
                other => anyhow::bail!("the guest did not halt: {other:?}"),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: the machine does not run any more, and nobody else has the mapping.
        unsafe { libc::munmap(self.memory.cast(), MEMORY_BYTES) };
    }
}

/// Takes the bitmap, and clears it there. Returns how many pages it named.
fn take_bitmap(vm: &VmFd) -> Result<u64> {
    let bitmap = vm.get_dirty_log(0, MEMORY_BYTES)?;
    let count = bitmap.iter().map(|word| u64::from(word.count_ones())).sum();
    let mut clear = kvm_bindings::kvm_clear_dirty_log {
        num_pages: (MEMORY_BYTES / PAGE_BYTES) as u32,
        ..Default::default()
    };
    clear.__bindgen_anon_1.dirty_bitmap = bitmap.as_ptr().cast_mut().cast();
    // SAFETY: the bitmap covers the slot.
    let cleared = unsafe { ioctl_with_ref(vm, calls::KVM_CLEAR_DIRTY_LOG(), &clear) };
    ensure!(cleared == 0, "KVM_CLEAR_DIRTY_LOG: {}", std::io::Error::last_os_error());
    Ok(count)
}

struct Ring {
    entries: *mut kvm_dirty_gfn,
    next: usize,
}

impl Ring {
    fn of(vcpu: &VcpuFd) -> Result<Ring> {
        use std::os::fd::AsRawFd;
        let (bytes, offset) = (RING_ENTRIES * size_of::<kvm_dirty_gfn>(), RING_OFFSET_PAGES * PAGE_BYTES);
        // SAFETY: a new mapping of the vCPU's ring.
        let entries = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), offset as i64)
        };
        ensure!(entries != libc::MAP_FAILED, "map the ring: {}", std::io::Error::last_os_error());
        Ok(Ring { entries: entries.cast(), next: 0 })
    }

    /// Takes all entries, and resets them. Returns how many.
    fn take(&mut self, vm: &VmFd, into: &mut [u64]) -> Result<u64> {
        let mut count = 0;
        loop {
            // SAFETY: within the ring; flags are shared with the kernel, and read and written as an atomic.
            let (entry, flags) = unsafe {
                let entry = self.entries.add(self.next % RING_ENTRIES);
                (entry, &*(&raw const (*entry).flags).cast::<AtomicU32>())
            };
            if flags.load(Ordering::Acquire) & DIRTY == 0 {
                break;
            }
            // SAFETY: the entry is ours until it is reset.
            let page = unsafe { (*entry).offset } as usize;
            into[page / 64] |= 1 << (page % 64);
            flags.store(RESET, Ordering::Release);
            self.next += 1;
            count += 1;
        }
        fence(Ordering::SeqCst);
        // SAFETY: takes no argument.
        let reset = unsafe { ioctl(vm, calls::KVM_RESET_DIRTY_RINGS()) };
        ensure!(reset >= 0, "KVM_RESET_DIRTY_RINGS: {}", std::io::Error::last_os_error());
        Ok(count)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn print(log: &str, pages: u32, harvests: Vec<Duration>, writes: Vec<Duration>) {
    let (harvest, write) = (median(harvests), median(writes));
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(pages.max(1));
    println!(
        "{log:<8} {pages:>6} pages: harvest {:>8.1} us, {:>6.1} ns a page; the guest's writes {:>6.0} ns a page",
        harvest.as_nanos() as f64 / 1e3,
        each(harvest),
        each(write),
    );
}

fn main() -> Result<()> {
    let kvm = Kvm::new().context("open /dev/kvm")?;
    let cap = |number: u32| kvm.check_extension_raw(u64::from(number));
    println!(
        "ring {}, with acquire and release {}, together with a bitmap {}",
        cap(KVM_CAP_DIRTY_LOG_RING),
        cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
        cap(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP),
    );
    let enable = |number: u32, argument: u64| kvm_enable_cap {
        cap: number,
        args: [argument, 0, 0, 0],
        ..Default::default()
    };
    let counts = [0, 1_000, 10_000, 60_000];

    let mut guest = Guest::new(&kvm, |vm| Ok(vm.enable_cap(&enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3))?))?;
    guest.write(60_000, |_| ())?;
    take_bitmap(&guest.vm)?;
    for pages in counts {
        let (mut harvests, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            writes.push(if pages == 0 { Duration::ZERO } else { guest.write(pages, |_| ())? });
            let begin = Instant::now();
            let found = take_bitmap(&guest.vm)?;
            harvests.push(begin.elapsed());
            ensure!(found == u64::from(pages), "{found} of {pages} pages");
        }
        print("bitmap", pages, harvests, writes);
    }
    drop(guest);

    let ring_cap = if cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0 {
        KVM_CAP_DIRTY_LOG_RING_ACQ_REL
    } else {
        KVM_CAP_DIRTY_LOG_RING
    };
    ensure!(cap(ring_cap) > 0, "this host has no dirty ring");
    let bytes = (RING_ENTRIES * size_of::<kvm_dirty_gfn>()).min(cap(ring_cap) as usize);
    ensure!(bytes == RING_ENTRIES * size_of::<kvm_dirty_gfn>(), "at most {bytes} bytes of ring");
    let mut guest = Guest::new(&kvm, |vm| Ok(vm.enable_cap(&enable(ring_cap, bytes as u64))?))?;
    let mut ring = Ring::of(&guest.vcpu)?;
    let mut set = vec![0u64; MEMORY_BYTES / PAGE_BYTES / 64];
    let mut full = 0;
    guest.write(60_000, |vm| {
        full += 1;
        ring.take(vm, &mut vec![0; MEMORY_BYTES / PAGE_BYTES / 64]).expect("a reset");
    })?;
    ring.take(&guest.vm, &mut set)?;
    for pages in counts {
        let (mut harvests, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            set.fill(0);
            let (mut taken, mut harvest) = (0, Duration::ZERO);
            let when_full = |vm: &VmFd| {
                let begin = Instant::now();
                taken += ring.take(vm, &mut set).expect("a reset");
                harvest += begin.elapsed();
                full += 1;
            };
            writes.push(if pages == 0 { Duration::ZERO } else { guest.write(pages, when_full)? });
            let begin = Instant::now();
            taken += ring.take(&guest.vm, &mut set)?;
            harvests.push(harvest + begin.elapsed());
            let found: u64 = set.iter().map(|word| u64::from(word.count_ones())).sum();
            ensure!(found == u64::from(pages), "{found} of {pages} pages, {taken} entries");
        }
        print("ring", pages, harvests, writes);
    }
    println!("the ring was full {full} times");
    Ok(())
}
