//! Making a machine.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_CLOCK_REALTIME, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::Cap;
use thiserror::Error;

use super::{Phase, Vm};
use crate::config::{Backing, ConfigError, VmConfig};
use crate::cpu::CpuModel;
use crate::devices::serial::{self, SerialPort};
use crate::devices::virtio;
use crate::devices::virtio::backend::{Backend, DeviceCreateError};
use crate::devices::{Bus, ExitPort, KeyboardController, PanicPort, PowerRegisters, power};
use crate::event::Events;
use crate::kvm::{self, CallError, KvmError};
use crate::memory::dirty_log::DirtyLog;
use crate::memory::{GuestMemory, MapError};
use crate::room::{self, Room};
use crate::state::MachineShape;
use crate::vcpu::{VcpuCreateError, VcpuHandle};

/// Three pages below 4 GiB for KVM's own use on Intel CPUs without unrestricted guests; they must not be in a slot.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// One more such page.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// Room for a state before the first is saved.
const FIRST_STATE_BYTES: usize = 16 << 10;

/// A machine could not be made. Nothing is left of it.
#[derive(Debug, Error)]
pub enum CreateError {
    /// No host could make it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Not enough memory free; found out before any is taken.
    #[error(
        "the guest takes up to {} of memory, {} of its own and the rest to run it; {room}: end another \
         guest, choose less memory, or raise the limit",
        room::shown(*asked),
        room::shown(*guest)
    )]
    NotEnoughMemory {
        /// Bytes asked for.
        asked: u64,
        /// Those of the guest itself.
        guest: u64,
        /// What there is.
        room: Room,
    },
    /// Memory could not be mapped.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// Memory could not be given to KVM.
    #[error("give KVM the guest's memory")]
    Slot(#[source] io::Error),
    /// The CPU model is not one.
    #[error("the CPU model has {leaves} leaves, more than KVM takes")]
    CpuLeaves {
        /// How many it has.
        leaves: usize,
    },
    /// The CPU model could not be written down.
    #[error("encode the CPU model")]
    CpuEncode(#[source] postcard::Error),
    /// A call on the VM failed.
    #[error("make a virtual machine")]
    Call(#[from] CallError),
    /// A virtio device could not be made, or was not given what it needs.
    #[error(transparent)]
    Device(#[from] DeviceCreateError),
    /// A vCPU could not be made.
    #[error("make vCPU {vcpu}")]
    Vcpu {
        /// Which.
        vcpu: u8,
        /// Why.
        source: VcpuCreateError,
    },
}

impl Vm {
    /// Makes a machine with all it needs before a guest is in it: memory (unpopulated), interrupt chips, timer, vCPUs
    /// with their CPUID, devices, and a parked thread for each vCPU and device. Takes milliseconds. `backends` are what the
    /// devices are given of this host, one for each of `config.devices` and in that order.
    pub fn new(config: &VmConfig, cpu: &CpuModel, backends: Vec<Backend>) -> Result<Vm, CreateError> {
        config.check()?;
        let kvm = kvm::open()?;
        if cpu.leaves.len() > kvm_bindings::KVM_MAX_CPUID_ENTRIES {
            return Err(CreateError::CpuLeaves { leaves: cpu.leaves.len() });
        }
        check_memory_free(config)?;
        let vm = Arc::new(kvm.create_vm().map_err(CallError::of("KVM_CREATE_VM"))?);
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(CallError::of("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(CallError::of("KVM_SET_TSS_ADDR"))?;
        // Interrupt chips before vCPUs: a vCPU gets its local APIC when it is made, if at all.
        vm.create_irq_chip().map_err(CallError::of("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(CallError::of("KVM_CREATE_PIT2"))?;

        let memory = Arc::new(GuestMemory::new(config.memory_bytes, config.backing)?);
        let dirty_log = DirtyLog::attach(&vm, &memory).map_err(CreateError::Slot)?;
        let serial = Arc::new(SerialPort::new(Arc::clone(&vm)));
        let devices = virtio::Devices::new(&config.devices, backends, &vm, &memory)?;
        let bus = Arc::new(Bus::new(
            vec![
                (serial::PORTS, serial.clone() as _),
                (ExitPort::PORTS, Arc::new(ExitPort)),
                (KeyboardController::PORTS, Arc::new(KeyboardController)),
                (power::PORTS, Arc::new(PowerRegisters)),
                (PanicPort::PORTS, Arc::new(PanicPort)),
            ],
            devices.places(),
        ));
        let (sender, events) = Events::channel();
        let mut machine = Vm {
            vcpus: Vec::with_capacity(usize::from(config.vcpus)),
            devices,
            phase: Phase::New,
            paused_at: None,
            config: config.clone(),
            cpu: cpu.clone(),
            shape: shape(config, cpu)?,
            tsc_can_scale: kvm.check_extension(Cap::TscControl),
            clock_knows_wall_time: kvm.check_extension_int(Cap::AdjustClock) & KVM_CLOCK_REALTIME as i32 != 0,
            serial,
            events,
            dirty_log,
            state_bytes: FIRST_STATE_BYTES,
            first_pages: Vec::new(),
            vm: Arc::clone(&vm),
            memory,
        };
        // Into `machine` one by one: should one fail, dropping `machine` ends the threads of those before it.
        for index in 0..config.vcpus {
            let place = (index, config.vcpus);
            let vcpu = VcpuHandle::new(&kvm, &vm, cpu, place, Arc::clone(&bus), sender.clone())
                .map_err(|source| CreateError::Vcpu { vcpu: index, source })?;
            machine.vcpus.push(vcpu);
        }
        Ok(machine)
    }
}

fn shape(config: &VmConfig, cpu: &CpuModel) -> Result<MachineShape, CreateError> {
    let model = postcard::to_stdvec(cpu).map_err(CreateError::CpuEncode)?;
    Ok(MachineShape {
        memory_bytes: config.memory_bytes,
        vcpus: config.vcpus,
        cpu_crc: crc32fast::hash(&model),
        devices: config.devices.clone(),
    })
}

/// A guest larger than what is free would be killed in the middle of its work, or something else would.
fn check_memory_free(config: &VmConfig) -> Result<(), CreateError> {
    if config.backing == Backing::Hugetlbfs {
        // Reserved apart; mapping fails by itself where too few are free.
        return Ok(());
    }
    let guest = config.memory_bytes;
    let asked = guest.saturating_add(room::overhead_bytes(guest));
    match Room::now() {
        Some(room) if room.bytes() < asked => Err(CreateError::NotEnoughMemory { asked, guest, room }),
        _ => Ok(()),
    }
}
