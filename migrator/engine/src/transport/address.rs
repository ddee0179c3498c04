//! Addresses as users write them.

use std::{io, net::Ipv6Addr, path::PathBuf, str::FromStr};

use super::{Acceptor, Connector, interface, tcp, unix};

/// Where `ferry receive` listens if no port is named.
pub const DEFAULT_PORT: u16 = 7800;

/// A place to migrate to or to receive at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `tcp://HOST:PORT`: this holds `HOST:PORT`, with an IPv6 address in brackets.
    Tcp(String),
    /// `unix:///PATH`
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// It has no form that is known.
    #[error("{0:?} is no address: write tcp://HOST:PORT, HOST or unix:///PATH")]
    Unknown(String),
    /// Where such an address ends and a port begins cannot be seen.
    #[error("{text:?} is no address: an IPv6 address goes in brackets, write tcp://{bracketed}")]
    NoBrackets {
        /// What was written.
        text: String,
        /// What was probably meant.
        bracketed: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = || AddressError::Unknown(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Address::Unix(path.into()));
        }
        let rest = text.strip_prefix("tcp://").unwrap_or(text);
        if let Some(bracketed) = with_brackets(rest) {
            return Err(AddressError::NoBrackets { text: text.to_owned(), bracketed });
        }
        let (host, port) = match rest.rfind(']').map(|end| rest.split_at(end + 1)) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| wrong())?;
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => is_ipv6(host),
            None => is_name(host),
        };
        is_host.then(|| Address::Tcp(format!("{host}:{port}"))).ok_or_else(wrong)
    }
}

/// An IPv6 address that was written without brackets, with them.
fn with_brackets(text: &str) -> Option<String> {
    let with_port = text.rsplit_once(':').filter(|(host, port)| {
        // A single digit is more likely the address's end, as in ::1.
        is_ipv6(host) && port.len() > 1 && port.parse::<u16>().is_ok()
    });
    match with_port {
        Some((host, port)) => Some(format!("[{host}]:{port}")),
        None => is_ipv6(text).then(|| format!("[{text}]:{DEFAULT_PORT}")),
    }
}

/// Whether it is an IPv6 address, with an interface or without: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let (address, scope) =
        host.split_once('%').map_or((host, None), |(address, scope)| (address, Some(scope)));
    let is_scope = |scope: &str| !scope.is_empty() && !scope.contains([':', '%', '[', ']', '/']);
    address.parse::<Ipv6Addr>().is_ok() && scope.is_none_or(is_scope)
}

/// Whether it can be a host's name or its IPv4 address. A number alone is a port that lacks its host.
fn is_name(host: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !host.is_empty() && host.chars().all(fits) && !host.chars().all(|c| c.is_ascii_digit())
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host_and_port) => write!(f, "tcp://{host_and_port}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Address {
    /// A connector to this place.
    pub fn connector(&self) -> Box<dyn Connector> {
        match self {
            Address::Tcp(host_and_port) => Box::new(tcp::TcpConnector::new(host_and_port)),
            Address::Unix(path) => Box::new(unix::UnixConnector::new(path)),
        }
    }

    /// Whether it stands for all of the host's addresses.
    pub fn is_everywhere(&self) -> bool {
        matches!(self, Address::Tcp(place) if place.starts_with("0.0.0.0:") || place.starts_with("[::]:"))
    }

    /// Listens at this place. Returns also where a source can reach it: where it listens at all of the host's addresses,
    /// one of them.
    ///
    /// # Errors
    /// Whatever the system says, a port in use above all.
    pub fn listen(&self) -> io::Result<(Box<dyn Acceptor>, Address)> {
        match self {
            Address::Tcp(host_and_port) => {
                let acceptor = tcp::TcpAcceptor::bind(host_and_port)?;
                let bound = interface::reachable(acceptor.local_address()?);
                Ok((Box::new(acceptor), Address::Tcp(bound.to_string())))
            }
            Address::Unix(path) => Ok((Box::new(unix::UnixAcceptor::bind(path)?), self.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "tcp://127.0.0.1:7800",
            "tcp://[::1]:7800",
            "tcp://host.example:1",
            "tcp://[fe80::1%eth0]:7800",
            "unix:///run/x.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "7800",
            "tcp://",
            "tcp://:7",
            "tcp://h:99999",
            "unix://x",
            "http://h:80",
            "tcp://[h]:1",
            "[::1]7",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Unknown(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn entry_21_a_port_may_be_left_out_and_the_scheme_too() {
        for (text, meant) in [
            ("host2", "tcp://host2:7800"),
            ("tcp://host2", "tcp://host2:7800"),
            ("host2:9", "tcp://host2:9"),
            ("10.0.0.2", "tcp://10.0.0.2:7800"),
            ("[fd00::b]", "tcp://[fd00::b]:7800"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), meant);
        }
    }

    #[test]
    fn entry_21_an_ipv6_address_without_brackets_is_refused_with_the_form_to_write() {
        for (text, meant) in [
            ("tcp://fd00::b:7800", "tcp://[fd00::b]:7800"),
            ("fd00::b", "tcp://[fd00::b]:7800"),
            ("::1", "tcp://[::1]:7800"),
            ("tcp://fe80::1%eth0:7800", "tcp://[fe80::1%eth0]:7800"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("write {meant}")), "{error}");
            assert_eq!(meant.parse::<Address>().unwrap().to_string(), meant);
        }
    }

    #[test]
    fn entry_21_who_listens_everywhere_says_where_it_can_be_reached() {
        for everywhere in ["tcp://0.0.0.0:0", "tcp://[::]:0"] {
            // A host without IPv6 cannot listen there.
            let Ok((_acceptor, address)) = everywhere.parse::<Address>().unwrap().listen() else { continue };
            let text = address.to_string();
            assert!(!text.contains("//0.0.0.0") && !text.contains("[::]"), "{text}");
            address
                .connector()
                .connect(&Default::default())
                .unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}
