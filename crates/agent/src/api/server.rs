//! Listening, TLS, and the limits that keep one client from harming the others.

use std::convert::Infallible;
use std::fs::Metadata;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{HeaderName, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use patroni_http::TlsError;
use patroni_http::tls::{self, ServerTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Client};
use super::connections::{Connections, Place};
use super::options::ApiOptions;
use super::reply::Reply;
use super::route::respond;
use super::write_limit::WriteLimit;
use super::{ApiParts, ApiState};
use crate::blocking::on_disk;

/// How long a client may take for the head of a request, and how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// How long a client may take for the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long an answer may wait for the client to read any of it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// The most connections at a time.
const MAX_CONNECTIONS: usize = if cfg!(test) { 400 } else { 4000 };

/// File descriptors that are left to the rest of the agent.
const RESERVED_FILES: u64 = 200;

/// How often the files of certificates are looked at.
const CERTIFICATE_INTERVAL: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(10) };

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// `listen` is not an address.
    #[error("Invalid \"restapi\" config: expected <HOST>:<PORT> for \"listen\", but got \"{0}\"")]
    Listen(String),
    /// The address cannot be listened on.
    #[error(
        "Couldn't start a service on '{listen}', please check your `restapi.listen` configuration: {source} \
         (is another program, or another Patroni, using the port? `ss -ltnp` shows)"
    )]
    Bind {
        /// `restapi.listen`
        listen: String,
        /// Why.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("restapi: {0}")]
    Tls(#[from] TlsError),
}

/// The running API.
pub struct Api(Arc<Shared>);

struct Shared {
    state: Arc<ApiState>,
    live: watch::Sender<Arc<Live>>,
    connections: Arc<Connections>,
    cancel: CancellationToken,
    // Held over a reload, so that two do not mix.
    listener: Mutex<Option<Listening>>,
}

struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Listening {
    fn start(shared: &Arc<Shared>, listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = shared.cancel.child_token();
        let task = tokio::spawn(accept(Arc::clone(shared), listener, stop.clone()));
        Ok(Listening { address, stop, task })
    }

    /// Ends when nothing is accepted any more and the port is free.
    async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Settings as they are applied.
pub(crate) struct Live {
    pub(crate) options: ApiOptions,
    pub(crate) access: Access,
    server: HeaderValue,
    extra: Vec<(HeaderName, HeaderValue)>,
    tls: Option<Arc<rustls::ServerConfig>>,
    files: FileMarks,
}

/// Starts to serve.
///
/// # Errors
/// The address is wrong or taken, or a certificate cannot be used.
pub async fn serve(options: ApiOptions, parts: ApiParts, cancel: CancellationToken) -> Result<Api, ApiError> {
    let live = Live::new(options).await?;
    let listener = bind(&live.options.listen).await?;
    let connections = Connections::new(connection_limit());
    warn_if_open(&live, &listener);
    let shared = Arc::new(Shared {
        state: Arc::new(ApiState::new(parts)),
        live: watch::Sender::new(Arc::new(live)),
        connections,
        cancel,
        listener: Mutex::new(None),
    });
    shared.start_listening(listener, &mut *shared.listener.lock().await)?;
    tokio::spawn(watch_certificates(Arc::clone(&shared)));
    Ok(Api(shared))
}

impl Api {
    /// The address that is listened on; `None` after a reload that failed to get the new one and lost the old one.
    pub async fn address(&self) -> Option<SocketAddr> {
        self.0.listener.lock().await.as_ref().map(|listening| listening.address)
    }

    /// Applies new settings; certificates are read again in any case. On an error the old ones stay in force.
    ///
    /// # Errors
    /// As [`serve`].
    pub async fn reload(&self, options: ApiOptions) -> Result<(), ApiError> {
        self.0.reload(options).await
    }
}

impl Shared {
    async fn reload(self: &Arc<Self>, options: ApiOptions) -> Result<(), ApiError> {
        let mut listening = self.listener.lock().await;
        let live = Live::new(options).await?;
        let old_listen = self.live.borrow().options.listen.clone();
        if listening.is_none() || live.options.listen != old_listen {
            let listener = self.move_to(&live.options.listen, &mut listening).await?;
            warn_if_open(&live, &listener);
            if let Some(old) = listening.take() {
                old.stop().await;
            }
            self.start_listening(listener, &mut listening)?;
        }
        self.live.send_replace(Arc::new(live));
        Ok(())
    }

    /// Listens on the new address; where it overlaps with the old one (`*:8008` and `127.0.0.1:8008`), that one is
    /// given up first, and taken again if the new one cannot be had.
    async fn move_to(self: &Arc<Self>, new: &str, listening: &mut Option<Listening>) -> Result<TcpListener, ApiError> {
        let result = bind(new).await;
        let port = split_listen(new).map(|(_, port)| port);
        let old = match (&result, listening.take()) {
            (Err(_), Some(old)) if port == Some(old.address.port()) => old,
            (_, kept) => {
                *listening = kept;
                return result;
            }
        };
        let address = old.address.to_string();
        old.stop().await;
        let result = bind(new).await;
        if result.is_err() {
            self.start_listening(bind(&address).await?, listening)?;
        }
        result
    }

    fn start_listening(
        self: &Arc<Self>,
        listener: TcpListener,
        listening: &mut Option<Listening>,
    ) -> Result<(), ApiError> {
        let started = Listening::start(self, listener);
        *listening = Some(started.map_err(|source| bind_error(&self.live.borrow().options.listen, source))?);
        Ok(())
    }
}

impl Live {
    async fn new(options: ApiOptions) -> Result<Self, ApiError> {
        let files = FileMarks::of(options.tls.as_ref()).await;
        let config = match options.tls.clone() {
            None => None,
            Some(tls) => Some(Arc::new(read_tls(tls).await?)),
        };
        let mut extra = Vec::new();
        add_headers(&mut extra, &options.http_extra_headers);
        if options.tls.is_some() {
            add_headers(&mut extra, &options.https_extra_headers);
        }
        let server = HeaderValue::from_str(&options.server_tokens.header());
        Ok(Live {
            access: Access::new(&options).await,
            server: server.unwrap_or(HeaderValue::from_static("Patroni")),
            extra,
            tls: config,
            files,
            options,
        })
    }
}

/// Reading and decrypting a key is slow enough to keep it from the threads that serve.
async fn read_tls(tls: ServerTls) -> Result<rustls::ServerConfig, TlsError> {
    on_disk(move || tls::server_config(&tls)).await.map_err(TlsError::Config).flatten()
}

/// Later ones take the place of earlier ones of the same name.
fn add_headers(extra: &mut Vec<(HeaderName, HeaderValue)>, wanted: &[(String, String)]) {
    for (name, value) in wanted {
        match (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                extra.retain(|(known, _)| *known != name);
                extra.push((name, value));
            }
            _ => {
                tracing::error!(target: "patroni::api", "restapi: \"{name}: {value}\" is not an HTTP header; left out")
            }
        }
    }
}

/// What changes with the files of the certificate: when each was written, its inode (a copy may keep the time), its size.
#[derive(Debug, Default, PartialEq, Eq)]
struct FileMarks(Vec<Option<(SystemTime, u64, u64)>>);

impl FileMarks {
    async fn of(tls: Option<&ServerTls>) -> Self {
        let Some(tls) = tls else { return FileMarks::default() };
        let paths = [Some(&tls.identity.certfile), tls.identity.keyfile.as_ref(), tls.cafile.as_ref()];
        let paths: Vec<String> = paths.into_iter().flatten().cloned().collect();
        let mark = |file: Metadata| Some((file.modified().ok()?, file.ino(), file.len()));
        let marks =
            on_disk(move || paths.iter().map(|path| std::fs::metadata(path).ok().and_then(mark)).collect()).await;
        FileMarks(marks.unwrap_or_default())
    }
}

/// Takes up certificates that were replaced. While new ones do not fit together, the old ones stay.
async fn watch_certificates(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = tokio::time::sleep(CERTIFICATE_INTERVAL) => {}
        }
        let live = shared.live.borrow().clone();
        if FileMarks::of(live.options.tls.as_ref()).await == live.files {
            continue;
        }
        match shared.reload(live.options.clone()).await {
            Ok(()) => tracing::info!(target: "patroni::api", "restapi: new certificate files are in use"),
            Err(e) => tracing::error!(target: "patroni::api", "{e}; the old certificate stays in use"),
        }
    }
}

fn warn_if_open(live: &Live, listener: &TcpListener) {
    if listener.local_addr().is_ok_and(|address| is_exposed(&live.access, address)) {
        tracing::warn!(
            target: "patroni::api",
            "Anybody who can reach {} may restart, reinitialize and reconfigure this cluster: set \
             restapi.authentication, restapi.verify_client or restapi.allowlist",
            live.options.listen
        );
    }
}

/// Others than the programs of this machine can change things, and nothing is asked of them.
fn is_exposed(access: &Access, listen: SocketAddr) -> bool {
    access.is_open() && !listen.ip().to_canonical().is_loopback()
}

fn bind_error(listen: &str, source: io::Error) -> ApiError {
    ApiError::Bind { listen: listen.to_owned(), source }
}

/// Listens on `host:port`. Of several addresses of a host it is one, IPv6 before IPv4, as Patroni does.
async fn bind(listen: &str) -> Result<TcpListener, ApiError> {
    let (host, port) = split_listen(listen).ok_or_else(|| ApiError::Listen(listen.to_owned()))?;
    let mut addresses: Vec<SocketAddr> = if matches!(host, "" | "*") {
        vec![SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))]
    } else {
        lookup_host((host, port)).await.map_err(|source| bind_error(listen, source))?.collect()
    };
    addresses.sort_by_key(SocketAddr::is_ipv4);
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in addresses {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            // Where there is no IPv6 the next one will do; a port that is taken is taken.
            Err(e) if address.is_ipv6() && e.kind() != io::ErrorKind::AddrInUse => failure = e,
            Err(e) => return Err(bind_error(listen, e)),
        }
    }
    Err(bind_error(listen, failure))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit it: a system call less for each.
    socket.set_nodelay(true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(1024)
}

fn split_listen(listen: &str) -> Option<(&str, u16)> {
    let (host, port) = listen.trim().rsplit_once(':')?;
    Some((host.trim().trim_start_matches('[').trim_end_matches(']'), port.trim().parse().ok()?))
}

/// Raises the limit of open files as far as it is needed and may be, and says how many connections fit.
fn connection_limit() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = MAX_CONNECTIONS as u64 + RESERVED_FILES;
    let reachable = wanted.min(limit.maximum.unwrap_or(wanted));
    if limit.current.is_some_and(|current| current < reachable) {
        let old = limit.current;
        limit.current = Some(reachable);
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = old;
        }
    }
    let files = limit.current.unwrap_or(wanted).saturating_sub(RESERVED_FILES);
    usize::try_from(files).unwrap_or(MAX_CONNECTIONS).clamp(16, MAX_CONNECTIONS)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    tokio::select! {
                        () = shared.cancel.cancelled() => {}
                        () = connection(&shared, stream, peer) => {}
                    }
                });
            }
            // Out of files or memory, for a moment; or the client went away before it was met.
            Err(e) => {
                tracing::debug!(target: "patroni::api", "a connection could not be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn connection(shared: &Shared, stream: TcpStream, peer: SocketAddr) {
    let address = peer.ip().to_canonical();
    let Some((place, ended)) = shared.connections.admit(address) else {
        return refuse(&stream);
    };
    let tls = shared.live.borrow().tls.clone();
    let talk = async {
        match tls {
            None => exchange(shared, stream, Client { address, certified: false }, &place).await,
            // Boxed, or every connection would be as large as one with TLS.
            Some(config) => Box::pin(encrypted(shared, stream, peer, config, &place)).await,
        }
    };
    tokio::select! {
        () = talk => {}
        _ = ended => tracing::debug!(target: "patroni::api", "Connection from {peer} made room for others"),
    }
}

async fn encrypted(
    shared: &Shared,
    stream: TcpStream,
    peer: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    place: &Place,
) {
    match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
            exchange(shared, stream, Client { address: peer.ip().to_canonical(), certified }, place).await;
        }
        Ok(Err(e)) => tracing::debug!(target: "patroni::api", "TLS handshake with {peer} failed: {e}"),
        Err(_) => tracing::debug!(target: "patroni::api", "TLS handshake with {peer} took too long"),
    }
}

/// One connection too many is told so, if that costs nothing.
fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

async fn exchange<S>(shared: &Shared, stream: S, client: Client, place: &Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let service = service_fn(|request| async move {
        let live = shared.live.borrow().clone();
        let started = tokio::time::Instant::now();
        let line = tracing::enabled!(target: "patroni::api", tracing::Level::DEBUG)
            .then(|| format!("\"{} {} {:?}\"", request.method(), request.uri(), request.version()));
        let reply: Reply = respond(&shared.state, &live, client, request, place).await;
        place.wait();
        if let Some(line) = line {
            let latency_ms = started.elapsed().as_secs_f64() * 1000.0;
            tracing::debug!(
                target: "patroni::api",
                "API thread: {} - - {line} {} - latency: {latency_ms:.3} ms", client.address, reply.status
            );
        }
        let response = reply.into_response(&live.server, &live.extra);
        debug_assert!(response.headers().contains_key(SERVER));
        Ok::<_, Infallible>(response)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(WriteLimit::new(stream, WRITE_LIMIT)), service)
        .await;
    if let Err(e) = served {
        tracing::debug!(target: "patroni::api", "Connection from {} ended: {e}", client.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_lets_everybody_in_is_warned() {
        let open = Access::new(&ApiOptions::default()).await;
        let closed = Access::new(&ApiOptions { auth: Some("a:b".to_owned()), ..ApiOptions::default() }).await;
        for (listen, exposed) in [("0.0.0.0:8008", true), ("[::]:8008", true), ("10.0.0.1:8008", true)]
            .into_iter()
            .chain([("127.0.0.1:8008", false), ("[::1]:8008", false), ("[::ffff:127.0.0.1]:8008", false)])
        {
            let listen = listen.parse().unwrap();
            assert_eq!((is_exposed(&open, listen), is_exposed(&closed, listen)), (exposed, false), "{listen}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!(split_listen("127.0.0.1:8008"), Some(("127.0.0.1", 8008)));
        assert_eq!(split_listen("[::1]:8008"), Some(("::1", 8008)));
        assert_eq!(split_listen("*:8008"), Some(("*", 8008)));
        assert_eq!(split_listen(":8008"), Some(("", 8008)));
        for bad in ["", "host", "host:", "host:99999", "host:http"] {
            assert_eq!(split_listen(bad), None, "{bad}");
        }
    }
}
