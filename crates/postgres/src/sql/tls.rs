//! TLS for connections to PostgreSQL, with the meaning that libpq gives `sslmode`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as RustlsStream;

use super::SqlError;

/// A TLS set-up, or none.
#[derive(Clone)]
pub(super) struct Tls(Option<Arc<ClientConfig>>);

impl Tls {
    pub(super) fn none() -> Self {
        Tls(None)
    }

    /// For `sslmode`: `verify-full` checks chain and host name, `verify-ca` the chain, the others neither; `require` with a root
    /// certificate counts as `verify-ca`, as in libpq.
    pub(super) fn new(
        mode: &str,
        root: Option<&str>,
        certificate: Option<&str>,
        key: Option<&str>,
    ) -> Result<Self, SqlError> {
        let provider = Arc::new(ring::default_provider());
        let check_name = mode == "verify-full";
        let check_chain = check_name || mode == "verify-ca" || (mode == "require" && root.is_some());
        let (chain, trusted) = match check_chain {
            true => chain_verifier(root, &provider)?,
            false => (None, Vec::new()),
        };
        let verifier = Arc::new(Verifier { chain, trusted, check_name, provider: provider.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| SqlError::other("TLS", e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key)
                    .map_err(|e| SqlError::other(format!("sslkey {key}"), e.to_string()))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, key_der)
                    .map_err(|e| SqlError::other(format!("sslcert {certificate}"), e.to_string()))?
            }
            (None, _) | (_, None) => builder.with_no_client_auth(),
        };
        Ok(Tls(Some(Arc::new(config))))
    }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, SqlError> {
    let failed = |e: rustls::pki_types::pem::Error| SqlError::other(format!("certificate {path}"), e.to_string());
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

type Chain = (Option<Arc<WebPkiServerVerifier>>, Vec<CertificateDer<'static>>);

fn chain_verifier(root: Option<&str>, provider: &Arc<CryptoProvider>) -> Result<Chain, SqlError> {
    let path = root.ok_or_else(|| SqlError::other("sslmode", "verify-ca and verify-full need sslrootcert"))?;
    let trusted = certificates(path)?;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(trusted.iter().cloned());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|e| SqlError::other(format!("sslrootcert {path}"), e.to_string()))?;
    Ok((Some(verifier), trusted))
}

#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::{CertificateError, Error};
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // A server that shows the very certificate that is trusted: self-signed, as PostgreSQL's manual makes them. The library
        // takes it for an authority that may not be a server.
        if self.trusted.iter().any(|trusted| trusted == end_entity) {
            if self.check_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last: with this error the chain is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Connect> {
        let Some(config) = &self.0 else { return Ok(Connect(None)) };
        let name = ServerName::try_from(domain.to_owned()).map_err(io::Error::other)?;
        Ok(Connect(Some((TlsConnector::from(config.clone()), name))))
    }
}

/// A connection about to be wrapped.
pub(super) struct Connect(Option<(TlsConnector, ServerName<'static>)>);

impl TlsConnect<Socket> for Connect {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let (connector, name) = self.0.ok_or_else(|| io::Error::other("TLS is not set up"))?;
            Ok(Stream(Box::new(connector.connect(name, socket).await?)))
        })
    }
}

/// A wrapped connection.
pub(super) struct Stream(Box<RustlsStream<Socket>>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
