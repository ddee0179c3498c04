//! The peer: the same guest moved by QEMU, in the same run, with the same link and on the same clock.
//!
//! ```text
//! settings ─► measure: two QEMUs, driven by qmp ─► figures ─► the same Run as Ferry's ─► table
//!                         └─ guest: telemetry in QEMU's memory
//! ```
//! A QEMU that is not there, or lacks a capability, is left out in a line; one that dies is a failed run with its last
//! words. None of that stops the measuring of Ferry.

mod figures;
mod guest;
mod measure;
mod progress;
mod qemu;
pub mod qmp;
mod settings;
mod table;

pub use measure::measure;
pub use qemu::Qemu;
pub use settings::Setting;
pub use table::{RATIOS, draw, notes};

use std::path::Path;

/// What there is to compare with, and what was left out, in lines to show.
#[derive(Debug, Default)]
pub struct Peer {
    /// The program; nothing if it is left out altogether.
    pub qemu: Option<Qemu>,
    /// Of its settings, those that it is capable of.
    pub settings: Vec<Setting>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

impl Peer {
    /// Looks for QEMU and what it can do. `simulated` guests cannot be moved by it.
    pub fn find(program: &Path, runtime: &Path, simulated: bool) -> Peer {
        if simulated {
            let reason = "QEMU is left out: guests are simulated, and it needs real ones.".to_owned();
            return Peer { left_out: vec![reason], ..Peer::default() };
        }
        match Qemu::find(program, runtime) {
            Ok(qemu) => Peer::of(qemu),
            Err(error) => Peer { left_out: vec![format!("QEMU is left out: {error:#}.")], ..Peer::default() },
        }
    }

    fn of(qemu: Qemu) -> Peer {
        let (mut settings, mut left_out) = (Vec::new(), Vec::new());
        for setting in Setting::ALL {
            match qemu.lacks(setting) {
                None => settings.push(setting),
                Some(capability) => left_out.push(format!(
                    "QEMU's {} is left out: version {} has no {capability}.",
                    setting.name(),
                    qemu.version()
                )),
            }
        }
        Peer { qemu: Some(qemu), settings, left_out }
    }
}
