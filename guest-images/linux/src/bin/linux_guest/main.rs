//! Makes the Linux guest: `cargo run -p linux-guest`, and then `ferry run linux`.

use std::{error::Error, path::PathBuf, process::ExitCode};

use linux_guest::recipe;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map_or_else(recipe::default_folder, PathBuf::from);
    if arguments.next().is_some() || folder.to_string_lossy().starts_with('-') {
        eprintln!(
            "linux-guest [FOLDER]: makes the guest that `ferry run linux` runs, in FOLDER or where ferry looks"
        );
        return ExitCode::from(2);
    }
    match recipe::make(&folder) {
        Ok(guest) => {
            println!("kernel            {}", guest.kernel.display());
            println!("initial RAM disk  {}", guest.initrd.display());
            println!("run it            ferry run linux --memory 128MiB");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut words = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                words.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("linux-guest: {words}");
            ExitCode::FAILURE
        }
    }
}
