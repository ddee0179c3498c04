//! The operator's side of Ferry, around its [`engine`]: [`machine`] is either kind of machine, [`daemon`] the process that
//! holds one, [`api`] what it answers over its control socket, and [`cli`] the `ferry` command. `kvm_vm` makes a machine of
//! `vmm` one that the engine can move.

pub mod api;
pub mod cli;
pub mod daemon;
#[cfg(feature = "kvm")]
pub mod kvm_vm;
pub mod machine;
mod shown;
