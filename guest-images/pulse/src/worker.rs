//! One vCPU's loop: fill, then write, check, talk or idle, one small step at a time.
//!
//! Each vCPU fills, writes and checks its own slice of the memory, so vCPUs never wait for each other after boot, and a
//! check never reads a page that someone writes.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use telemetry::gaps::{Activity, StepClock};
use telemetry::layout::VcpuPart;
use telemetry::oracle::{Checker, Content, Writer};
use telemetry::{DirtyRate, Idle, Phase};

use crate::check::Check;
use crate::cpu::{self, rdtsc};
use crate::guest::{self, Guest};
use crate::housekeeping::Housekeeping;
use crate::net::{self, Hands, Network, Walk};
use crate::schedule::Schedule;
use crate::spin::{End, Registers};
use crate::{apic, image};

/// A vCPU at work.
struct Worker {
    vcpu: usize,
    guest: &'static Guest,
    part: &'static VcpuPart,
    clock: StepClock<'static>,
    writer: Writer<'static>,
    registers: Registers,
    check: Option<Check>,
    next_poll: u64,
    /// vCPU 0 does the guest's own chores.
    housekeeping: Option<Housekeeping>,
    /// vCPU 0 serves the network, if there is one.
    network: Option<&'static mut Network>,
    walk: Walk,
}

/// Runs vCPU `vcpu` for ever. Called once for each.
pub fn run(vcpu: usize) -> ! {
    let part = &guest::telemetry().vcpus[vcpu];
    if vcpu > 0 {
        apic::init(vcpu);
        // Tells vCPU 0 that this one runs.
        part.phase.store(Phase::Booting as u64, SeqCst);
        // Nobody fills before all have started: the trampoline is in memory that will be filled.
        while guest::telemetry().header.phase.load(SeqCst) < Phase::Filling as u64 {}
    }
    let guest = guest::get();
    let content = Content { seed: guest.line.seed, fill: guest.line.fill, filled_pages: guest.filled_pages };
    let slice = guest.slice(guest.working_set, vcpu);
    // SAFETY: `run` is called once for each vCPU.
    let table = unsafe { guest.table(vcpu) };
    let mut worker = Worker {
        vcpu,
        guest,
        part,
        clock: StepClock::new(part, rdtsc(), guest.tsc_khz, guest.line.gap_threshold_us),
        writer: Writer::new(guest.owned, table, slice, vcpu as u64, content, guest.line.pattern),
        registers: Registers::new(part),
        check: None,
        next_poll: 0,
        housekeeping: (vcpu == 0).then(Housekeeping::new),
        network: None,
        walk: Walk::over(slice.len()),
    };
    if vcpu == 0 {
        worker.start_network();
    }
    worker.fill();
    worker.wait_for_all();
    if guest.line.idle == Idle::Halt {
        // A tick costs the host some 70 µs: one that finds nothing to write comes less often.
        let period_ms = if guest.line.dirty_rate == DirtyRate::PagesPerSecond(0) { 4 } else { 1 };
        worker.clock.sleeps_for(period_ms * guest.tsc_khz);
        apic::start_timer(guest.tsc_khz, period_ms);
    }
    worker.work()
}

impl Worker {
    /// On vCPU 0: its console says what became of it, and devices interrupt it.
    fn start_network(&mut self) {
        // SAFETY: `run` is called once for each vCPU, and this for vCPU 0 alone.
        let started = unsafe { Network::start(self.guest) };
        let Some(housekeeping) = &mut self.housekeeping else { return };
        match started {
            Ok(Some(network)) => {
                housekeeping.say(format_args!("{network}"));
                self.network = Some(network);
            }
            Ok(None) => {}
            Err(reason) => housekeeping.say(format_args!("{reason}")),
        }
    }

    fn fill(&mut self) {
        self.part.phase.store(Phase::Filling as u64, Relaxed);
        let own = self.guest.slice(self.guest.working_set, self.vcpu);
        let share = self.guest.slice(self.guest.rest(), self.vcpu);
        for index in (own.start..own.end).chain(share.start..share.end) {
            let scrub = self.guest.must_scrub(index);
            if scrub {
                self.writer.scrub_page(index);
            }
            self.writer.fill_page(index);
            if scrub || index < self.guest.filled_pages {
                self.clock.step(rdtsc(), Activity::Fill);
            }
        }
        self.part.phase.store(Phase::Running as u64, SeqCst);
    }

    /// vCPU 0 waits until all have filled, and the others until it says so: the guest becomes ready at one moment.
    fn wait_for_all(&mut self) {
        let telemetry = guest::telemetry();
        let header = &telemetry.header;
        if let Some(housekeeping) = &mut self.housekeeping {
            let all = &telemetry.vcpus[..self.guest.line.vcpus as usize];
            while all.iter().any(|part| part.phase.load(SeqCst) != Phase::Running as u64) {
                crate::failure::report_others();
                self.clock.step(rdtsc(), Activity::Fill);
            }
            image::seal();
            header.ready_tsc.store(rdtsc(), Relaxed);
            housekeeping.announce(self.guest, header);
            header.phase.store(Phase::Running as u64, SeqCst);
        } else {
            while header.phase.load(SeqCst) != Phase::Running as u64 {
                self.clock.step(rdtsc(), Activity::Fill);
            }
        }
        self.clock.step(rdtsc(), Activity::Fill);
        self.clock.begin_epoch(0);
    }

    fn work(mut self) -> ! {
        let mut schedule = Schedule::new(&self.guest.line, self.guest.tsc_khz, self.vcpu, rdtsc());
        loop {
            let now = self.clock.last_tsc();
            if now >= self.next_poll {
                self.poll(now);
                // Once for each poll at least: a writer that is always behind leaves no other moment.
                self.talk();
            }
            let due = schedule.is_due(now);
            if due {
                schedule.done(now);
                self.writer.write_next();
                self.part.pages_written.store(self.writer.sequence(), Relaxed);
                self.clock.step(rdtsc(), Activity::Write);
            }
            let served = self.serve_all();
            // A check goes on between writes, however fast they come.
            if self.check.is_some() {
                self.check_one();
            } else if !due && !served && !self.talk() {
                self.idle(schedule.next_tsc().min(self.next_poll));
            }
        }
    }

    /// Sends a byte to the console, if one waits.
    fn talk(&mut self) -> bool {
        let talked = self.housekeeping.as_mut().is_some_and(Housekeeping::talk);
        if talked {
            self.clock.step(rdtsc(), Activity::Console);
        }
        talked
    }

    /// Serves the network until nothing is left to do, or for as many steps as a few requests take: as an interrupt
    /// does, it comes before a guest's background work, however slow that is while its pages are missing.
    fn serve_all(&mut self) -> bool {
        const MOST_STEPS: u32 = 64;
        (0..MOST_STEPS).take_while(|_| self.serve()).count() > 0
    }

    /// One step of the network service, if there is anything to do.
    fn serve(&mut self) -> bool {
        let Some(network) = &mut self.network else { return false };
        let Self { guest, part, writer, walk, .. } = self;
        let served = network.step(self.clock.last_tsc(), &mut Hands { guest, part, writer, walk });
        if served {
            network.publish(&guest::telemetry().header.network);
            self.clock.step(rdtsc(), Activity::Network);
        }
        served
    }

    fn idle(&mut self, deadline: u64) {
        // What other vCPUs sleep through or spin on is theirs: devices interrupt vCPU 0.
        let interrupted = if self.network.is_some() { net::interrupted() } else { cpu::never() };
        if self.guest.line.idle == Idle::Halt {
            cpu::halt_unless(interrupted);
            self.part.halts.store(self.part.halts.load(Relaxed) + 1, Relaxed);
            self.clock.step(rdtsc(), Activity::Halt);
        } else {
            let previous = self.clock.last_tsc();
            let floor = self.clock.floor_ticks();
            let end = End { deadline, floor, interrupted };
            let spun = self.registers.spin(self.part, self.vcpu, previous, &end);
            self.clock.measure(spun.previous, spun.now, Activity::Spin);
        }
    }

    /// Once a millisecond, or tick: what does the host ask?
    fn poll(&mut self, now: u64) {
        self.next_poll = now + self.guest.tsc_khz;
        let telemetry = guest::telemetry();
        let epoch = telemetry.requests.gap_epoch.load(Relaxed);
        if epoch != self.part.gap_epoch.load(Relaxed) {
            self.clock.begin_epoch(epoch);
        }
        let host_request = telemetry.requests.check.load(Relaxed);
        let own_request = telemetry.header.own_checks.load(Relaxed);
        let done = (self.part.check_done.load(Relaxed), self.part.own_check_done.load(Relaxed));
        if self.check.is_none() && (host_request, own_request) != done {
            let share = self.guest.slice(self.guest.rest(), self.vcpu);
            let checker = Checker::new(&self.writer, share);
            let image = (self.vcpu == 0).then(image::Checker::new);
            self.check = Some(Check::new(checker, image, (host_request, own_request), now));
            self.part.phase.store(Phase::Checking as u64, Relaxed);
        }
        if let Some(network) = &mut self.network {
            network.look();
        }
        if let Some(housekeeping) = &mut self.housekeeping {
            housekeeping.poll(self.guest, now);
            self.clock.step(rdtsc(), Activity::Console);
        }
    }

    /// One step of the check.
    fn check_one(&mut self) {
        let Some(check) = &mut self.check else { return };
        let finished = check.step(&mut self.writer, self.part);
        self.clock.step(rdtsc(), Activity::Check);
        if finished {
            check.publish(self.part, self.clock.last_tsc());
            self.check = None;
        }
    }
}
