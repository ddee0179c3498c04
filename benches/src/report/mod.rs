//! `report/index.html`: one self-contained page, made from a results file and nothing else.

mod bars;
mod charts;
mod curves;
mod facts;
mod faults;
mod figures;
mod histogram;
mod page;
mod parts;
mod positions;
mod response;
mod rounds;
mod runs;
mod scale;
mod summary_table;
#[cfg(test)]
mod synthetic;
mod timeline;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::{
    command::Render,
    results::{self, Results, TimelineFile, Timelines},
    summary::Summary,
};

/// `ferry-bench report FILE`.
///
/// # Errors
/// If the file is not one of ours, or the page cannot be written.
pub fn render_again(options: &Render) -> Result<ExitCode> {
    let results = results::read(&options.file)?;
    let page = write(&results, &options.file, &options.out)?;
    println!("{}", page.display());
    Ok(ExitCode::SUCCESS)
}

/// Writes the page into a folder, and says where. The requests of clients are read from beside the results file.
///
/// # Errors
/// If it cannot be written, or what lies beside the results file is no timeline.
pub fn write(results: &Results, results_path: &Path, folder: &Path) -> Result<PathBuf> {
    let wanted = timeline::wanted(&Summary::of(results), results);
    let timelines = Timelines::read(&TimelineFile::beside(results_path), |run| wanted.contains(&run))?;
    fs::create_dir_all(folder)
        .with_context(|| format!("make the folder {}", folder.display()))
        .context("choose another with --out")?;
    let path = folder.join("index.html");
    results::write_whole(&path, page::draw(results, &timelines).into_string().as_bytes())?;
    Ok(path)
}

/// What a run with defaults gave, for tests of everything that shows results.
#[cfg(test)]
pub(crate) fn fixture() -> Results {
    serde_json::from_str(include_str!("../../tests/fixtures/results.json")).expect("the fixture is sound")
}

/// What a client may have seen, for the same.
#[cfg(test)]
pub(crate) fn client(downtime_us: u64) -> results::ClientReport {
    use results::{Brownout, ClientReport, Percentiles, ResponseTimes, UdpReport};
    let times = |p50| Some(Percentiles { p50, p99: 2 * p50, p999: 3 * p50, max: 4 * p50 });
    ClientReport {
        downtime_client_us: Some(downtime_us),
        switchover_client_us: Some(downtime_us),
        longest_response_us: Some(downtime_us),
        requests_sent: 1_000,
        requests_lost: 2,
        connections_reset: 0,
        responses_malformed: 0,
        retransmissions: 3,
        response_us: ResponseTimes { before: times(200), during: times(400), after: None },
        brownout: Some(Brownout { throughput_percent: 99.5, p99_percent: 200.0 }),
        recovery_us: None,
        udp: Some(UdpReport { sent: 1_000, lost: 1, duplicated: 0, reordered: 4, longest_gap_us: Some(9) }),
        stream_bytes_checked: Some(65_536),
        stream_errors: Some(0),
        probe_stalls_us: times(30),
    }
}

/// The same with a client in each run, and its requests.
#[cfg(test)]
pub(crate) fn fixture_with_client() -> (Results, Timelines) {
    synthetic::with_client(fixture())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let (results, timelines) = fixture_with_client();
        let page = page::draw(&results, &timelines).into_string();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
        for words in [
            "shortest time",
            "Downtime",
            "Total time",
            "Rounds",
            "Page faults",
            "Response time, request by request",
            "by client",
            "<title>",
            "prefers-color-scheme",
        ] {
            assert!(page.contains(words), "no {words:?}");
        }
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn a_page_can_be_drawn_of_nothing_and_of_failures_only() {
        let mut results = fixture();
        for run in &mut results.runs {
            run.outcome = crate::results::RunOutcome::Failed;
            run.error = Some("<b>no</b> such link".to_owned());
        }
        let page = page::draw(&results, &Timelines::default()).into_string();
        assert!(page.contains("&lt;b&gt;no") && !page.contains("NaN"));
        results.runs.clear();
        assert!(page::draw(&results, &Timelines::default()).into_string().contains("nothing was measured"));
    }

    #[test]
    fn without_a_client_its_pictures_are_left_out_and_the_reason_is_said() {
        let page = page::draw(&fixture(), &Timelines::default()).into_string();
        assert!(page.contains("no client asked the guest") && !page.contains("<script"));
        let (results, _) = fixture_with_client();
        let page = page::draw(&results, &Timelines::default()).into_string();
        assert!(page.contains("no timeline.csv") && page.contains("Throughput during"));
    }

    /// What the terminal says of the peer, the page says too; what was not measured is no zero in it.
    #[test]
    fn a_peers_page_says_what_differs_and_what_was_not_measured() {
        let mut results = fixture();
        let alone = page::draw(&results, &Timelines::default()).into_string();
        assert!(!alone.contains("What differs") && !alone.contains("not measured</text>"));
        let mut theirs: Vec<_> = results.runs.iter().filter(|run| run.pass == 1).cloned().collect();
        for run in &mut theirs {
            run.engine = results::Engine::qemu("10.0.2", run.strategy.name());
            let told = results::Moved { downtime_engine_us: Some(7_000), ..Default::default() };
            (run.moved, run.page_faults) = (told, results::PageFaults::default());
        }
        results.runs.extend(theirs);
        results.notes.push("QEMU's multifd is left out: version 2 has no multifd.".to_owned());
        let page = page::draw(&results, &Timelines::default()).into_string();
        for words in
            ["What differs between the engines", "Virtual hardware: its machine is a microvm", "Clock: "]
        {
            assert!(page.contains(words), "no {words:?}");
        }
        assert!(page.contains("multifd is left out"));
        // The terminal's ratios are the other way round.
        assert!(page.contains("Above 1, ") && !page.contains("Below 1, "));
        // Of each of its three rows, the parts of the downtime.
        assert_eq!(page.matches("not measured</text>").count(), 3);
        assert!(!page.contains("0 B"), "nothing was sent, it says");
    }

    #[test]
    fn every_kind_of_guest_gets_its_own_part() {
        let mut results = fixture();
        let mut more = results.runs.clone();
        more.iter_mut().for_each(|run| run.workload.dirty_rate_pages_per_second = 50_000);
        results.runs.extend(more);
        let page = page::draw(&results, &Timelines::default()).into_string();
        assert!(page.contains("50\u{202f}000/s") && page.contains("10\u{202f}000/s"));
    }
}
