//! Names of VMs. They come from peers, and go to terminals, logs and paths.

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 48;

/// Whether a VM may have this name: letters, digits, `-`, `_` and `.`, a letter or digit first.
pub fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts_well && name.len() <= MAX_NAME_BYTES && name.chars().all(is_plain)
}
