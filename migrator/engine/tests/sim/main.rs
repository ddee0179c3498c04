//! The engine on simulated machines: every strategy, whatever fails on the way, without KVM.

mod again;
mod cuts;
mod faults;
mod one_guest;
mod paused;
mod relay;
mod seeds;
mod strangers;
mod sums;
mod table;
mod trickles;
mod vanished;
mod waiting;
