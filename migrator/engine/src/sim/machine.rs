//! The part of a simulated machine that its guest, the engine and the machine's owner share.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    guest::{Abandoned, SimGuest, World, next},
    memory::SimMemory,
    missing::SimMissing,
    network::{self, SimNetwork},
};
use crate::{
    pages::{GuestPages, PageRun, PageSet, RunBytes},
    vm::{Network, VmError},
};

pub(super) struct Shared {
    pub network: SimNetwork,
    pub memory: Arc<SimMemory>,
    pub missing: Arc<SimMissing>,
    machine: Mutex<Machine>,
    /// How often memory was looked at: what a repeatable guest lives by.
    looks: AtomicU64,
    console: Mutex<Option<Box<dyn Write + Send>>>,
}

#[derive(Default)]
pub(super) struct Machine {
    pub guest: Option<SimGuest>,
    pub log: Option<PageSet>,
    pub running: bool,
    pub ended: bool,
}

impl Shared {
    pub fn new(page_count: u64) -> io::Result<Shared> {
        let memory = Arc::new(SimMemory::new(page_count)?);
        let missing = Arc::new(SimMissing::new(memory.clone())?);
        Ok(Shared {
            network: SimNetwork::default(),
            memory,
            missing,
            machine: Mutex::default(),
            looks: AtomicU64::new(0),
            console: Mutex::default(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, Machine> {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        self.deliver(&mut machine);
        machine
    }

    /// Gives a guest that runs what waits for it.
    fn deliver(&self, machine: &mut Machine) {
        if machine.running
            && let Some(guest) = machine.guest.as_mut()
        {
            self.network.lock().backlog.drain(..).for_each(|number| guest.receive_frame(number));
        }
    }

    /// The guest writes to its console. A sink that is full or gone loses only these words.
    pub fn say(&self, words: &[u8]) {
        if let Some(sink) = &mut *self.console.lock().unwrap_or_else(PoisonError::into_inner) {
            sink.write_all(words).ok();
        }
    }

    pub fn set_console_output(&self, sink: Box<dyn Write + Send>) {
        *self.console.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    }

    /// As [`Shared::lock`]; nothing while somebody has it, who may wait for a page.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Machine>> {
        match self.machine.try_lock() {
            Ok(machine) => Some(machine),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub fn has_network(&self) -> bool {
        self.lock().guest.as_ref().is_some_and(|guest| guest.workload.network)
    }

    /// The guest runs, and first has what came while it stood still. Both at once: a frame that comes in between would
    /// overtake those. Returns the pages a second of a guest in real time.
    pub fn run(&self) -> Option<f64> {
        let mut machine = self.lock();
        machine.running = true;
        let guest = machine.guest.as_mut()?;
        let mut network = self.network.lock();
        let backlog = mem::take(&mut network.backlog);
        let frames = backlog.into_iter().chain(network.waiting.drain(..));
        frames.for_each(|number| guest.receive_frame(number));
        guest.workload.rate
    }

    /// A guest in real time: makes the steps that are due, until the machine is dropped.
    pub fn live(&self, rate: f64) {
        let mut born = None;
        loop {
            let mut machine = self.lock();
            if machine.ended {
                return;
            }
            let running = machine.running;
            if let Some(guest) = machine.guest.as_mut().filter(|_| running) {
                let now = now_ns();
                if guest.last_step_ns != 0 {
                    guest.longest_gap_ns = guest.longest_gap_ns.max(now.saturating_sub(guest.last_step_ns));
                }
                guest.last_step_ns = now;
                let (born_ns, steps) = *born.get_or_insert((now, guest.steps));
                let due = steps + ((now - born_ns) as f64 * 1e-9 * rate) as u64;
                // After a pause it does not run after what it missed.
                let steps = due.saturating_sub(guest.steps).min(64);
                if self.steps(&mut machine, steps).is_err() {
                    return;
                }
            } else {
                born = None;
            }
            drop(machine);
            thread::sleep(Duration::from_micros(if running { 50 } else { 500 }));
        }
    }

    /// A repeatable guest: every so many looks at its memory it makes a step.
    fn look(&self) {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let mut machine = self.lock();
        let seed = machine
            .guest
            .as_ref()
            .filter(|guest| guest.workload.rate.is_none())
            .map(|guest| guest.workload.seed);
        if let Some(seed) = seed.filter(|_| machine.running) {
            let luck = next(&mut (seed ^ look));
            if luck.is_multiple_of(8) {
                // Its pages are all here, so it is never abandoned while it waits.
                self.steps(&mut machine, 1 + luck / 8 % 3).ok();
            }
        }
    }

    pub fn steps(&self, machine: &mut Machine, count: u64) -> Result<(), Abandoned> {
        let Machine { guest: Some(guest), log, .. } = machine else { return Ok(()) };
        for _ in 0..count {
            guest.step(&mut World { memory: &self.memory, missing: &self.missing, log: log.as_mut() })?;
        }
        Ok(())
    }
}

impl GuestPages for Shared {
    fn page_count(&self) -> u64 {
        self.memory.page_count()
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        self.look();
        self.memory.bytes(run)
    }

    fn absent(&self) -> PageSet {
        PageSet::empty(self.memory.page_count())
    }
}

impl Network for Shared {
    fn take_frame(&self, frame: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
        if self.lock().running {
            return Err(VmError { operation: "take a frame", source: "the guest runs".into() });
        }
        Ok(self.network.lock().take().map(|number| (0, network::encode(number, frame))))
    }

    fn wait(&self, at_most: Duration) {
        thread::sleep(at_most);
    }

    fn inject(&self, _: u16, frame: &[u8]) -> Result<(), VmError> {
        let Some(number) = network::decode(frame) else { return Ok(()) };
        self.network.lock().backlog.push(number);
        // A guest that waits for a missing page has the machine locked: it is given its frames later, by the next to lock it.
        if let Ok(mut machine) = self.machine.try_lock() {
            self.deliver(&mut machine);
        }
        Ok(())
    }

    fn announce(&self) -> Result<(), VmError> {
        self.network.lock().announcements += 1;
        Ok(())
    }

    fn learning_time(&self) -> Duration {
        Duration::from_micros(200)
    }

    fn go_ahead(&self, ahead: bool) {
        let mut network = self.network.lock();
        network.is_ahead = ahead;
        network.was_ahead |= ahead;
    }
}

/// Nanoseconds since the host booted: the same clock for every process on it.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimWorkload;

    #[test]
    fn frames_that_come_around_the_start_keep_their_order() {
        const FRAMES: u64 = 64;
        for _ in 0..200 {
            let shared = Shared::new(8).expect("memory for a small guest");
            let workload = SimWorkload { seed: 1, working_set: 4, rate: None, zero_one_in: 0, network: true };
            shared.lock().guest = Some(SimGuest::new(workload, 8));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut frame = [0; 64];
                    for number in 0..FRAMES {
                        let len = network::encode(number, &mut frame);
                        shared.inject(0, &frame[..len]).expect("room");
                    }
                });
                // Somewhere among them.
                while shared.network.lock().backlog.len() < 8 {
                    thread::yield_now();
                }
                shared.run();
            });
            let guest = shared.lock().guest.clone().expect("a guest");
            assert_eq!((guest.next_frame, guest.frames_lost, guest.errors), (FRAMES, 0, 0));
        }
    }
}
