//! `timeline.csv`: every request and every datagram of the client in every run, beside the results.
//!
//! ```text
//! run,engine,strategy,kind,scheduled_us,response_us,phase
//! 2,ferry,pre-copy,http,-1520,231,rounds
//! 2,ferry,pre-copy,udp,-520,lost,rounds
//! ```
//! `run` is the place of the run in `results.json`, from 1; `scheduled_us` is when the request was to be sent, from
//! the beginning of the switchover; `response_us` counts from then until the answer.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::Run;
use crate::probe::{Record, Recording};

const NAME: &str = "timeline.csv";
const HEADER: &str = "run,engine,strategy,kind,scheduled_us,response_us,phase";
const LOST: &str = "lost";

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request over HTTP.
    Http,
    /// A datagram that is to come back.
    Udp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Udp => "udp",
        }
    }
}

/// One request, or one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which of them.
    pub kind: Kind,
    /// When it was to be sent, in microseconds from the beginning of the switchover.
    pub scheduled_us: i64,
    /// From then to the answer; nothing if none came.
    pub response_us: Option<u32>,
}

impl Request {
    /// All that the probe recorded, on the axis that begins at `origin_ns`.
    pub fn all_of(recording: &Recording, origin_ns: u64) -> Vec<Request> {
        let of = |kind, record: &Record| {
            let scheduled_us = (record.scheduled_ns as i64 - origin_ns as i64) / 1_000;
            Request { kind, scheduled_us, response_us: record.response_us() }
        };
        let requests = recording.requests.iter().map(|record| of(Kind::Http, record));
        requests.chain(recording.datagrams.iter().map(|record| of(Kind::Udp, record))).collect()
    }
}

/// Where timelines go as they come.
#[derive(Debug)]
pub struct TimelineFile {
    path: PathBuf,
}

impl TimelineFile {
    /// Where it is, beside a results file.
    pub fn beside(results: &Path) -> PathBuf {
        results.with_file_name(NAME)
    }

    /// Begins it anew.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: PathBuf) -> Result<TimelineFile> {
        std::fs::write(&path, format!("{HEADER}\n")).with_context(|| format!("write {}", path.display()))?;
        Ok(TimelineFile { path })
    }

    /// Adds the requests of one run, which is the `number`-th of the results file, from 1. A run without phases has
    /// no axis, and is left out.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&self, number: usize, run: &Run, requests: &[Request]) -> Result<()> {
        let Some(phases) = run.phases else { return Ok(()) };
        let mut text = String::with_capacity(requests.len() * 48);
        for request in requests {
            let (engine, strategy) = (&run.engine, run.strategy);
            let (kind, at) = (request.kind.name(), request.scheduled_us);
            write!(text, "{number},{engine},{strategy},{kind},{at},").expect("a String takes everything");
            match request.response_us {
                Some(us) => write!(text, "{us}"),
                None => text.write_str(LOST),
            }
            .expect("a String takes everything");
            writeln!(text, ",{}", phases.at(at).name()).expect("a String takes everything");
        }
        OpenOptions::new()
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", self.path.display()))
    }
}

/// What a `timeline.csv` holds, by the place of the run in the results file, from 1.
#[derive(Debug, Default)]
pub struct Timelines {
    runs: HashMap<usize, Vec<Request>>,
}

impl Timelines {
    /// Reads those runs that are `wanted`. A file that is not there holds none.
    ///
    /// # Errors
    /// If it cannot be read, or is no such file; then with the line.
    pub fn read(path: &Path, wanted: impl Fn(usize) -> bool) -> Result<Timelines> {
        match File::open(path) {
            Ok(file) => Timelines::parse(BufReader::new(file), wanted),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Timelines::default()),
            Err(error) => Err(error.into()),
        }
        .with_context(|| format!("read {}", path.display()))
    }

    fn parse(text: impl BufRead, wanted: impl Fn(usize) -> bool) -> Result<Timelines> {
        let mut lines = text.lines();
        let header = lines.next().transpose()?.unwrap_or_default();
        ensure!(header == HEADER, "its first line is {header:?} and not {HEADER:?}");
        let mut runs: HashMap<usize, Vec<Request>> = HashMap::new();
        for (i, line) in lines.enumerate() {
            let line = line?;
            let (run, request) =
                parse_line(&line).with_context(|| format!("line {}, {line:?}, is no request", i + 2))?;
            if wanted(run) {
                runs.entry(run).or_default().push(request);
            }
        }
        Ok(Timelines { runs })
    }

    /// The requests of a run; nothing if there are none.
    pub fn of(&self, run: usize) -> Option<&[Request]> {
        self.runs.get(&run).map(Vec::as_slice)
    }

    /// No run has any.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl FromIterator<(usize, Vec<Request>)> for Timelines {
    fn from_iter<I: IntoIterator<Item = (usize, Vec<Request>)>>(runs: I) -> Timelines {
        Timelines { runs: runs.into_iter().collect() }
    }
}

fn parse_line(line: &str) -> Option<(usize, Request)> {
    let mut fields = line.split(',');
    let run = fields.next()?.parse().ok()?;
    let kind = match fields.nth(2)? {
        "http" => Kind::Http,
        "udp" => Kind::Udp,
        _ => return None,
    };
    let scheduled_us = fields.next()?.parse().ok()?;
    let response_us = match fields.next()? {
        LOST => None,
        us => Some(us.parse().ok()?),
    };
    Some((run, Request { kind, scheduled_us, response_us }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::results::Phases;

    fn request(scheduled_us: i64, response_us: Option<u32>) -> Request {
        Request { kind: Kind::Http, scheduled_us, response_us }
    }

    #[test]
    fn timelines_survive_the_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = crate::report::fixture().runs.remove(1);
        run.phases =
            Some(Phases { command: -9_000, rounds: -5_000, switchover_end: 900, push_end: 900, end: 2_000 });
        let file = TimelineFile::create(TimelineFile::beside(&folder.path().join("results.json"))).unwrap();
        let requests = [request(-9_500, Some(200)), request(-500, None), request(500, Some(1_700))];
        file.append(2, &run, &requests).unwrap();
        file.append(3, &run, &requests[..1]).unwrap();

        let path = folder.path().join("timeline.csv");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\n2,ferry,pre-copy,http,-500,lost,rounds\n"), "{text}");
        assert!(text.contains("\n2,ferry,pre-copy,http,500,1700,switchover\n"), "{text}");
        let read = Timelines::read(&path, |run| run == 2).unwrap();
        assert_eq!((read.of(2), read.of(3)), (Some(&requests[..]), None));
    }

    #[test]
    fn a_file_that_is_not_there_holds_nothing_and_another_is_refused() {
        let none = Timelines::read(Path::new("/nowhere/timeline.csv"), |_| true).unwrap();
        assert!(none.is_empty());
        let parse = |text: &str| Timelines::parse(text.as_bytes(), |_| true);
        assert!(format!("{:#}", parse("a,b\n").unwrap_err()).contains("first line"));
        let torn =
            parse(&format!("{HEADER}\n1,ferry,pre-copy,udp,-20,30,before\n1,ferry,pre-c")).unwrap_err();
        assert!(format!("{torn:#}").contains("line 3"), "{torn:#}");
    }
}
