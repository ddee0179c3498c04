//! A device as the bus sees it: virtio over MMIO, version 2 (Virtual I/O Device version 1.2, 4.2.2).

use virtio_bindings::virtio_mmio as reg;

use super::{Core, VirtioDevice};
use crate::devices::bus::{Device, Outcome};
use crate::devices::virtio::WINDOW_BYTES;
use crate::devices::virtio::queue::VirtQueue;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "FRRY".
const VENDOR: u32 = 0x5952_5246;
/// The registers of shared memory regions read as all ones: there are none (4.2.2).
const NO_SHARED_MEMORY: std::ops::RangeInclusive<u32> = 0xb0..=0xbc;

impl VirtioDevice {
    fn read_register(&self, register: u32) -> u32 {
        // Neither needs the lock, which the worker may hold for a while.
        match register {
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => return self.interrupt.status(),
            reg::VIRTIO_MMIO_MAGIC_VALUE => return MAGIC,
            reg::VIRTIO_MMIO_VERSION => return VERSION,
            reg::VIRTIO_MMIO_VENDOR_ID => return VENDOR,
            _ => {}
        }
        let mut core = self.lock();
        match register {
            reg::VIRTIO_MMIO_DEVICE_ID => core.function.device_id(),
            reg::VIRTIO_MMIO_DEVICE_FEATURES => core.registers.selected_features(core.offered()),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => core.queue().map_or(0, |queue| u32::from(queue.max_size())),
            reg::VIRTIO_MMIO_QUEUE_READY => core.queue().map_or(0, |queue| u32::from(queue.is_ready())),
            reg::VIRTIO_MMIO_STATUS => core.registers.status,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => core.registers.config_generation,
            register if NO_SHARED_MEMORY.contains(&register) => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&self, register: u32, value: u32) {
        match register {
            reg::VIRTIO_MMIO_INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            // Only where KVM does not catch it first.
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
                // Fails only when the counter is full, and then the worker is awake.
                let _ = self.kick.write(1);
                return;
            }
            _ => {}
        }
        let mut core = self.lock();
        match register {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => core.registers.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => core.registers.driver_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => core.registers.take_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => core.registers.queue_select = value,
            reg::VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(&mut core, value),
            reg::VIRTIO_MMIO_STATUS if value == 0 => {
                core.registers.reset();
                core.queues.iter_mut().for_each(VirtQueue::reset);
                core.function.reset();
                self.interrupt.set_status(0);
            }
            reg::VIRTIO_MMIO_STATUS => {
                let (before, offered) = (core.registers.is_live(), core.offered());
                core.registers.add_status(value, offered);
                if core.registers.is_live() != before {
                    self.wake();
                }
            }
            _ => core.write_queue_register(register, value),
        }
    }

    fn write_queue_ready(&self, core: &mut Core, value: u32) {
        let (agreed, event_idx) = (core.registers.features_agreed(), core.registers.event_idx());
        let Some(queue) = core.queue() else { return };
        if value & 1 == 0 {
            queue.reset();
        } else if agreed
            && !queue.is_ready()
            && let Err(broken) = queue.make_ready(&self.memory, event_idx)
        {
            self.break_down(core, broken);
        }
    }
}

impl Core {
    fn write_queue_register(&mut self, register: u32, value: u32) {
        let Some(registers) = self.queue().and_then(VirtQueue::registers_mut) else { return };
        let low = |to: &mut u64| *to = *to & !0xffff_ffff | u64::from(value);
        let high = |to: &mut u64| *to = *to & 0xffff_ffff | u64::from(value) << 32;
        match register {
            // What does not fit is no power of two either.
            reg::VIRTIO_MMIO_QUEUE_NUM => registers.size = u16::try_from(value).unwrap_or(u16::MAX),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut registers.descriptors),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut registers.descriptors),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut registers.available),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut registers.available),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut registers.used),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut registers.used),
            _ => {}
        }
    }
}

impl Device for VirtioDevice {
    fn read(&self, offset: u64, into: &mut [u8]) {
        debug_assert!(offset < WINDOW_BYTES);
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            return self.lock().function.read_config(offset, into);
        }
        into.fill(0);
        // Registers are read by aligned words and in no other way (4.2.2.2).
        if offset.is_multiple_of(4)
            && let Ok(into) = <&mut [u8; 4]>::try_from(into)
        {
            *into = self.read_register(offset as u32).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Outcome {
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            self.lock().function.write_config(offset, bytes);
        } else if offset.is_multiple_of(4)
            && let Ok(bytes) = <[u8; 4]>::try_from(bytes)
        {
            self.write_register(offset as u32, u32::from_le_bytes(bytes));
        }
        Outcome::Done
    }
}
