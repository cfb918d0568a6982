//! Who is trusted with TLS.
//!
//! OpenSSL, which Patroni and libpq use, trusts a certificate that is itself in the file of trusted ones, though it is made
//! as an authority; many clusters have just one such certificate. webpki refuses it as the certificate of a server, so the
//! verifiers here accept a certificate that is byte for byte in the file.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::tls::{ServerTls, TlsError, Trust, VerifyClient, certificates, name};

/// Looks at the certificates of servers.
pub(crate) fn server_verifier(
    trust: Trust<'_>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let algorithms = provider.signature_verification_algorithms;
    let Trust::Vouched { cafile, any_name } = trust else {
        return Ok(Arc::new(Server { strict: None, trusted: Vec::new(), any_name: true, algorithms }));
    };
    let (roots, trusted) = authorities(cafile)?;
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| TlsError::Config(e.to_string()))?;
    Ok(Arc::new(Server { strict: Some(strict), trusted, any_name, algorithms }))
}

/// Looks at the certificates of clients.
pub(crate) fn client_verifier(
    tls: &ServerTls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let algorithms = provider.signature_verification_algorithms;
    let (roots, trusted) = authorities(tls.cafile.as_deref())?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if tls.verify_client == VerifyClient::Optional {
        builder = builder.allow_unauthenticated();
    }
    let strict = builder.build().map_err(|e| TlsError::Config(e.to_string()))?;
    Ok(Arc::new(Client { strict, trusted, algorithms }))
}

/// Whom to trust: those in the file, or those the system trusts.
fn authorities(cafile: Option<&str>) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = cafile else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok((roots, Vec::new()));
    };
    let certificates = certificates(path)?;
    let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        let reason = "none of its certificates can be read".to_owned();
        return Err(TlsError::Content { path: name(path), what: "certificate", reason });
    }
    Ok((roots, certificates))
}

/// The three functions in which both kinds of verifiers do as the library does.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// Servers whose certificate is vouched for, or is itself among the trusted; any without `strict`.
#[derive(Debug)]
struct Server {
    strict: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    any_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(strict) = &self.strict else { return Ok(ServerCertVerified::assertion()) };
        match strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_authority(&error) && self.trusted.contains(end_entity) => {
                // The dates were looked at before this error; the name was not.
                if !self.any_name {
                    rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            // The name is looked at last: all else is well.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    signatures!();
}

/// The certificate is made as an authority: the one complaint that being listed as trusted outweighs.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// Clients whose certificate is vouched for, or is itself among the trusted.
#[derive(Debug)]
struct Client {
    strict: Arc<dyn ClientCertVerifier>,
    trusted: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Client {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.strict.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.strict.verify_client_cert(end_entity, intermediates, now) {
            Err(error) if is_authority(&error) && self.trusted.contains(end_entity) => {
                Ok(ClientCertVerified::assertion())
            }
            other => other,
        }
    }

    signatures!();
}
