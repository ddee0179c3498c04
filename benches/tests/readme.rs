//! What the README tells to type is understood. That the guest moves by hand is tested where `ferry` is.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use benches::command::Cli;
use clap::Parser;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

/// The commands in the README's shell blocks, each as its words.
fn commands() -> Vec<Vec<String>> {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let mut commands = Vec::new();
    let mut in_shell = false;
    for line in readme.lines() {
        match line {
            "```sh" => in_shell = true,
            "```" => in_shell = false,
            line if in_shell => {
                let command = line.split(" #").next().unwrap_or_default();
                let parts = command.split("&&").map(words).filter(|words| !words.is_empty());
                commands.extend(parts);
            }
            _ => {}
        }
    }
    commands
}

fn words(command: &str) -> Vec<String> {
    assert!(!command.contains(['\'', '"', '\\', '|', ';', '$']), "this test knows no such shell: {command}");
    command.split_whitespace().filter(|word| *word != "&").map(str::to_owned).collect()
}

/// The words that `cargo run` understands itself, and those for the program.
struct CargoRun {
    package: Option<String>,
    bin: Option<String>,
    arguments: Vec<String>,
}

impl CargoRun {
    fn of(words: &[String]) -> CargoRun {
        let mut run = CargoRun { package: None, bin: None, arguments: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--release" => {}
                "-p" => run.package = words.next().cloned(),
                "--bin" => run.bin = words.next().cloned(),
                "--" => run.arguments = words.by_ref().cloned().collect(),
                other => panic!("cargo run {other}: unknown to this test"),
            }
        }
        run
    }

    /// What is run is in this workspace; the main job's arguments are those of `ferry-bench`.
    fn check(&self) {
        let Some(package) = &self.package else {
            let line = [&["ferry-bench".to_owned()][..], &self.arguments].concat();
            Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{}: {error}", line.join(" ")));
            return;
        };
        let manifests = ["tests/testbed", "guest-images/linux", "migrator/ferry", "benches"].map(|member| {
            fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a member's manifest")
        });
        let named = |name: &str| format!("name = \"{name}\"\n");
        let manifest = manifests.iter().find(|manifest| manifest.contains(&named(package)));
        let manifest = manifest.unwrap_or_else(|| panic!("no package {package} in this workspace"));
        if let Some(bin) = &self.bin {
            assert!(manifest.contains(&format!("[[bin]]\n{}", named(bin))), "{package} has no program {bin}");
        }
    }
}

#[test]
fn every_command_of_the_readme_is_understood() {
    let commands = commands();
    let (mut ferry, mut cargo) = (0, 0);
    for command in &commands {
        match &command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ferry", ..] => {
                ferry += 1;
                if let Err(error) = ferry::cli::understand(command) {
                    panic!("{}: {error}", command.join(" "));
                }
            }
            ["cargo", "run", ..] => {
                cargo += 1;
                CargoRun::of(&command[2..]).check();
            }
            [script] if script.starts_with("./") => {
                let script = fs::metadata(root().join(script)).unwrap_or_else(|e| panic!("{script}: {e}"));
                assert_eq!(script.permissions().mode() & 0o111, 0o111, "is to be run");
            }
            _ => panic!("{}: this test does not know what that is", command.join(" ")),
        }
    }
    assert!(ferry >= 5 && cargo >= 5, "the README's commands are not found: {commands:?}");
}

#[test]
fn what_is_not_understood_is_found() {
    let ferry = |line: &str| ferry::cli::understand(line.split(' '));
    assert!(ferry("ferry migrate demo tcp://127.0.0.1:7800").is_ok());
    for wrong in ["ferry moov demo tcp://h:1", "ferry migrate demo 127.0.0.1:port", "ferry ps --jason"] {
        assert!(ferry(wrong).is_err(), "{wrong}");
    }
}
