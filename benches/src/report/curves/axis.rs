//! What curves are drawn against.

use crate::{plan::Workload, units};

/// What may be varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Pages that the guest writes a second.
    DirtyRate,
    /// Its memory.
    Memory,
    /// The link between the hosts.
    Bandwidth,
}

impl Axis {
    /// All of them.
    pub const ALL: [Axis; 3] = [Axis::DirtyRate, Axis::Memory, Axis::Bandwidth];

    /// To end a heading.
    pub fn heading(self) -> &'static str {
        match self {
            Axis::DirtyRate => "against the dirty rate",
            Axis::Memory => "against memory",
            Axis::Bandwidth => "against bandwidth",
        }
    }

    /// To stand under the axis.
    pub fn unit(self) -> &'static str {
        match self {
            Axis::DirtyRate => "pages written a second",
            Axis::Memory => "the guest's memory",
            Axis::Bandwidth => "bandwidth of the link",
        }
    }

    /// Of a workload; nothing is without a limit.
    pub fn value(self, workload: &Workload) -> Option<u64> {
        match self {
            Axis::DirtyRate => Some(workload.dirty_rate_pages_per_second),
            Axis::Memory => Some(workload.memory_bytes),
            Axis::Bandwidth => workload.link.map(u64::from),
        }
    }

    /// In words.
    pub fn say(self, workload: &Workload) -> String {
        match self {
            Axis::DirtyRate => units::count(workload.dirty_rate_pages_per_second),
            Axis::Memory => units::bytes(workload.memory_bytes),
            Axis::Bandwidth => workload.link.map_or_else(|| "no limit".to_owned(), |link| link.to_string()),
        }
    }

    /// The same guest, whatever this axis says.
    pub fn rest(self, workload: &Workload) -> Workload {
        let mut rest = *workload;
        match self {
            Axis::DirtyRate => rest.dirty_rate_pages_per_second = 0,
            Axis::Memory => rest.memory_bytes = 0,
            Axis::Bandwidth => rest.link = None,
        }
        rest
    }
}
