//! Real machines: pulse moves and finds every page right.

mod again;
mod chain;
mod network;
mod sizes;
