//! The engine on simulated machines: every strategy, whatever fails on the way, without KVM.

mod again;
mod cuts;
mod one_guest;
mod paused;
mod seeds;
mod strangers;
mod waiting;
