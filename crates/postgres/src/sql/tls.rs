//! TLS for connections to PostgreSQL, with the meaning that libpq gives `sslmode`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use patroni_http::TlsFiles;
use patroni_http::tls::{Trust, client_config_for};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
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
    pub(super) fn new(mode: &str, root: Option<&str>, own: Option<&TlsFiles>) -> Result<Self, SqlError> {
        let any_name = mode != "verify-full";
        let trust = match (mode, root) {
            ("verify-full" | "verify-ca" | "require", Some(_)) => Trust::Vouched { cafile: root, any_name },
            ("verify-full" | "verify-ca", None) => {
                return Err(SqlError::other("sslmode", "verify-ca and verify-full need sslrootcert"));
            }
            _ => Trust::Anybody,
        };
        let config = client_config_for(trust, own).map_err(|e| SqlError::other("TLS", e.to_string()))?;
        Ok(Tls(Some(Arc::new(config))))
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
