//! Errors of TLS in sentences for people: rustls tells many of them as names of its own code.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::HttpError;

/// Why a handshake with a server failed.
pub(crate) fn of_handshake(authority: &str, error: io::Error) -> HttpError {
    match find(&error) {
        Some(rustls::Error::InvalidCertificate(problem)) => {
            HttpError::Untrusted(authority.to_owned(), of_certificate(problem))
        }
        Some(other) => HttpError::Handshake(authority.to_owned(), sentence(other)),
        None => HttpError::Connect(authority.to_owned(), error),
    }
}

/// What a server that was connected objected to, if it was TLS: with TLS 1.3 it refuses a client after the handshake.
pub(crate) fn of_exchange(error: &(dyn Error + 'static)) -> Option<String> {
    find(error).map(sentence)
}

/// The error of rustls in a chain of causes. One inside an [`io::Error`] is not among the causes of that.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut link = Some(error);
    while let Some(error) = link {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn Error + 'static));
        if let Some(found) = inner.unwrap_or(error).downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        link = error.source();
    }
    None
}

fn sentence(error: &rustls::Error) -> String {
    use AlertDescription as Alert;
    match error {
        rustls::Error::AlertReceived(Alert::CertificateRequired) => "it wants a certificate of this side".to_owned(),
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate,
        ) => "it does not trust the certificate of this side".to_owned(),
        rustls::Error::AlertReceived(Alert::HandshakeFailure) => {
            "it shares no cipher with this side, or wants a certificate".to_owned()
        }
        rustls::Error::AlertReceived(Alert::ProtocolVersion) | rustls::Error::PeerIncompatible(_) => {
            "it shares no version of TLS with this side (1.2 or 1.3)".to_owned()
        }
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}

fn of_certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer => "it is issued by nobody who is trusted here".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is made for another name".to_owned()
        }
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not made for servers".to_owned()
        }
        CertificateError::Other(other)
            if other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity) =>
        {
            "it is made as an authority, and is not among the trusted ones itself".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{Error, OtherError};

    use super::*;

    #[test]
    fn no_names_of_code() {
        let authority = CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity)));
        let untrusted = "the certificate of h:1 is not trusted: ";
        for (error, expected) in [
            (
                Error::InvalidCertificate(authority),
                format!("{untrusted}it is made as an authority, and is not among the trusted ones itself"),
            ),
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                format!("{untrusted}it is issued by nobody who is trusted here"),
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "no TLS connection to h:1: it wants a certificate of this side".to_owned(),
            ),
        ] {
            let wrapped = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(of_handshake("h:1", wrapped).to_string(), expected);
        }
        let plain = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(of_exchange(&plain).is_none());
        assert_eq!(of_handshake("h:1", plain).to_string(), "no connection to h:1: unexpected end of file");
    }
}
