//! Where command line and initrd go.

use super::{BootError, COMMAND_LINE, MAX_COMMAND_LINE_BYTES};
use crate::memory::{GuestMemory, LOW_MEMORY_END, PAGE_BYTES};

/// What is handed to a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    pub(super) command_line: &'a str,
    /// Empty if there is none.
    pub(super) initrd: &'a [u8],
    /// How many virtio devices there are: a kernel that is not Linux is told on its command line.
    pub(super) virtio_devices: usize,
}

/// What a kernel demands of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demands {
    /// Where the kernel ends, unpacked, with all it needs before it looks after memory itself.
    pub(super) kernel_end: u64,
    /// The initrd must end here.
    pub(super) initrd_limit: u64,
    /// Bytes of command line, without the closing zero.
    pub(super) command_line_limit: usize,
}

/// Where it has been put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) command_line_bytes: u32,
    /// Guest-physical address; 0 with an empty one.
    pub(super) initrd: u64,
    pub(super) initrd_bytes: u64,
}

impl Demands {
    /// Of a kernel that demands nothing special.
    pub(super) fn of_kernel_end(kernel_end: u64) -> Demands {
        Demands { kernel_end, initrd_limit: u64::MAX, command_line_limit: MAX_COMMAND_LINE_BYTES - 1 }
    }
}

/// Checks that all of it fits; nothing is written yet. Returns where it goes.
pub(super) fn check(
    memory: &GuestMemory,
    payload: Payload<'_>,
    demands: Demands,
) -> Result<Placed, BootError> {
    let line = payload.command_line.as_bytes();
    let limit = demands.command_line_limit.min(MAX_COMMAND_LINE_BYTES - 1);
    if line.len() > limit {
        return Err(BootError::CommandLineTooLong { bytes: line.len(), limit });
    }
    if let Some(at) = line.iter().position(|byte| *byte == 0) {
        return Err(BootError::CommandLineHasZero { at });
    }
    let low = memory.size_bytes().min(LOW_MEMORY_END);
    let initrd = payload.initrd.len() as u64;
    let initrd_pages = initrd.next_multiple_of(PAGE_BYTES);
    // At the end of low memory, or of what the kernel reaches of it.
    let available = if initrd == 0 { low } else { low.min(demands.initrd_limit / PAGE_BYTES * PAGE_BYTES) };
    let needed = demands.kernel_end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
    if demands.kernel_end > low || needed.saturating_add(initrd_pages) > available {
        return Err(BootError::TooLarge { kernel: demands.kernel_end, initrd: initrd_pages, available });
    }
    Ok(Placed {
        command_line_bytes: line.len() as u32,
        initrd: if initrd == 0 { 0 } else { available - initrd_pages },
        initrd_bytes: initrd,
    })
}

/// Writes it where [`check`] said.
pub(super) fn write(memory: &GuestMemory, payload: Payload<'_>, placed: Placed) -> Result<(), BootError> {
    if !payload.initrd.is_empty() {
        memory.write(placed.initrd, payload.initrd)?;
    }
    memory.write(COMMAND_LINE, payload.command_line.as_bytes())?;
    memory.write(COMMAND_LINE + payload.command_line.len() as u64, &[0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;

    #[test]
    fn an_initrd_lies_at_the_end_of_what_the_kernel_reaches() {
        let memory = GuestMemory::new(32 << 20, Backing::Anonymous).expect("memory");
        let payload = Payload { command_line: "quiet", initrd: &[7; 5000], virtio_devices: 0 };
        let placed = |demands| check(&memory, payload, demands);
        let demands = Demands::of_kernel_end(16 << 20);
        assert_eq!(placed(demands).expect("fits").initrd, (32 << 20) - 8192);
        let near = Demands { initrd_limit: (20 << 20) + 5, ..demands };
        assert_eq!(placed(near).expect("fits").initrd, (20 << 20) - 8192);
        let full = Demands::of_kernel_end((32 << 20) - 8192);
        assert_eq!(placed(full).expect("just fits").initrd, (32 << 20) - 8192);
        let too_full = Demands::of_kernel_end((32 << 20) - 8191);
        assert!(matches!(placed(too_full), Err(BootError::TooLarge { initrd: 8192, .. })));
        for kernel_end in [(32 << 20) + 1, u64::MAX] {
            let refused = placed(Demands::of_kernel_end(kernel_end));
            assert!(matches!(refused, Err(BootError::TooLarge { .. })), "{kernel_end:#x}");
        }
    }

    #[test]
    fn command_lines_have_their_kernels_limit() {
        let memory = GuestMemory::new(32 << 20, Backing::Anonymous).expect("memory");
        let line = "x".repeat(2048);
        let refused = |line: &str, command_line_limit| {
            let payload = Payload { command_line: line, initrd: &[], virtio_devices: 0 };
            let demands = Demands { command_line_limit, ..Demands::of_kernel_end(1 << 20) };
            check(&memory, payload, demands).err()
        };
        assert!(refused(&line, 2048).is_none());
        assert!(matches!(
            refused(&line, 2047),
            Some(BootError::CommandLineTooLong { bytes: 2048, limit: 2047 })
        ));
        let longest = "x".repeat(MAX_COMMAND_LINE_BYTES - 1);
        assert!(refused(&longest, usize::MAX).is_none());
        let too_long = "x".repeat(MAX_COMMAND_LINE_BYTES);
        assert!(matches!(
            refused(&too_long, usize::MAX),
            Some(BootError::CommandLineTooLong { limit: 4095, .. })
        ));
        assert!(matches!(refused("a\0b", 4095), Some(BootError::CommandLineHasZero { at: 1 })));
    }
}
