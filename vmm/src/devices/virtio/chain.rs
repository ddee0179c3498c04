//! A descriptor chain as pieces of guest memory, and all that can be wrong with one.

use virtio_queue::DescriptorChain;

use crate::memory::pieces::{BadPiece, MAX_PIECES, Pieces};
use crate::memory::{GuestMemory, Regions};

/// A chain that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadChain {
    /// Points outside of guest memory, or has too many parts.
    Piece(BadPiece),
    /// What the device may read must come before what it may write.
    Order,
    /// Says that it goes on, and does not: a loop, an index beyond the table, or 4 GiB.
    Endless,
    /// Too short to be of use.
    Short,
}

/// What a chain's descriptors point at.
pub(super) struct Chain<'m> {
    /// What the device may read.
    pub(super) readable: Pieces<'m>,
    /// What the device may write.
    pub(super) writable: Pieces<'m>,
}

impl<'m> Chain<'m> {
    /// Walks the chain, at most [`MAX_PIECES`] steps.
    pub(super) fn walk(
        memory: &'m GuestMemory,
        chain: DescriptorChain<&Regions>,
    ) -> Result<Chain<'m>, BadChain> {
        let (mut readable, mut writable) = (Pieces::new(memory), Pieces::new(memory));
        let (mut goes_on, mut writes) = (false, false);
        for (step, descriptor) in chain.enumerate() {
            if step == MAX_PIECES {
                // An indirect table has room for 65 535, and empty ones are no pieces.
                return Err(BadChain::Piece(BadPiece::TooMany));
            }
            goes_on = descriptor.has_next();
            let pieces = match (writes, descriptor.is_write_only()) {
                (_, true) => &mut writable,
                (false, false) => &mut readable,
                (true, false) => return Err(BadChain::Order),
            };
            writes = descriptor.is_write_only();
            pieces.push(descriptor.addr().0, descriptor.len()).map_err(BadChain::Piece)?;
        }
        if goes_on { Err(BadChain::Endless) } else { Ok(Chain { readable, writable }) }
    }
}
