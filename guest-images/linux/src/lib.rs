//! What Linux machines are made of that are small enough to boot in seconds: Debian's kernel with the modules it needs,
//! a static busybox, and programs of this workspace, in one initial RAM disk.
//!
//! | module | holds |
//! |---|---|
//! | [`debian`] | where kernel and busybox come from |
//! | [`curl`] | a program with its libraries |
//! | [`modules`] | which modules, in which order |
//! | [`static_programs`] | programs of this workspace without libraries |
//! | [`cpio`] | the archive |
//! | [`image`], [`recipe`] | the Linux guest that `ferry run linux` runs |

pub mod cpio;
pub mod curl;
pub mod debian;
mod fresh_cargo;
pub mod image;
pub mod modules;
pub mod recipe;
pub mod static_programs;
