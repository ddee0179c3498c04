//! A console (Virtual I/O Device version 1.2, 5.3) with one port: what Linux calls hvc0.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::EventFd;

use super::function::{Function, Next, Work, work_off};
use super::queue::{Broken, VirtQueue};
use super::state::{FunctionState, FunctionStateError};
use crate::devices::serial::MAX_WAITING_INPUT_BYTES;
use crate::memory::pieces::Pieces;
use crate::state::Bytes;

/// Receive queue, transmit queue.
const QUEUES: &[u16] = &[64, 64];
/// Bytes handed to the sink at once.
const CHUNK_BYTES: usize = 4096;
/// Most bytes of one chain that are printed; a driver sends a page at a time.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// What is saved of a console beyond its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConsoleState {
    /// Input that the guest has not read.
    waiting: Bytes,
}

struct Sink(Box<dyn Write + Send>);

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

/// What was typed.
#[derive(Debug)]
struct Input {
    waiting: VecDeque<u8>,
    /// Not between a save or a restore and the next start: what came then would be lost.
    is_taken: bool,
}

/// What the device and its handles share.
#[derive(Debug)]
pub(crate) struct ConsolePort {
    /// Never held while guest memory is touched: a page may be missing.
    input: Mutex<Input>,
    sink: Mutex<Sink>,
    /// Wakes the device's worker.
    control: Arc<EventFd>,
}

impl ConsolePort {
    /// As [`Console::write`](crate::Console::write).
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut input = self.input();
        if !input.is_taken {
            return 0;
        }
        let taken = bytes.len().min(MAX_WAITING_INPUT_BYTES - input.waiting.len());
        input.waiting.extend(&bytes[..taken]);
        drop(input);
        // Fails only when the counter is full, and then the worker is awake.
        let _ = self.control.write(1);
        taken
    }

    /// As [`Console::set_output`](crate::Console::set_output).
    pub(crate) fn set_output(&self, sink: Box<dyn Write + Send>) {
        *self.sink() = Sink(sink);
    }

    /// The machine runs.
    pub(crate) fn take_input(&self) {
        self.input().is_taken = true;
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().expect("nothing panics with this lock held")
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().expect("a sink that panics takes its console with it")
    }

    /// Hands on what the guest prints.
    fn print(&self, mut output: Pieces<'_>) {
        output.truncate(MAX_OUTPUT_BYTES);
        let mut chunk = [0; CHUNK_BYTES];
        while output.bytes() > 0 {
            // Out of guest memory first, then to the sink: see `input`.
            let length = output.copy_out(0, &mut chunk);
            output.skip(length);
            if output.check_whole().is_err() {
                return;
            }
            // What becomes of it, here and below, is not the guest's business.
            let _ = self.sink().0.write_all(&chunk[..length]);
        }
        let _ = self.sink().0.flush();
    }
}

/// The device's side of a console.
#[derive(Debug)]
pub(super) struct ConsoleDevice {
    port: Arc<ConsolePort>,
}

impl ConsoleDevice {
    /// A console and its port; output goes nowhere until it is told where to.
    pub(super) fn new(control: Arc<EventFd>) -> (ConsoleDevice, Arc<ConsolePort>) {
        let input = Mutex::new(Input { waiting: VecDeque::new(), is_taken: true });
        let port = ConsolePort { input, sink: Mutex::new(Sink(Box::new(io::sink()))), control };
        let port = Arc::new(port);
        (ConsoleDevice { port: Arc::clone(&port) }, port)
    }

    /// Gives the guest what was typed, as long as it has buffers.
    fn receive(&self, queue: &mut VirtQueue, work: Work<'_>) -> Result<(), Broken> {
        use super::chain::Chain;
        let memory = work.memory;
        let mut used = false;
        while queue.is_ready() && !work.hurries() {
            if self.port.input().waiting.is_empty() {
                queue.silence(memory)?;
                break;
            }
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let written = Chain::walk(memory, chain).map_or(0, |mut chain| {
                let mut chunk = [0; CHUNK_BYTES];
                let room = chain.writable.bytes().min(chunk.len());
                let mut input = self.port.input();
                let length = room.min(input.waiting.len());
                chunk[..length]
                    .iter_mut()
                    .zip(input.waiting.drain(..length))
                    .for_each(|(to, from)| *to = from);
                drop(input);
                chain.writable.copy_in(0, &chunk[..length])
            });
            queue.push_used(memory, head, written as u32)?;
            used = true;
        }
        if used && queue.wants_interrupt(memory)? {
            work.interrupt.used_buffers();
        }
        Ok(())
    }
}

impl Function for ConsoleDevice {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUES
    }

    fn work(&mut self, queues: &mut [VirtQueue], work: Work<'_>) -> Result<Next, Broken> {
        let [receive, transmit] = queues else { return Ok(Next::Wait { source: false }) };
        let more = work_off(transmit, work, |chain| {
            if let Ok(chain) = chain {
                self.port.print(chain.readable);
            }
            0
        })?;
        self.receive(receive, work)?;
        Ok(if more { Next::Again } else { Next::Wait { source: false } })
    }

    fn reset(&mut self) {}

    fn save(&self) -> FunctionState {
        let mut input = self.port.input();
        input.is_taken = false;
        FunctionState::Console(ConsoleState { waiting: Bytes(input.waiting.iter().copied().collect()) })
    }

    fn check(&self, state: &FunctionState) -> Result<(), FunctionStateError> {
        match state {
            FunctionState::Console(state) if state.waiting.0.len() > MAX_WAITING_INPUT_BYTES => {
                let count = state.waiting.0.len();
                Err(FunctionStateError::TooMuch { what: "input", count, limit: MAX_WAITING_INPUT_BYTES })
            }
            FunctionState::Console(_) => Ok(()),
            _ => Err(FunctionStateError::Kind),
        }
    }

    fn restore(&mut self, state: &FunctionState) {
        let FunctionState::Console(state) = state else { return };
        *self.port.input() = Input { waiting: state.waiting.0.iter().copied().collect(), is_taken: false };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio::driver::{Driver, Rig};
    use crate::devices::virtio::hostile;

    const BUFFER: u64 = 0x20_0000;

    /// Keeps what is printed.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn device(memory: Option<&Rig>) -> (Rig, Arc<ConsolePort>) {
        let mut port = None;
        let make = |control| {
            let (console, its_port) = ConsoleDevice::new(control);
            port = Some(its_port);
            Box::new(console) as Box<dyn Function>
        };
        let rig = match memory {
            Some(other) => Rig::with_memory(Arc::clone(&other.memory), make),
            None => Rig::new(make),
        };
        (rig, port.expect("made"))
    }

    fn typed(rig: &Rig, driver: &mut Driver) -> Vec<u8> {
        let mut bytes = vec![0; driver.wait_used(0) as usize];
        rig.memory.read(BUFFER, &mut bytes).expect("in memory");
        bytes
    }

    #[test]
    fn what_is_printed_comes_out_and_what_is_typed_goes_in() {
        let (rig, port) = device(None);
        let mut driver = rig.driver(2);
        driver.set_up(0);
        rig.device.open(true);
        let paper = Paper::default();
        port.set_output(Box::new(paper.clone()));
        let text: Vec<u8> = (0..10_000).map(|at| at as u8).collect();
        rig.memory.write(BUFFER, &text).expect("in memory");
        driver.add(1, &[(BUFFER, 4, false), (BUFFER + 4, 9_996, false)]);
        driver.kick(1);
        assert_eq!(driver.wait_used(1), 0);
        assert_eq!(*paper.0.lock().expect("no panic"), text);

        driver.add(0, &[(BUFFER, 8, true)]);
        driver.kick(0);
        assert_eq!(port.write(b"hello, guest"), 12);
        assert_eq!(typed(&rig, &mut driver), b"hello, g");
        driver.add(0, &[(BUFFER, 8, true)]);
        driver.kick(0);
        assert_eq!(typed(&rig, &mut driver), b"uest");
        rig.close();
        assert_eq!(port.write(&vec![0; MAX_WAITING_INPUT_BYTES + 5]), MAX_WAITING_INPUT_BYTES);
    }

    #[test]
    fn what_was_typed_and_not_read_moves_on_with_the_state() {
        let (first, port) = device(None);
        let mut driver = first.driver(2);
        driver.set_up(0);
        port.write(b"later");
        let state = first.device.save();
        assert_eq!(port.write(b"too late"), 0);
        let (second, port) = device(Some(&first));
        second.device.check(&state).expect("fits");
        second.device.restore(&state);
        assert_eq!(port.write(b"too early"), 0);
        port.take_input();
        second.device.open(true);
        let mut driver = driver.on(Arc::clone(&second.device) as _, &second.memory);
        driver.add(0, &[(BUFFER, 64, true)]);
        driver.kick(0);
        assert_eq!(typed(&second, &mut driver), b"later");
        let too_much = ConsoleState { waiting: Bytes(vec![0; MAX_WAITING_INPUT_BYTES + 1]) };
        let mut state = state;
        state.function = FunctionState::Console(too_much);
        assert!(second.device.check(&state).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn hostile_drivers_do_no_harm(script in proptest::collection::vec(any::<u8>(), 0..600)) {
            hostile::console(&script);
        }
    }
}
