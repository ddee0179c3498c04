//! The `ferry` command as its users have it: real processes, real sockets.
//!
//! Simulated guests wherever they will do, so that most of this runs without KVM. Every wait is bounded, and every
//! process started is ended by its own id.

mod after_handover;
mod background_job;
mod bad_input;
mod console;
mod ferry;
mod full_disk;
mod in_doubt;
mod lifecycle;
mod listed;
mod migrate;
mod on_kvm;
mod openapi;
mod permissions;
mod readme;
