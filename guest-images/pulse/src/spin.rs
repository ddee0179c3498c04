//! The spin loop: reads the TSC without pause, and carries a pattern in every vector register meanwhile.
//!
//! It is where an idle guest is nearly always, so where nearly every migration meets it: the gap it measures is the
//! downtime, and registers that a migration mangles show as soon as it ends.

use core::arch::asm;
use core::arch::x86_64::{__cpuid as leaf, _xgetbv};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use telemetry::layout::VcpuPart;

/// Words in the largest register file: 32 registers of 64 bytes.
const WORDS: usize = 256;

#[repr(C, align(64))]
struct File([u64; WORDS]);

/// How wide this processor's vector registers are.
#[derive(Clone, Copy, PartialEq)]
enum Width {
    Xmm = 16,
    Ymm = 32,
    Zmm = 64,
}

/// The registers' pattern: what is loaded before a loop, and what is stored after it.
pub struct Registers {
    loaded: File,
    stored: File,
    width: Width,
}

/// When a spin loop ends.
pub struct End<'a> {
    /// At this TSC.
    pub deadline: u64,
    /// Or when a step took so many ticks.
    pub floor: u64,
    /// Or when an interrupt's handler has set this word.
    pub interrupted: &'a AtomicU32,
}

/// How a spin loop ended: at `now`, by a gap since `previous` or, if there was none, by its deadline or an interrupt.
pub struct Spun {
    /// TSC before the last step.
    pub previous: u64,
    /// TSC at the last step.
    pub now: u64,
}

impl Registers {
    /// Registers as wide as this processor and ring 0's XCR0 allow.
    pub fn new(part: &VcpuPart) -> Self {
        let width = width();
        part.register_bytes.store(width as u64, Relaxed);
        Self { loaded: File([0; WORDS]), stored: File([0; WORDS]), width }
    }

    /// Spins until `end`; then compares the registers.
    pub fn spin(&mut self, part: &VcpuPart, vcpu: usize, previous: u64, end: &End<'_>) -> Spun {
        let words = match self.width {
            Width::Xmm => 32,
            Width::Ymm => 64,
            Width::Zmm => WORDS,
        };
        // Another pattern each time: registers of an older moment are wrong as well.
        let checks = part.register_checks.load(Relaxed) + 1;
        let base = (checks << 8 | vcpu as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for (i, word) in self.loaded.0[..words].iter_mut().enumerate() {
            *word = base ^ (i as u64);
        }
        let heartbeat = &raw const part.heartbeat;
        let spun = match self.width {
            Width::Xmm => self.spin_xmm(heartbeat, previous, end),
            Width::Ymm => self.spin_ymm(heartbeat, previous, end),
            Width::Zmm => self.spin_zmm(heartbeat, previous, end),
        };
        part.register_checks.store(checks, Relaxed);
        self.compare(part, words);
        spun
    }

    fn compare(&self, part: &VcpuPart, words: usize) {
        let wrong = (0..words).find(|i| self.loaded.0[*i] != self.stored.0[*i]);
        if let Some(word) = wrong {
            part.register_error_word.store(word as u64, Relaxed);
            part.register_error_expected.store(self.loaded.0[word], Relaxed);
            part.register_error_found.store(self.stored.0[word], Relaxed);
            part.register_errors.store(part.register_errors.load(Relaxed) + 1, Relaxed);
        }
    }
}

/// By what CPUID says in ring 3. Where KVM runs that natively and cannot trap CPUID (page-table virtualisation), that is the
/// processor's own answer, and its XCR0: the registers may be wider there than the CPU that the machine was given says.
fn width() -> Width {
    const OSXSAVE: u32 = 1 << 27;
    const AVX512F: u32 = 1 << 16;
    if leaf(1).ecx & OSXSAVE == 0 {
        return Width::Xmm;
    }
    // SAFETY: OSXSAVE says that XGETBV exists.
    let enabled = unsafe { xgetbv0() };
    match enabled & 0xe6 {
        0xe6 if leaf(7).ebx & AVX512F != 0 => Width::Zmm,
        mask if mask & 0x06 == 0x06 => Width::Ymm,
        _ => Width::Xmm,
    }
}

#[target_feature(enable = "xsave")]
/// Register XCR0: which vector registers the system keeps.
///
/// # Safety
/// CPUID must say that XGETBV may be used (OSXSAVE).
unsafe fn xgetbv0() -> u64 {
    // SAFETY: register 0 always exists; the caller has seen OSXSAVE.
    unsafe { _xgetbv(0) }
}

/// One loop for each width: load, spin, store. The heartbeat and the TSC at each step go to telemetry.
macro_rules! spin_loop {
    ($name:ident, $load:literal, $store:literal, $registers:literal, $after:literal) => {
        #[inline(never)]
        fn $name(&mut self, heartbeat: *const AtomicU64, previous: u64, end: &End<'_>) -> Spun {
            let (mut last, now) = (previous, 0u64);
            let mut now = now;
            // SAFETY: reads `loaded` and `interrupted`, writes `stored` and the two words at `heartbeat` (layout.rs keeps them first),
            // which only this vCPU writes. The code around it is compiled for SSE2, so xmm0–15 are all it can lose.
            unsafe {
                asm!(
                    concat!(".irp n,", $registers),
                    $load,
                    ".endr",
                    "2:",
                    "inc qword ptr [{heartbeat}]",
                    "rdtsc",
                    "shl rdx, 32",
                    "or rax, rdx",
                    "mov [{heartbeat} + 8], rax",
                    "mov rcx, rax",
                    "sub rcx, {last}",
                    "cmp rcx, {floor}",
                    "jae 3f",
                    "mov {last}, rax",
                    "cmp dword ptr [{interrupted}], 0",
                    "jne 3f",
                    "cmp rax, {deadline}",
                    "jb 2b",
                    "3:",
                    concat!(".irp n,", $registers),
                    $store,
                    ".endr",
                    $after,
                    heartbeat = in(reg) heartbeat,
                    loaded = in(reg) self.loaded.0.as_ptr(),
                    stored = in(reg) self.stored.0.as_mut_ptr(),
                    floor = in(reg) end.floor,
                    deadline = in(reg) end.deadline,
                    interrupted = in(reg) end.interrupted.as_ptr(),
                    last = inout(reg) last,
                    inout("rax") now,
                    out("rcx") _,
                    out("rdx") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
            Spun { previous: last, now }
        }
    };
}

impl Registers {
    spin_loop!(
        spin_xmm,
        "movdqa xmm\\n, [{loaded} + 16 * \\n]",
        "movdqa [{stored} + 16 * \\n], xmm\\n",
        "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        ""
    );
    spin_loop!(
        spin_ymm,
        "vmovdqa ymm\\n, [{loaded} + 32 * \\n]",
        "vmovdqa [{stored} + 32 * \\n], ymm\\n",
        "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "vzeroupper"
    );
    spin_loop!(
        spin_zmm,
        "vmovdqa64 zmm\\n, [{loaded} + 64 * \\n]",
        "vmovdqa64 [{stored} + 64 * \\n], zmm\\n",
        "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "vzeroupper"
    );
}
