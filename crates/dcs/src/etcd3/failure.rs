//! What a failed request to etcd means: can it have been carried out, and is another try worth it?

use tonic::{Code, ConnectError, Status};

use super::client::Error;
use crate::attempts::Fate;

pub(super) fn fate(error: &Error) -> Fate {
    match error {
        Error::Status(status) => fate_of_status(status),
        Error::Address(_) | Error::Token => Fate::Refused,
        Error::NotConnected(_) => Fate::NotSent,
        Error::LeaseNotFound => Fate::LeaseNotFound,
        Error::NoAnswer => Fate::Unknown,
    }
}

/// The answer to an attempt to authenticate where that is turned off.
const AUTHENTICATION_OFF: &str = "etcdserver: authentication is not enabled";

/// The texts are those of etcd's `rpctypes/error.go`.
fn fate_of_status(status: &Status) -> Fate {
    if never_connected(status) {
        return Fate::NotSent;
    }
    match (status.code(), status.message()) {
        (Code::NotFound, "etcdserver: requested lease not found") => Fate::LeaseNotFound,
        (
            Code::Unavailable,
            "etcdserver: no leader" | "etcdserver: not capable" | "etcdserver: rpc not supported for learner",
        ) => Fate::NotSent,
        (Code::ResourceExhausted, "etcdserver: too many requests") => Fate::NotSent,
        // A new connection authenticates anew, or not at all where that is not wanted any more.
        (Code::Unauthenticated, _) => Fate::NotSent,
        (Code::FailedPrecondition, AUTHENTICATION_OFF) => Fate::NotSent,
        (Code::InvalidArgument, "etcdserver: revision of auth store is old" | "etcdserver: user name is empty") => {
            Fate::NotSent
        }
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Unimplemented,
            _,
        ) => Fate::Refused,
        (
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss,
            _,
        ) => Fate::Unknown,
    }
}

/// An attempt to authenticate failed because etcd asks nobody to.
pub(super) fn wants_no_authentication(error: &Error) -> bool {
    matches!(error, Error::Status(status)
        if status.code() == Code::FailedPrecondition && status.message() == AUTHENTICATION_OFF)
}

fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_is_called_so() {
        for (code, message, expected) in [
            (Code::NotFound, "etcdserver: requested lease not found", Fate::LeaseNotFound),
            (Code::Unavailable, "etcdserver: no leader", Fate::NotSent),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", Fate::NotSent),
            (Code::Unavailable, "etcdserver: request timed out", Fate::Unknown),
            // It stopped while it waited for a write to be carried out: others may do that.
            (Code::Unavailable, "etcdserver: server stopped", Fate::Unknown),
            (Code::Unavailable, "etcdserver: leader changed", Fate::Unknown),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Fate::NotSent),
            (Code::FailedPrecondition, AUTHENTICATION_OFF, Fate::NotSent),
            (Code::PermissionDenied, "etcdserver: permission denied", Fate::Refused),
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", Fate::Refused),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Fate::Refused),
            (Code::Unknown, "not a primary lessor", Fate::Unknown),
            (Code::DeadlineExceeded, "context deadline exceeded", Fate::Unknown),
        ] {
            assert_eq!(fate(&Error::from(Status::new(code, message))), expected, "{message}");
        }
    }
}
