//! `ferry run linux`: the Linux guest that the recipe `guest-images/linux` makes.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::bail;

use super::{boot::linux_command_line, devices::ConsoleKind};

/// Its kernel and initial RAM disk, where the recipe puts them.
pub fn files() -> anyhow::Result<(PathBuf, PathBuf)> {
    let folder = folder();
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd"));
    if !kernel.exists() || !initrd.exists() {
        bail!(
            "the Linux guest is not built ({} does not hold it): run `cargo run -p linux-guest` in Ferry's source, or \
             name the folder that holds its vmlinuz and initrd in FERRY_LINUX",
            folder.display()
        );
    }
    Ok((kernel, initrd))
}

/// Its command line, with the user's words at its end.
pub fn command_line<'a>(console: ConsoleKind, words: impl IntoIterator<Item = &'a str>) -> String {
    let line = linux_command_line(console).to_owned() + " quiet pci=off";
    words.into_iter().fold(line, |line, word| line + " " + word)
}

/// `$FERRY_LINUX`, else `$XDG_DATA_HOME/ferry/linux`, else `~/.local/share/ferry/linux`: as `linux_guest::recipe` has it.
fn folder() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("FERRY_LINUX") {
        return folder.into();
    }
    let home = || Path::new(&set("HOME").unwrap_or_else(|| "/root".into())).join(".local/share");
    set("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("ferry/linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_words_come_last() {
        let line = command_line(ConsoleKind::Serial, ["net=10.0.0.2/24", "console=hvc0"]);
        assert!(
            line.starts_with("console=ttyS0 ") && line.ends_with(" net=10.0.0.2/24 console=hvc0"),
            "{line}"
        );
    }

    #[test]
    fn linux_is_told_where_its_console_is() {
        let line = command_line(ConsoleKind::Virtio, []);
        assert!(line.starts_with("console=hvc0 ") && !line.contains("ttyS0"), "{line}");
    }
}
