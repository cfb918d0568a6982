//! When certificates expire: those of the REST API of the members, and the one this tool shows.

use std::sync::Arc;
use std::time::Duration;

use patroni_http::ClientOptions;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::{Finding, finding};

/// Certificates that expire within so many days are told.
const SOON_DAYS: i64 = 30;
const LIMIT: Duration = Duration::from_secs(3);

/// The finding about a certificate of `whose` that expires then; times in seconds since 1970.
pub(crate) fn of_expiry(whose: &str, expires_s: i64, now_s: i64, remedy: String) -> Option<Finding> {
    let days = (expires_s - now_s).div_euclid(86_400);
    let what = match days {
        ..0 => format!("the certificate of {whose} has expired"),
        0..SOON_DAYS => format!("the certificate of {whose} expires in {days} days"),
        _ => return None,
    };
    Some(finding(what, remedy))
}

/// When the certificate that a server shows expires. It is not verified: that is not the question here.
pub(crate) async fn expiry_of_server(api_url: &str, options: &ClientOptions) -> Option<i64> {
    let authority = api_url.strip_prefix("https://")?.split('/').next()?;
    let (host, _) = authority.rsplit_once(':')?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
    // Without a certificate of its own, `insecure` means that nothing is verified.
    let trusting = ClientOptions { insecure: true, identity: None, cacert: None, ..options.clone() };
    let config = patroni_http::tls::client_config(&trusting).ok()?;
    let handshake = async {
        let stream = TcpStream::connect(authority).await.ok()?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        expiry(stream.get_ref().1.peer_certificates()?.first()?)
    };
    tokio::time::timeout(LIMIT, handshake).await.ok()?
}

/// When the first certificate in a file expires.
pub(crate) fn expiry_of_file(path: &str) -> Option<i64> {
    expiry(&CertificateDer::from_pem_file(path).ok()?)
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let parsed = Certificate::from_der(certificate).ok()?;
    i64::try_from(parsed.tbs_certificate.validity.not_after.to_unix_duration().as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soon_and_over() {
        let text = |days: i64| of_expiry("a", 1_000_000 + days * 86_400, 1_000_000, String::new()).map(|f| f.what);
        assert_eq!(text(30), None);
        assert_eq!(text(29).as_deref(), Some("the certificate of a expires in 29 days"));
        assert_eq!(text(-1).as_deref(), Some("the certificate of a has expired"));
    }
}
