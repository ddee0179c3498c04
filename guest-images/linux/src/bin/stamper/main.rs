//! The agent in the Linux guest: rewrites memory of its own with pulse's oracle, and proves it on request.
//!
//! `stamper run` fills memory and writes it over and over, from one thread for each processor, pinned to it. `stamper
//! check` has it look at every page. Page stamps and the check are the crate `telemetry`'s, the same that pulse runs on
//! bare metal; here a page is one of a program's, so what Linux does to it below is proven along.

mod options;
mod request;
mod worker;

use std::process::ExitCode;

use options::Options;
use rustix::time::{ClockId, clock_gettime};

const USAGE: &str = "\
stamper run [working-set=8MiB] [rate=500|max] [pattern=random|sequential|hot-cold] [fill=random|text] [threads=N] [seed=N]
stamper check      look at every page; ends with 1 if one is lost or stale, or the clock went back
stamper status     what it has done so far
stamper clock      nanoseconds since 1970, and of CLOCK_MONOTONIC";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", options @ ..] => Options::parse(options).and_then(|options| worker::run(&options)),
        ["check"] => request::ask("check"),
        ["status"] => request::ask("status"),
        ["clock"] => {
            let (wall, up) = (clock_gettime(ClockId::Realtime), clock_gettime(ClockId::Monotonic));
            println!("{}{:09} {}{:09}", wall.tv_sec, wall.tv_nsec, up.tv_sec, up.tv_nsec);
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(code) => code,
        Err(words) => {
            eprintln!("stamper: {words}");
            ExitCode::from(2)
        }
    }
}
