//! Why etcd gave no answer.

use tonic::Status;

/// What became of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The address is not one.
    #[error("{0}")]
    Address(String),
    /// There is no connection, or it cannot be made as it is configured.
    #[error("{0}")]
    NotConnected(String),
    /// etcd's answer, or what the connection made of the lack of one.
    #[error("{}", with_causes(_0.message(), &**_0))]
    Status(Box<Status>),
    /// The lease that was to be kept alive has ended.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A stream ended before there was an answer.
    #[error("etcd ended the conversation without an answer")]
    NoAnswer,
    /// The token that etcd gave cannot be sent.
    #[error("the token of etcd is not a text")]
    Token,
}

impl Error {
    pub(super) fn not_connected(error: &(dyn std::error::Error + 'static)) -> Error {
        Error::NotConnected(with_causes(&error.to_string(), error))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Status(Box::new(status))
    }
}

/// The text of an error with what caused it.
fn with_causes(text: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = text.to_owned();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
