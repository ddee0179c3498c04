//! "Move a guest by hand" of the README, typed as it stands there.

#![cfg(feature = "kvm")]

use std::{fs, net::TcpListener, path::Path};

use crate::ferry::{Host, Running, await_that};

/// Where the README's destination listens; here it is whatever port is free.
const README_PORT: &str = "127.0.0.1:7800";

/// The first shell block below a heading, without its comments.
fn block(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(path).expect("a README");
    let (_, section) = readme.split_once(&format!("\n{heading}\n")).expect("the heading");
    let (_, block) = section.split_once("\n```sh\n").expect("a block");
    let (block, _) = block.split_once("\n```").expect("its end");
    block.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
}

#[test]
fn the_guest_moves_by_the_commands_of_the_readme() {
    if let Err(reason) = vmm::probe().kvm {
        println!("skipped: the_guest_moves_by_the_commands_of_the_readme: {reason}");
        return;
    }
    let host = Host::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // Those that stay in their terminals.
    let mut terminals: Vec<Running> = Vec::new();
    let mut done = Vec::new();
    for line in block("## Move a guest by hand") {
        let line = line.replace(README_PORT, &free);
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ferry", arguments @ ..] = &words[..] else { panic!("{line}: is not ferry") };
        match arguments[0] {
            "run" => {
                terminals.push(host.start(arguments));
                await_that("the guest is ready", || {
                    let info = host.ferry(&["info", "demo", "--json"]);
                    info.code == 0 && info.stdout.contains("\"ready\": true")
                });
            }
            "receive" => {
                let mut receive = host.start(arguments);
                assert_eq!(receive.line(), format!("listening on tcp://{free}"));
                terminals.push(receive);
            }
            "migrate" => {
                let report = host.ferry(arguments);
                assert!(report.succeeds().contains("demo moved by pre-copy"), "{report:?}");
                assert_eq!(terminals[1].line(), "demo runs here");
                assert!(terminals[0].ends_with_success(), "the source's process ends");
            }
            "ps" => {
                let list = host.ferry(arguments);
                let (pid, list) = (terminals[1].child.id().to_string(), list.succeeds().to_owned());
                let row = list.lines().find(|row| row.contains("demo")).expect("it runs");
                assert!(row.contains("running") && row.contains(&pid), "{list}");
            }
            // What it lacks here it says; the commands below fail if it is needed.
            "doctor" => assert!(!host.ferry(arguments).stdout.is_empty()),
            other => panic!("ferry {other}: this test does not know what it is to do"),
        }
        done.push(arguments[0].to_owned());
    }
    assert_eq!(done, ["doctor", "run", "receive", "migrate", "ps"]);
    host.assert_alive("demo");
    host.ferry(&["stop", "demo"]).succeeds();
}
