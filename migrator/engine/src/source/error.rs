//! Why a migration did not come about.

use std::io;

use thiserror::Error;

use crate::{
    protocol::{FromDestination, GreetingError, MessageError},
    strategy::convergence::{Known, OutOfReach},
    transport::Interrupt,
    vm::VmError,
};

/// Why a migration did not come about, or not to a good end.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// Nobody answers there.
    #[error("cannot connect to {address}; is `ferry receive` running there?")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else answers there.
    #[error("{address} answers, but not as a Ferry of this version")]
    Greeting {
        /// Where.
        address: String,
        /// What was wrong.
        #[source]
        source: GreetingError,
    },
    /// The destination will not take this VM.
    #[error("the destination refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// The destination called it off.
    #[error("the destination called the migration off: {reason}")]
    Aborted {
        /// Its words.
        reason: String,
    },
    /// The destination did not start the guest, and said so.
    #[error("the destination did not start the guest: {reason}")]
    NotStarted {
        /// Its words.
        reason: String,
    },
    /// The control link failed.
    #[error("the link to the destination failed")]
    Message(#[from] MessageError),
    /// A bulk or urgent link failed.
    #[error("the link to the destination failed: {operation}")]
    Link {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The destination said something that makes no sense here.
    #[error("the destination said {said} where it should not")]
    Unexpected {
        /// The message's name.
        said: &'static str,
    },
    /// This machine could not do its part.
    #[error("the source machine could not do its part")]
    Vm(#[from] VmError),
    /// The limit on downtime is out of reach.
    #[error(transparent)]
    OutOfReach(OutOfReach),
    /// The user called it off.
    #[error("cancelled")]
    Cancelled,
    /// It took too long.
    #[error("the migration took longer than --timeout allows{}", known.as_ref().map(|known| format!(": {known}")).unwrap_or_default())]
    TimedOut {
        /// How the rounds went until then, if there was one.
        known: Option<Known>,
    },
}

impl MigrateError {
    /// For a message that has no place where it came.
    pub(crate) fn unexpected(message: FromDestination) -> MigrateError {
        let said = match message {
            FromDestination::Abort { reason } => return MigrateError::Aborted { reason },
            FromDestination::Refused { reason } => return MigrateError::Refused { reason },
            FromDestination::Accepted { .. } => "Accepted",
            FromDestination::Probe => "Probe",
            FromDestination::Loaded(_) => "Loaded",
            FromDestination::Confirm => "Confirm",
            FromDestination::Running { .. } => "Running",
            FromDestination::Complete { .. } => "Complete",
            FromDestination::Ended(_) => "Ended",
            FromDestination::Resend(_) => "Resend",
        };
        MigrateError::Unexpected { said }
    }

    /// The error behind the error: a wait that failed because of the interrupt.
    pub(crate) fn by(self, interrupt: &Interrupt) -> MigrateError {
        let kind = match &self {
            MigrateError::Connect { source, .. }
            | MigrateError::Link { source, .. }
            | MigrateError::Message(MessageError::Link { source, .. }) => Some(source.kind()),
            _ => None,
        };
        match kind {
            Some(io::ErrorKind::Interrupted) if interrupt.is_past_deadline() => {
                MigrateError::TimedOut { known: None }
            }
            Some(io::ErrorKind::Interrupted) => MigrateError::Cancelled,
            _ => self,
        }
    }
}
