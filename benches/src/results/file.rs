//! The file on disk, whole at every moment.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Results, Run, SCHEMA};

/// Where results go as they come.
#[derive(Debug)]
pub struct ResultsFile {
    path: PathBuf,
}

impl ResultsFile {
    /// Makes the folder, and writes the file once: what cannot be written is known before anything is measured.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, results: &Results) -> Result<ResultsFile> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)
                .with_context(|| format!("make the folder {}", folder.display()))
                .context("choose another with --out")?;
        }
        let file = ResultsFile { path: path.to_owned() };
        file.write(results)?;
        Ok(file)
    }

    /// Replaces the file: whoever reads it finds the old one or the new one, and none that is half written.
    ///
    /// # Errors
    /// If the disk is full or the folder not writable; the old file is still there then.
    pub fn write(&self, results: &Results) -> Result<()> {
        let text = serde_json::to_string_pretty(results).context("encode the results")?;
        write_whole(&self.path, text.as_bytes())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes a file beside its place and moves it there.
///
/// # Errors
/// With what failed, and what to do.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let written = fs::File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written
        .with_context(|| format!("write {} ({} bytes)", path.display(), bytes.len()))
        .context("make room or choose another folder with --out")
}

/// Reads a results file.
///
/// # Errors
/// If it cannot be read, is no such file, or of another schema.
pub fn read(path: &Path) -> Result<Results> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} cannot be shown", path.display()))
}

fn parse(text: &str) -> Result<Results> {
    #[derive(Deserialize)]
    struct Header {
        schema: Option<String>,
    }
    let header: Header = serde_json::from_str(text).context("it is no JSON object")?;
    match header.schema.as_deref() {
        Some(SCHEMA) => {
            let mut results: Results =
                serde_json::from_str(text).context("it says it is ferry-bench/1 and is not")?;
            results.runs.iter_mut().for_each(Run::forget_untold);
            Ok(results)
        }
        Some(other) => bail!(
            "its schema is {other:?}, and this ferry-bench reads {SCHEMA:?} only: render it with the ferry-bench that \
             wrote it, or measure again"
        ),
        None => bail!("it has no \"schema\", so ferry-bench did not write it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_schema_is_refused_in_a_sentence() {
        let error = parse(r#"{"schema": "ferry-bench/9", "runs": 3}"#).unwrap_err();
        assert!(format!("{error:#}").contains("\"ferry-bench/9\""), "{error:#}");
        assert!(format!("{:#}", parse("{}").unwrap_err()).contains("no \"schema\""));
        assert!(parse("[1").is_err());
    }

    #[test]
    fn results_survive_the_round_trip() {
        let mut results = crate::report::fixture();
        // One run with a client, the others without.
        results.runs[1].client = Some(crate::report::client(4_000));
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(parse(&text).unwrap(), results);
        // What is told of a client stands beside the other clocks' figures, and nothing where there is none.
        let runs = serde_json::from_str::<serde_json::Value>(&text).unwrap()["runs"].take();
        assert_eq!(runs[1]["downtime_client_us"], 4_000);
        assert_eq!(runs[1]["response_us"]["during"]["p99"], 800);
        assert!(runs[0].get("downtime_client_us").is_none() && runs[0]["bytes_sent"].is_u64());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let results = Results { runs: Vec::new(), ..crate::report::fixture() };
        let error = ResultsFile::create(&file.path().join("report/results.json"), &results).unwrap_err();
        assert!(format!("{error:#}").contains("--out"), "{error:#}");
    }
}
