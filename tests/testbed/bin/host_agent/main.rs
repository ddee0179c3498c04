//! In an emulated host: runs commands for the bed; called as `shape`, makes a link slow or bad, and called as
//! `nanoseconds`, tells the time since 1970.

mod clock;
mod commands;
mod netem;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use testbed::wire::{self, Kind, PORT};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("shape") => shape(&rest),
        Some("nanoseconds") => {
            println!("{}", clock::now());
            Ok(())
        }
        _ => serve().map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{name}: {words}");
            ExitCode::FAILURE
        }
    }
}

/// `shape eth0 delay=20ms rate=100mbit loss=1%`; without qualities the link is good again.
fn shape(arguments: &[String]) -> Result<(), String> {
    let [interface, words @ ..] = arguments else {
        return Err("say which: shape eth0 [delay=20ms] [rate=100mbit] [loss=1%]".to_owned());
    };
    let link = words.join(" ").parse().map_err(|error: testbed::LinkError| error.to_string())?;
    netem::shape(interface, &link).map_err(|error| format!("{interface}: {error}"))
}

fn serve() -> io::Result<()> {
    let port = loop {
        match find_port() {
            Some(port) => break port,
            // Its module is still at it.
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let port = File::options().read(true).write(true).open(port)?;
    let mut output = port.try_clone()?;
    wire::write(&mut output, Kind::Ready, 0, &[])?;
    commands::serve(port, output)
}

/// The device of the serial port that the bed listens at.
fn find_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT).then(|| Path::new("/dev").join(entry.file_name()))
    })
}
