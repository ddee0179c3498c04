//! The network's part of the command line: the guest's address, and where virtio-mmio devices are.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

/// What [`Network`]'s parser expected.
pub(super) const NETWORK: &str = "an IPv4 host address as 10.0.2.15/24, or 10.0.2.15/24,gw=10.0.2.2";
/// What [`VirtioWindow`]'s parser expected.
pub(super) const WINDOW: &str = "SIZE@ADDRESS:IRQ as 4K@0xd0000000:16, below 4 GiB, IRQ 0 to 23";
/// What is said of one window too many.
pub(super) const WINDOWS: &str = "at most 16 devices";

/// A static IPv4 configuration: `net=ADDRESS/PREFIX[,gw=GATEWAY]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Bits of its subnet, 1 to 32.
    pub prefix: u8,
    /// The router to all other subnets, within this one.
    pub gateway: Option<Ipv4Addr>,
}

impl Network {
    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    /// Whether an address may be a host's in a subnet of this size: neither the subnet's own nor its broadcast.
    fn is_host(address: Ipv4Addr, prefix: u8) -> bool {
        let host = address.to_bits() & !Self::mask(prefix);
        let ends = host == 0 || host == !Self::mask(prefix);
        let special = address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || address.is_loopback();
        // Subnets of one and two addresses have neither (RFC 3021).
        !special && (prefix >= 31 || !ends)
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (own, gateway) = match text.split_once(",gw=") {
            Some((own, gateway)) => (own, Some(gateway.parse::<Ipv4Addr>().map_err(|_| ())?)),
            None => (text, None),
        };
        let (address, prefix) = own.split_once('/').ok_or(())?;
        let address: Ipv4Addr = address.parse().map_err(|_| ())?;
        let prefix: u8 = prefix.parse().ok().filter(|bits| (1..=32).contains(bits)).ok_or(())?;
        let is_neighbour = |other: Ipv4Addr| {
            (other.to_bits() ^ address.to_bits()) & Self::mask(prefix) == 0 && other != address
        };
        let fits = gateway.is_none_or(|other| is_neighbour(other) && Self::is_host(other, prefix));
        (Self::is_host(address, prefix) && fits).then_some(Self { address, prefix, gateway }).ok_or(())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, ",gw={gateway}"))
    }
}

/// Registers of one virtio-mmio device, as Linux's `virtio_mmio.device=SIZE@ADDRESS:IRQ` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtioWindow {
    /// Guest-physical address.
    pub address: u32,
    /// Size in bytes, from [`VirtioWindow::MIN_BYTES`].
    pub bytes: u32,
    /// Pin of the I/O interrupt controller.
    pub irq: u8,
}

impl VirtioWindow {
    /// The registers take 0x100 bytes; what a device is configured with lies behind them.
    pub const MIN_BYTES: u32 = 0x200;
    /// Highest pin of the one I/O interrupt controller a guest knows.
    pub const MAX_IRQ: u8 = 23;
}

impl FromStr for VirtioWindow {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (bytes, place) = text.split_once('@').ok_or(())?;
        let (address, irq) = place.split_once(':').ok_or(())?;
        // Linux allows for a device number after another colon.
        let (irq, id) = irq.split_once(':').unwrap_or((irq, "0"));
        let window = Self { address: size(address)?, bytes: size(bytes)?, irq: irq.parse().map_err(|_| ())? };
        let fits = window.address.checked_add(window.bytes).is_some()
            && window.bytes >= Self::MIN_BYTES
            && window.address.is_multiple_of(4)
            && window.irq <= Self::MAX_IRQ
            && id.parse::<u32>().is_ok();
        fits.then_some(window).ok_or(())
    }
}

impl fmt::Display for VirtioWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}@{:#x}:{}", self.bytes, self.address, self.irq)
    }
}

/// A number as Linux's `memparse` reads it: decimal or `0x…`, with `K` or `M` behind it.
fn size(text: &str) -> Result<u32, ()> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    number.ok().and_then(|number| number.checked_mul(1 << shift)).ok_or(())
}

/// The machine's virtio-mmio devices, in the order of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VirtioWindows {
    windows: [Option<VirtioWindow>; Self::MAX],
}

impl VirtioWindows {
    /// Most devices.
    pub const MAX: usize = 16;

    /// Appends one; false if there is no room for it.
    pub fn push(&mut self, window: VirtioWindow) -> bool {
        match self.windows.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(window),
            None => return false,
        }
        true
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &VirtioWindow> {
        self.windows.iter().flatten()
    }
}
