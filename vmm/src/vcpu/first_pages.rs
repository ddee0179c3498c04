//! The pages that are touched first when a vCPU runs on: what its registers point at, the page tables on the way there,
//! and where KVM writes its clock. Whoever brings a guest's pages one after another does well to begin with these:
//! without them the first instruction waits a dozen times.
//!
//! A guess that is wrong costs nothing but the page. (AMD64 Architecture Programmer's Manual, volume 2, 5.3: long-mode
//! page translation.)

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::state::VcpuState;
use crate::memory::{GuestMemory, PAGE_BYTES};

// Documentation/virt/kvm/x86/msr.rst: kvmclock, by its two numbers, and steal time; bit 0 says that it is on.
const CLOCK_MSRS: [u32; 3] = [0x4b56_4d01, 0x12, 0x4b56_4d03];
const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1;
/// In an entry of the second or third level: it maps a large page itself.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How much code around the next instruction is taken for near, in bytes, a power of two.
const CODE_BYTES: u64 = 16 * PAGE_BYTES;

/// Adds the dense numbers of the pages to `pages`, each once.
pub(crate) fn add(memory: &GuestMemory, state: &VcpuState, pages: &mut Vec<u64>) {
    let clocks = state.msrs.iter().filter(|msr| CLOCK_MSRS.contains(&msr.index) && msr.value & 1 != 0);
    clocks.for_each(|msr| insert(memory, msr.value, pages));
    add_registers(memory, &state.regs, &state.sregs, pages);
}

/// Adds the page of a guest-physical address that somebody else will touch.
pub(crate) fn add_address(memory: &GuestMemory, physical: u64, pages: &mut Vec<u64>) {
    insert(memory, physical, pages);
}

fn add_registers(memory: &GuestMemory, regs: &kvm_regs, sregs: &kvm_sregs, pages: &mut Vec<u64>) {
    let in_long_mode = sregs.cr0 & CR0_PG != 0 && sregs.efer & EFER_LMA != 0;
    let tables = [sregs.gdt.base, sregs.idt.base, sregs.tr.base];
    // Code goes on, or calls what lies near; the stack grows down: what is pushed next may lie on the page below.
    let near = regs.rip & !(CODE_BYTES - 1);
    let code = (0..CODE_BYTES).step_by(PAGE_BYTES as usize).map(|offset| near + offset);
    let used = [regs.rip, regs.rsp, regs.rsp.wrapping_sub(256)];
    // Not all of these are pointers; those that are, are to what the guest works on.
    let general = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.r8, regs.r9, regs.r10,
        regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    for address in used.into_iter().chain(tables).chain(general).chain(code) {
        let physical = match in_long_mode {
            true => walk(memory, sregs, address, pages),
            false => Some(address),
        };
        if let Some(physical) = physical {
            insert(memory, physical, pages);
        }
    }
}

/// The physical address behind a linear one; adds the page tables that say so.
fn walk(memory: &GuestMemory, sregs: &kvm_sregs, linear: u64, pages: &mut Vec<u64>) -> Option<u64> {
    let levels = if sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
    let mut table = sregs.cr3 & ADDRESS;
    for level in (0..levels).rev() {
        insert(memory, table, pages);
        let shift = 12 + 9 * level;
        let mut entry = [0; 8];
        memory.read(table + (linear >> shift & 0x1ff) * 8, &mut entry).ok()?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || ((level == 1 || level == 2) && entry & LARGE != 0) {
            let offset = (1 << shift) - 1;
            return Some(entry & ADDRESS & !offset | linear & offset);
        }
        table = entry & ADDRESS;
    }
    None
}

fn insert(memory: &GuestMemory, physical: u64, pages: &mut Vec<u64>) {
    if let Some(offset) = memory.offset_of(physical) {
        let page = offset / PAGE_BYTES;
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;

    #[test]
    fn registers_lead_to_their_pages_through_the_tables() {
        let memory = GuestMemory::new(16 << 20, Backing::Anonymous).expect("memory");
        let entry = |at: u64, value: u64| memory.write(at, &value.to_le_bytes()).expect("in memory");
        // Tables at 1, 2 and 3 MiB; the first 2 MiB map to themselves in one, the next by a table of small pages.
        entry(0x10_0000, 0x20_0000 | PRESENT);
        entry(0x20_0000, 0x30_0000 | PRESENT);
        entry(0x30_0000, LARGE | PRESENT);
        entry(0x30_0008, 0x40_0000 | PRESENT);
        entry(0x40_0000 + 5 * 8, 0x77_7000 | PRESENT);
        let regs = kvm_regs { rip: 0x8010, rsp: 0x20_5100, ..Default::default() };
        let mut sregs = kvm_sregs { cr0: CR0_PG, cr3: 0x10_0000, efer: EFER_LMA, ..Default::default() };
        sregs.idt.base = 0x7fff_0000_0000;
        let mut pages = Vec::new();
        add_registers(&memory, &regs, &sregs, &mut pages);
        pages.sort_unstable();
        assert_eq!(pages, (0..0x10).chain([0x100, 0x200, 0x300, 0x400, 0x777]).collect::<Vec<_>>());
        sregs.cr3 = u64::MAX;
        add_registers(&memory, &regs, &sregs, &mut pages);
        assert_eq!(pages.len(), 21, "tables outside memory lead nowhere");
    }

    #[test]
    fn code_at_the_end_of_the_address_space_leads_nowhere_else() {
        let memory = GuestMemory::new(16 << 20, Backing::Anonymous).expect("memory");
        let regs = kvm_regs { rip: u64::MAX - 15, ..Default::default() };
        let mut pages = Vec::new();
        add_registers(&memory, &regs, &kvm_sregs::default(), &mut pages);
        assert_eq!(pages, [0], "what the other registers point at");
    }
}
