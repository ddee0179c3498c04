//! The destination's ways in, for fuzz targets.

use super::{
    arrivals::Arrivals,
    bulk::{self, Pushed},
    inject, links,
};
use crate::{
    pages::{Digest, PageSet, PageSink, SinkError},
    protocol::{Greeting, Missing},
    transport::Wire,
    vm::{MissingPages, Network},
};

/// How it went to receive what was missing.
pub(crate) struct Received {
    pub result: Result<(), SinkError>,
    pub remaining: u64,
    pub digest: Option<Digest>,
}

/// Receives missing pages on a bulk link, until its source has pushed all.
pub(crate) fn receive_missing(
    wire: &mut dyn Wire,
    missing: &dyn MissingPages,
    expected: PageSet,
    keep_digest: bool,
) -> Received {
    let mut sink = PageSink::new(expected.page_count());
    let mut arrivals = Arrivals::none(PageSet::all(expected.page_count()));
    let expects = arrivals.expect(&Missing::from_set(&expected), keep_digest.then(Digest::default));
    expects.expect("a set of the same guest");
    let result = bulk::install(&mut sink, wire, &arrivals, missing);
    arrivals.bulk_ended(!matches!(result, Ok(Pushed::Whole)), missing);
    Received { result: result.map(drop), remaining: arrivals.remaining(), digest: arrivals.digest() }
}

/// Exchanges greetings with a caller.
pub(crate) fn greet(wire: Box<dyn Wire>) -> Option<Greeting> {
    links::greet(wire).map(|(_, greeting)| greeting)
}

/// Hands frames that come on a network link to a guest's network.
pub(crate) fn inject_frames(
    wire: Box<dyn Wire>,
    network: &dyn Network,
) -> Result<(), Box<dyn std::error::Error>> {
    inject::inject(wire, network)
}
