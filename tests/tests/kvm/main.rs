//! Real machines: pulse moves and finds every page right.

mod again;
mod chain;
mod disks;
mod network;
mod sizes;
