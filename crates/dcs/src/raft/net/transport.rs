//! Streams of bytes to addresses and from whoever connects: TCP, with TLS where it is configured.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::units::in_words;
use patroni_http::tls::{self, ServerTls, TlsError, VerifyClient};
use patroni_http::{ClientOptions, TlsFiles};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::raft::options::RaftOptions;

/// How long a connection may take to be made, with TLS.
const CONNECTING: Duration = Duration::from_secs(5);

/// A stream of bytes in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections.
#[async_trait]
pub(crate) trait Transport: Send + Sync + 'static {
    /// Connects to an address.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>>;
}

/// Takes connections.
#[async_trait]
pub(crate) trait Incoming: Send + 'static {
    /// The next one, not yet greeted in any way. Dropping the future loses none.
    async fn next(&mut self) -> io::Result<Box<dyn Greeted>>;
}

/// A connection that somebody opened.
#[async_trait]
pub(crate) trait Greeted: Send {
    /// Whose it is; `None` where there are no addresses.
    fn from(&self) -> Option<IpAddr>;
    /// Goes through what the transport wants before bytes flow.
    async fn greet(self: Box<Self>) -> io::Result<Box<dyn Stream>>;
}

/// TLS that cannot be set up, or an address that cannot be listened at.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The certificates cannot be used.
    #[error("raft: {0}")]
    Tls(#[from] TlsError),
    /// Nobody can connect.
    #[error("the embedded store cannot listen at {address}: {source}; change raft.bind_addr (or raft.self_addr)")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// TCP.
pub(crate) struct Tcp(Option<TlsConnector>);

impl Tcp {
    /// Connects as these options say.
    pub(crate) fn new(options: &RaftOptions) -> Result<Self, TransportError> {
        let Some(identity) = options.identity.clone() else { return Ok(Tcp(None)) };
        let client =
            ClientOptions { cacert: options.cacert.clone(), identity: Some(identity), ..ClientOptions::default() };
        Ok(Tcp(Some(TlsConnector::from(Arc::new(tls::client_config(&client)?)))))
    }
}

#[async_trait]
impl Transport for Tcp {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let connecting = async {
            let (host, port) = host_and_port(address)?;
            let tcp = patroni_http::connect(host, port).await?;
            tcp.set_nodelay(true)?;
            let Some(connector) = &self.0 else { return Ok(Box::new(tcp) as Box<dyn Stream>) };
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(connector.connect(name, tcp).await?) as Box<dyn Stream>)
        };
        let late =
            |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {}", in_words(CONNECTING)));
        timeout(CONNECTING, connecting).await.map_err(late)?
    }
}

/// Of `host:port`, the host without the brackets of an IPv6 address.
fn host_and_port(address: &str) -> io::Result<(&str, u16)> {
    let split = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) =
        split.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{address:?} is not host:port")))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// A socket that listens, before anybody is let in.
pub(crate) struct Bound {
    listener: std::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
}

/// A socket that lets others in.
pub(crate) struct Listening {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
}

impl Bound {
    /// Listens as these options say.
    pub(crate) fn new(options: &RaftOptions, address: &str) -> Result<Self, TransportError> {
        let acceptor = options.identity.clone().map(|identity| server(identity, options.cacert.clone())).transpose()?;
        let listener = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.map_err(|source| TransportError::Listen { address: address.to_owned(), source })?;
        Ok(Bound { listener, acceptor })
    }

    /// Lets others in, in the runtime that this is called in.
    pub(crate) fn listen(self) -> io::Result<Listening> {
        Ok(Listening { listener: TcpListener::from_std(self.listener)?, acceptor: self.acceptor })
    }
}

fn server(identity: TlsFiles, cafile: Option<String>) -> Result<TlsAcceptor, TlsError> {
    let tls = ServerTls { identity, cafile, verify_client: VerifyClient::Required, ..ServerTls::default() };
    Ok(TlsAcceptor::from(Arc::new(tls::server_config(&tls)?)))
}

#[async_trait]
impl Incoming for Listening {
    async fn next(&mut self) -> io::Result<Box<dyn Greeted>> {
        let (stream, from) = self.listener.accept().await?;
        Ok(Box::new(Accepted { stream, from: from.ip().to_canonical(), acceptor: self.acceptor.clone() }))
    }
}

struct Accepted {
    stream: TcpStream,
    from: IpAddr,
    acceptor: Option<TlsAcceptor>,
}

#[async_trait]
impl Greeted for Accepted {
    fn from(&self) -> Option<IpAddr> {
        Some(self.from)
    }

    async fn greet(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        self.stream.set_nodelay(true)?;
        let Some(acceptor) = self.acceptor else { return Ok(Box::new(self.stream)) };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "TLS was not finished in time");
        Ok(Box::new(timeout(CONNECTING, acceptor.accept(self.stream)).await.map_err(late)??))
    }
}
