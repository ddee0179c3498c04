//! `ferry-bench sweep`: many arms, many runs, hours perhaps; so what is measured is not lost when it is interrupted.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    command::Sweep,
    results::{self, Results},
    session::{self, Keep},
};

/// Measures what is not there yet, and shows all of it.
///
/// # Errors
/// If nothing can be measured at all, or if there are results that may not be gone on with, or overwritten.
pub fn run(options: &Sweep) -> Result<ExitCode> {
    let path = options.compare.results_path();
    let earlier = earlier(&path, options.resume)?;
    session::run(&options.compare, Keep::ToResume(earlier.map(Box::new)))
}

/// What is there to go on with.
fn earlier(path: &Path, resume: bool) -> Result<Option<Results>> {
    if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
        return Ok(None);
    }
    match (results::read(path), resume) {
        (Ok(there), true) => Ok(Some(there)),
        (Err(error), true) => Err(error.context("--resume")),
        (Ok(there), false) if !there.complete && !there.runs.is_empty() => bail!(
            "{} holds {} runs of an interrupted measurement: go on with --resume, choose another folder with --out, or \
             remove it",
            path.display(),
            there.runs.len()
        ),
        // What is complete may be measured anew, as `compare` does.
        (Ok(_) | Err(_), false) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_there_is_gone_on_with_or_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        assert!(earlier(&path, true).unwrap().is_none() && earlier(&path, false).unwrap().is_none());

        let mut results = crate::report::fixture();
        results.complete = false;
        fs::write(&path, serde_json::to_string(&results).unwrap()).unwrap();
        assert_eq!(earlier(&path, true).unwrap().as_ref(), Some(&results));
        let error = earlier(&path, false).unwrap_err().to_string();
        assert!(error.contains("9 runs") && error.contains("--resume"), "{error}");

        results.complete = true;
        fs::write(&path, serde_json::to_string(&results).unwrap()).unwrap();
        assert!(earlier(&path, false).unwrap().is_none());
    }

    #[test]
    fn a_file_of_another_schema_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        fs::write(&path, r#"{"schema": "ferry-bench/9"}"#).unwrap();
        let error = format!("{:#}", earlier(&path, true).unwrap_err());
        assert!(error.contains("--resume") && error.contains("ferry-bench/9"), "{error}");
    }
}
