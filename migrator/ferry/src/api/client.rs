//! Asks a VM's process.

use std::{io, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::ErrorBody;
use crate::daemon::{Registry, RegistryError};

/// How long an answer may take that waits for nothing.
pub const PROMPT: Duration = Duration::from_secs(10);
/// How long an answer may take that waits for the guest to check its memory.
pub const CHECK: Duration = Duration::from_secs(130);

/// A VM's process could not be asked, or said no.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No such VM.
    #[error("there is no VM called {name} here: {}", those_there_are(known))]
    NoSuchVm {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The folder of names cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It does not let us in.
    #[error("connect to the VM {name}")]
    Connect {
        /// Its name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It ended, or said something odd, in the middle of the answer.
    #[error("the process of the VM {name} went away before it had answered")]
    Broken {
        /// Its name.
        name: String,
        /// How.
        source: hyper::Error,
    },
    /// It does not answer.
    #[error("the process of the VM {name} did not answer within {seconds} s")]
    Silent {
        /// Its name.
        name: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Its answer is not what this version expects.
    #[error(
        "the process of the VM {name} answers in a way this ferry does not understand: is it of another version?"
    )]
    Answer {
        /// Its name.
        name: String,
        /// How.
        source: serde_json::Error,
    },
}

fn those_there_are(known: &[String]) -> String {
    if known.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there are {}", known.join(", "))
    }
}

/// Asks the process of one VM.
#[derive(Clone, Debug)]
pub struct Client {
    name: String,
    socket: PathBuf,
}

impl Client {
    /// For the VM of that name, of those of this user on this host. Does not look whether it is there.
    pub fn new(registry: &Registry, name: &str) -> Client {
        Client { name: name.to_owned(), socket: registry.socket(name) }
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks, without sending anything along.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        patience: Option<Duration>,
    ) -> Result<T, ClientError> {
        self.exchange(method, path, Bytes::new(), patience).await
    }

    /// Asks, and sends `body` along as JSON.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, body).await
    }

    /// As [`Client::post`], for what is to be as `body` says.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Method::PUT, path, body).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| self.odd(source))?;
        self.exchange(method, path, body.into(), Some(PROMPT)).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Option<Duration>,
    ) -> Result<T, ClientError> {
        let answer = self.exchange_bytes(method, path, body);
        let (status, bytes) = match patience {
            None => answer.await?,
            Some(patience) => timeout(patience, answer).await.map_err(|_| ClientError::Silent {
                name: self.name.clone(),
                seconds: patience.as_secs(),
            })??,
        };
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|source| self.odd(source));
        }
        let ErrorBody { error } = serde_json::from_slice(&bytes).map_err(|source| self.odd(source))?;
        Err(ClientError::Refused(error))
    }

    async fn exchange_bytes(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |source| ClientError::Broken { name: self.name.clone(), source };
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // What it fails with, the request fails with.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "ferry")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("paths here are plain");
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        Ok((status, bytes))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => Ok(stream),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                let known = Registry::open()?.names()?;
                Err(ClientError::NoSuchVm { name: self.name.clone(), known })
            }
            Err(source) => Err(ClientError::Connect { name: self.name.clone(), source }),
        }
    }

    fn odd(&self, source: serde_json::Error) -> ClientError {
        ClientError::Answer { name: self.name.clone(), source }
    }
}
