//! Real machines: pulse moves and finds every page right.

mod again;
mod chain;
mod disks;
mod huge_pages;
mod network;
mod paused;
mod sizes;
