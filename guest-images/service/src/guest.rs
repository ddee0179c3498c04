//! The guest as the services see it.

/// What the services tell, and what they have done to the guest.
pub trait Guest {
    /// How the guest is.
    fn status(&self) -> Status;
    /// Reads and verifies one more page of the working set; false if it was wrong.
    fn touch(&mut self) -> bool;
    /// How many pages there are to touch.
    fn working_set_pages(&self) -> u64;
}

/// How a guest is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Status {
    /// Microseconds since it was ready.
    pub uptime_us: u64,
    /// Steps of all vCPUs.
    pub heartbeat: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Pages written by all vCPUs.
    pub pages_written: u64,
    /// Pages of the working set.
    pub working_set_pages: u64,
    /// Errors found in memory and registers.
    pub errors: u64,
}
