//! What may be wrong with a network.

use std::io;

use engine::report::in_words;
use linux_host::network::Refusal;
use thiserror::Error;

/// Why there is no network, or not the one that was asked for.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// This host does not permit it.
    #[error("this host permits no network of namespaces: {}; mend it so: {}", in_words(.0), .0.mend())]
    NotPermitted(Refusal),
    /// The process could not move into a user namespace although the host permits it.
    #[error("enter a user namespace")]
    UserNamespace(#[source] io::Error),
    /// A namespace.
    #[error("{operation} a network namespace; be root, or run it where user namespaces are permitted")]
    Namespace {
        /// Make, enter, …
        operation: &'static str,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// An interface in a namespace.
    #[error("{operation} the interface {name:?} of the network of namespaces")]
    Interface {
        /// Make, set up, …
        operation: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The kernel has no such queueing discipline.
    #[error(
        "this kernel cannot {purpose}: it has no {kind}; as root: modprobe sch_{kind}, or leave out {option}"
    )]
    NoDiscipline {
        /// Its name.
        kind: &'static str,
        /// What it is needed for.
        purpose: &'static str,
        /// The option that asks for it.
        option: &'static str,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's answer about the interface {name:?} is not understood")]
    Answer {
        /// The interface.
        name: String,
    },
}

impl NetworkError {
    /// For `map_err`: what was done to which interface.
    pub(super) fn interface(operation: &'static str, name: &str) -> impl FnOnce(io::Error) -> NetworkError {
        let name = name.to_owned();
        move |cause| NetworkError::Interface { operation, name, cause }
    }
}
