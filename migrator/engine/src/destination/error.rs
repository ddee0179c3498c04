//! Why a VM did not arrive, and where the guest is then.

use std::{fmt, io};

use thiserror::Error;

use crate::{
    pages::{Digest, SinkError},
    protocol::{FromSource, MessageError},
    report::GuestEnd,
    vm::{VmDescription, VmError},
};

/// Why a VM did not arrive. In all variants but [`ReceiveError::Interrupted`] nothing ran here.
#[derive(Error)]
pub enum ReceiveError<V> {
    /// Nobody came, or the wait was ended.
    #[error("wait for a source")]
    Accept(#[source] io::Error),
    /// The control link failed.
    #[error("the link to the source failed")]
    Message(#[from] MessageError),
    /// The source called it off.
    #[error("the source called the migration off: {reason}")]
    Aborted {
        /// Its words.
        reason: String,
    },
    /// The source said something that makes no sense here.
    #[error("the source said {said} where it should not")]
    Unexpected {
        /// The message's name.
        said: &'static str,
    },
    /// This host does not take that VM.
    #[error("this host cannot take the VM")]
    Refused(#[source] VmError),
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] io::Error),
    /// Pages did not arrive whole.
    #[error("receive pages")]
    Pages(#[source] SinkError),
    /// The source names missing pages that the guest has not, or without having said so before, or too many along with
    /// the state.
    #[error("the source's set of missing pages makes no sense")]
    MissingSet,
    /// The links that missing pages come on failed before the guest started.
    #[error("the links for missing pages failed before the guest started")]
    Stopped,
    /// Memory is not what it was at the source.
    #[error("memory differs from the source's: digest {:016x}, expected {:016x}", found.0, expected.0)]
    Digest {
        /// The digest of memory here.
        found: Digest,
        /// The digest of memory at the source.
        expected: Digest,
    },
    /// The state does not fit the machine.
    #[error("load the state")]
    Load(#[source] VmError),
    /// The machine did not start although the source gave the guest up. It runs nowhere.
    #[error("the machine could not be started; the guest runs nowhere, and the source has it whole")]
    Start(#[source] VmError),
    /// The source said Start and was gone before the guest could be started: it may have resumed it.
    #[error("the source ended the link right after it said to start the guest; it was not started here")]
    Withdrawn,
    /// The guest ran here and ended before its last page came. The source knows.
    #[error("the guest ended before all of its memory was here: {}", end.words)]
    Ended {
        /// How.
        end: GuestEnd,
    },
    /// The guest was started here, but pages are missing that only the source has. It waits when it
    /// touches one.
    #[error("the source is gone while {missing_pages} pages of {} are missing here: the guest waits when it touches one", description.name)]
    Interrupted {
        /// The machine, which must be kept: it is the only one that may run this guest.
        vm: Box<V>,
        /// What the source said of it.
        description: Box<VmDescription>,
        /// How many pages are missing.
        missing_pages: u64,
        /// What broke.
        #[source]
        cause: Option<SinkError>,
    },
}

/// A machine inside an error has nothing to show.
impl<V> fmt::Debug for ReceiveError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<V> ReceiveError<V> {
    pub(super) fn unexpected(message: FromSource) -> ReceiveError<V> {
        let said = match message {
            FromSource::Abort { reason } => return ReceiveError::Aborted { reason },
            FromSource::Offer(_) => "Offer",
            FromSource::Probe => "Probe",
            FromSource::State(_) => "State",
            FromSource::Start { .. } => "Start",
        };
        ReceiveError::Unexpected { said }
    }
}
