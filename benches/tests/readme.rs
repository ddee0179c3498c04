//! What the documents tell to type is understood, their links lead somewhere, and the README's picture is the harness's.
//! That the guest moves by hand is tested where `ferry` is.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use benches::command::Cli;
use clap::Parser;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

/// Documents whose `sh` blocks hold commands of this workspace and nothing else.
const WITH_COMMANDS: [&str; 3] = ["README.md", "docs/benchmarks.md", "docs/operations.md"];

/// The most words that the README may have.
const README_WORDS: usize = 900;

fn read(document: impl AsRef<Path>) -> String {
    let path = root().join(document);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The commands in a document's shell blocks, each as its words.
fn commands(document: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let mut commands = Vec::new();
    let mut in_shell = false;
    for line in text.lines() {
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
fn every_command_of_the_documents_is_understood() {
    let (mut ferry, mut cargo) = (0, 0);
    for command in WITH_COMMANDS.iter().flat_map(|document| commands(document)) {
        match &command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ferry", ..] => {
                ferry += 1;
                if let Err(error) = ferry::cli::understand(&command) {
                    panic!("{}: {error}", command.join(" "));
                }
            }
            ["cargo", "run", ..] => {
                cargo += 1;
                CargoRun::of(&command[2..]).check();
            }
            ["cargo", "build", "--release", "-p", "ferry"] => {}
            [script] if script.starts_with("./") => {
                let script = fs::metadata(root().join(script)).unwrap_or_else(|e| panic!("{script}: {e}"));
                assert_eq!(script.permissions().mode() & 0o111, 0o111, "is to be run");
            }
            _ => panic!("{}: this test does not know what that is", command.join(" ")),
        }
    }
    assert!(
        ferry >= 5 && cargo >= 5,
        "the documents' commands are not found: {ferry} of ferry, {cargo} of cargo"
    );
    // The README alone shows how a guest is moved.
    let of_ferry = commands("README.md").iter().filter(|command| command[0] == "ferry").count();
    assert!(of_ferry >= 5, "the README's commands are not found: {of_ferry} of ferry");
    for document in WITH_COMMANDS {
        assert!(!commands(document).is_empty(), "{document}: no command is found");
    }
}

/// The documents at the top, and all in `docs`.
fn documents() -> Vec<PathBuf> {
    let mut found =
        vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of documents") {
            let path = entry.expect("an entry").path();
            match path.extension() {
                Some(extension) if extension == "md" => found.push(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Where a document's links and pictures lead: what stands in `](…)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The word by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

/// Why a link in `document` leads nowhere, if it does.
fn dead(document: &Path, target: &str) -> Option<String> {
    if target.starts_with("https://") {
        return None;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => document.to_owned(),
        file => document.parent().expect("a folder").join(file),
    };
    if !path.exists() {
        return Some(format!("{}: {target}: there is no such file", document.display()));
    }
    let is_there = heading.is_empty()
        || read(&path).lines().any(|line| line.starts_with('#') && anchor(line) == heading);
    (!is_there).then(|| format!("{}: {target}: there is no such heading", document.display()))
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        let dead: Vec<String> =
            links(&text).inspect(|_| checked += 1).filter_map(|target| dead(&document, target)).collect();
        assert!(dead.is_empty(), "{}", dead.join("\n"));
    }
    assert!(checked > 30, "the documents' links are not found: {checked}");
    let readme = root().join("README.md");
    assert!(dead(&readme, "docs/no-such.md").is_some() && dead(&readme, "docs/report.md#no-such").is_some());
    assert!(dead(&readme, "docs/report.md#outcomes").is_none());
}

#[test]
fn the_index_of_decisions_has_all_of_them() {
    let index = read("docs/decisions/README.md");
    for entry in fs::read_dir(root().join("docs/decisions")).expect("decisions") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(name == "README.md" || index.contains(&format!("({name})")), "{name} is not in the index");
    }
}

#[test]
fn the_readme_is_short() {
    let words = read("README.md").split_whitespace().filter(|word| *word != "|").count();
    assert!(words <= README_WORDS, "the README has {words} words, of {README_WORDS} at most");
}

/// Where the README's picture is, and the page that the harness drew it for.
const PICTURE: &str = "docs/results/downtime.svg";
const PAGE: &str = "docs/results/sweep/index.html";
/// The figure's heading on that page.
const FIGURE: &str = "<h2>Downtime by the guest's clock against the dirty rate<small> · 1Gbit</small></h2>";
/// What the page's style sheet says of it, in the colours of a light page; a picture alone has no style sheet.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#16191d}.tick{fill:#59616c;font-size:11px}\
.grid{stroke:#d5dae1}.axis{stroke:#59616c}.curve{stroke-width:2}.error{stroke-width:1.4}\
.s-stop-and-copy{fill:#d55e00;stroke:#d55e00}.s-pre-copy{fill:#0072b2;stroke:#0072b2}\
.s-post-copy{fill:#009e73;stroke:#009e73}.curve,.error{fill:none}.key{stroke:none;font-weight:600}";

/// The harness's figure as a file of its own, with its heading and its key above it.
fn picture() -> String {
    let page = read(PAGE);
    let (_, figure) = page.split_once(FIGURE).expect("the figure's heading");
    let (_, figure) = figure.split_once('>').expect("the figure");
    let (drawing, _) = figure.split_once("</svg>").expect("its end");
    let keys: String = ["stop-and-copy", "pre-copy", "post-copy"]
        .iter()
        .zip([52, 160, 240])
        .map(|(strategy, x)| format!("<text class=\"key s-{strategy}\" x=\"{x}\" y=\"-8\">{strategy}</text>"))
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 -44 380 264\" width=\"760\" role=\"img\">\
         <style>{STYLE}</style><rect y=\"-44\" width=\"380\" height=\"264\" fill=\"#fff\"/>\
         <text x=\"52\" y=\"-26\">Downtime by the guest's clock, 256 MiB, 1 Gbit/s</text>{keys}{drawing}</svg>\n"
    )
}

/// `FERRY_BLESS=1` cuts it out of the page again.
#[test]
fn the_picture_of_the_readme_is_the_harnesss_own() {
    let picture = picture();
    if env::var_os("FERRY_BLESS").is_some() {
        fs::write(root().join(PICTURE), &picture).expect("write the picture");
    }
    assert!(read(PICTURE) == picture, "{PICTURE} is not that of {PAGE}: run this test with FERRY_BLESS=1");
    assert!(read("README.md").contains(PICTURE), "the README shows it");
}

#[test]
fn what_is_not_understood_is_found() {
    let ferry = |line: &str| ferry::cli::understand(line.split(' '));
    assert!(ferry("ferry migrate demo tcp://127.0.0.1:7800").is_ok());
    for wrong in ["ferry moov demo tcp://h:1", "ferry migrate demo 127.0.0.1:port", "ferry ps --jason"] {
        assert!(ferry(wrong).is_err(), "{wrong}");
    }
}
