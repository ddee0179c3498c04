//! An entropy device (Virtual I/O Device version 1.2, 5.4): random bytes of the host's kernel.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::function::{Function, Next, Work, work_off};
use super::queue::{Broken, VirtQueue};
use super::state::{FunctionState, FunctionStateError};

const QUEUES: &[u16] = &[64];
/// Most bytes for one request; a driver that wants more asks again.
const MAX_BYTES: usize = 4096;

/// Has no state beyond its queue.
#[derive(Debug)]
pub(super) struct Rng;

impl Function for Rng {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUES
    }

    fn work(&mut self, queues: &mut [VirtQueue], work: Work<'_>) -> Result<Next, Broken> {
        let [queue] = queues else { return Ok(Next::Wait { source: false }) };
        // A chain that cannot be used comes back with nothing in it.
        let more = work_off(queue, work, |chain| {
            chain.map_or(0, |mut chain| {
                chain.writable.truncate(MAX_BYTES);
                chain.writable.fill_with_random() as u32
            })
        })?;
        Ok(if more { Next::Again } else { Next::Wait { source: false } })
    }

    fn reset(&mut self) {}

    fn save(&self) -> FunctionState {
        FunctionState::Rng
    }

    fn check(&self, state: &FunctionState) -> Result<(), FunctionStateError> {
        match state {
            FunctionState::Rng => Ok(()),
            _ => Err(FunctionStateError::Kind),
        }
    }

    fn restore(&mut self, _state: &FunctionState) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio::driver::Rig;
    use crate::devices::virtio::hostile;

    #[test]
    fn random_bytes_come_and_their_pages_are_dirty() {
        let rig = Rig::new(|_| Box::new(Rng));
        let mut driver = rig.driver(1);
        driver.set_up(0);
        rig.device.open(true);
        let at = 0x20_0000;
        driver.add(0, &[(at, 32, true), (at + 0x3000, 5000, true)]);
        driver.kick(0);
        assert_eq!(driver.wait_used(0), MAX_BYTES as u32);
        let mut bytes = [0; 32];
        rig.memory.read(at, &mut bytes).expect("in memory");
        assert_ne!(bytes, [0; 32]);
        let first = at / 4096;
        let marked = (0..6).filter(|page| rig.memory.written().is_marked(first + page)).collect::<Vec<_>>();
        assert_eq!(marked, [0, 3]);
        // Nothing to write is answered with nothing.
        driver.add(0, &[(at, 32, false)]);
        driver.kick(0);
        assert_eq!(driver.wait_used(0), 0);
    }

    #[test]
    fn a_device_that_stands_still_goes_on_where_it_was() {
        let first = Rig::new(|_| Box::new(Rng));
        let mut driver = first.driver(1);
        driver.set_up(0);
        first.device.open(true);
        first.close();
        driver.add(0, &[(0x20_0000, 8, true)]);
        driver.kick(0);
        let state = first.device.save();
        let second = Rig::with_memory(std::sync::Arc::clone(&first.memory), |_| Box::new(Rng));
        second.device.check(&state).expect("fits");
        second.device.restore(&state);
        assert_eq!(driver.used(0), None, "not before it starts");
        second.device.open(true);
        assert_eq!(driver.wait_used(0), 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn hostile_drivers_do_no_harm(script in proptest::collection::vec(any::<u8>(), 0..600)) {
            hostile::rng(&script);
        }
    }
}
