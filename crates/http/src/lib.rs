//! A small HTTP client for the REST API of members, and the TLS settings that client and server share.
//!
//! One connection per request: members are asked seldom, and an answer that was waited for on a connection that died
//! unseen would cost an election. Nothing here retries or waits without a limit.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use patroni_core::units::in_words;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

mod connect;
mod keys;
mod refusal;
mod streamed;
pub mod tls;
mod verify;

pub use connect::connect;
pub use hyper::Method;
pub use hyper::header::{HeaderMap, HeaderName, HeaderValue};
pub use keys::KeyError;
pub use streamed::{Streamed, Way};
pub use tls::{TlsError, TlsFiles};

/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How requests are made: the settings of the sections `ctl` and `restapi` that concern a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// `username:password` for basic authentication (`ctl.authentication`, or else `restapi.authentication`).
    pub auth: Option<String>,
    /// `ctl.insecure`: certificates of servers are not verified. As in Patroni, it has no effect on that where
    /// `certfile` is set, besides the name in the certificate not being compared.
    pub insecure: bool,
    /// `ctl.cacert`, or else `restapi.cafile`: whom to trust; without it, whom the system trusts.
    pub cacert: Option<String>,
    /// `ctl.certfile`, `ctl.keyfile`, `ctl.keyfile_password`: how this client shows who it is.
    pub identity: Option<TlsFiles>,
    /// Certificates of servers are not verified, whatever else is set (`verify: false` of stores).
    pub unverified: bool,
    /// The header `User-Agent`.
    pub user_agent: String,
}

/// A client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: ClientOptions,
    authorization: Option<HeaderValue>,
    user_agent: HeaderValue,
    // The certificates of the system are many: they are read when a server with TLS is met.
    tls: OnceLock<Arc<ClientConfig>>,
}

/// A request.
#[derive(Debug)]
pub struct Call<'a> {
    /// GET, PUT, ...
    pub method: Method,
    /// `http://` or `https://`, host, port, path and query.
    pub url: &'a str,
    /// Headers beside those that every request has.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// What is sent with it.
    pub body: Option<Body>,
}

/// What is sent with a request.
#[derive(Debug)]
pub struct Body {
    /// The content.
    pub text: String,
    /// The header `Content-Type`.
    pub content_type: &'static str,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body. What is not UTF-8 is replaced.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is not one of HTTP.
    #[error("{0:?} is not an address of the form http://host:port/path or https://host:port/path")]
    Address(String),
    /// The time was over.
    #[error("no answer within {}", in_words(*.0))]
    Timeout(Duration),
    /// The time was over before there was a connection: nothing was asked.
    #[error("no answer within {}", in_words(*.0))]
    NotConnected(Duration),
    /// No connection.
    #[error("no connection to {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    /// A server whose certificate is not trusted: it lives, and was not asked.
    #[error("the certificate of {0} is not trusted: {1}")]
    Untrusted(String, String),
    /// A connection without TLS on it.
    #[error("no TLS connection to {0}: {1}")]
    Handshake(String, String),
    /// The connection was lost, or what came is not HTTP.
    #[error("the connection broke or the answer is not HTTP: {0}")]
    Protocol(String),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl HttpClient {
    /// Makes a client. Certificate files that are named are read now.
    ///
    /// # Errors
    /// A file is missing or is not what it should be.
    pub fn new(options: ClientOptions) -> Result<Self, TlsError> {
        let client = Self::lazy(options);
        if client.0.options.cacert.is_some() || client.0.options.identity.is_some() {
            client.tls_config()?;
        }
        Ok(client)
    }

    /// Makes a client that reads its certificate files when it meets a server with TLS.
    pub fn lazy(options: ClientOptions) -> Self {
        let authorization = options.auth.as_deref().map(basic_authorization);
        let user_agent = HeaderValue::from_str(&options.user_agent).unwrap_or(HeaderValue::from_static("patroni-rs"));
        Self(Arc::new(Inner { options, authorization, user_agent, tls: OnceLock::new() }))
    }

    /// Makes a request and reads the answer to its end, all within `limit`. A status that is an error is an answer.
    ///
    /// # Errors
    /// No whole answer came in time.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<String>,
        limit: Duration,
    ) -> Result<Response, HttpError> {
        let body = body.map(|text| Body { text, content_type: "application/json" });
        self.call(Call { method, url, headers: &[], body }, limit).await
    }

    /// The same with headers and another type of body.
    ///
    /// # Errors
    /// As for [`HttpClient::request`].
    pub async fn call(&self, call: Call<'_>, limit: Duration) -> Result<Response, HttpError> {
        let until = Instant::now() + limit;
        let target = Target::parse(call.url)?;
        let stream = self.connected(&target, Way::default(), until, limit).await?;
        let request = self.http_request(&target, call.method, call.headers, call.body)?;
        timeout_at(until, send(stream, request)).await.unwrap_or(Err(HttpError::Timeout(limit)))
    }

    /// A connection, with TLS on it where the address wants that.
    async fn connected(
        &self,
        target: &Target,
        way: Way<'_>,
        until: Instant,
        limit: Duration,
    ) -> Result<Box<dyn Transport>, HttpError> {
        let not_connected = |_| HttpError::NotConnected(limit);
        let (host, port) = way.at.unwrap_or((&target.host, target.port));
        let stream = timeout_at(until, connect(host, port)).await.map_err(not_connected)?;
        let stream = stream.map_err(|e| match way.at {
            Some((host, port)) => HttpError::Connect(format!("{host}:{port}"), e),
            None => HttpError::Connect(target.authority.clone(), e),
        })?;
        let _ = stream.set_nodelay(true);
        if let Some(time) = way.keepalive {
            streamed::keep_alive(&stream, time);
        }
        if !target.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| HttpError::Address(format!("https://{}", target.authority)))?;
        let shaking = TlsConnector::from(self.tls_config()?).connect(name, stream);
        let stream = timeout_at(until, shaking).await.map_err(not_connected)?;
        Ok(Box::new(stream.map_err(|e| refusal::of_handshake(&target.authority, e))?))
    }

    fn http_request(
        &self,
        target: &Target,
        method: Method,
        headers: &[(HeaderName, HeaderValue)],
        body: Option<Body>,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&target.path)
            .header(HOST, &target.authority)
            .header(CONNECTION, "close")
            .header(USER_AGENT, &self.0.user_agent);
        if let Some(value) = &self.0.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut text = String::new();
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, body.content_type);
            text = body.text;
        }
        request.body(Full::new(Bytes::from(text))).map_err(|e| HttpError::Protocol(e.to_string()))
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.0.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls::client_config(&self.0.options)?);
        Ok(Arc::clone(self.0.tls.get_or_init(|| config)))
    }
}

/// The address of another endpoint of the same server: `http://host:port/patroni` and `failsafe` give
/// `http://host:port/failsafe`.
pub fn endpoint_url(api_url: &str, endpoint: &str) -> String {
    let (scheme, rest) = api_url.split_once("://").unwrap_or(("http", api_url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{authority}/{}", endpoint.trim_start_matches('/'))
}

/// The value of the header `Authorization` for `username:password`.
fn basic_authorization(auth: &str) -> HeaderValue {
    let encoded = base64::engine::general_purpose::STANDARD.encode(auth);
    // Base64 has no character that is not allowed in a header.
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}")).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

/// Where a request goes.
struct Target {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, HttpError> {
        let error = || HttpError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| error())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(error()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(error)?;
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self {
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            authority: format!("{host}:{port}"),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

/// A connection, whether encrypted or not.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for S {}

async fn send(stream: Box<dyn Transport>, request: Request<Full<Bytes>>) -> Result<Response, HttpError> {
    let protocol = |e: &(dyn std::error::Error + 'static)| HttpError::Protocol(with_cause(e));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| protocol(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| protocol(&e))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| protocol(e.as_ref()))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::pin!(answer);
    // The connection is driven here and not in a task of its own, so that nothing is left when the caller gives up.
    tokio::select! {
        result = &mut answer => result,
        driven = connection => match driven {
            Ok(()) => answer.await,
            Err(e) => Err(protocol(&e)),
        },
    }
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    match (refusal::of_exchange(error), error.source()) {
        (Some(sentence), _) => sentence,
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_a_member() {
        assert_eq!(endpoint_url("http://h:8008/patroni", "failsafe"), "http://h:8008/failsafe");
        assert_eq!(endpoint_url("https://[::1]:8008", "/liveness"), "https://[::1]:8008/liveness");
    }

    #[test]
    fn addresses() {
        let target = Target::parse("https://[::1]/patroni?x=1").expect("an address");
        assert_eq!((target.host.as_str(), target.port, target.tls), ("::1", 443, true));
        assert_eq!(target.path, "/patroni?x=1");
        for bad in ["", "patroni", "ftp://h/", "http://", "/patroni"] {
            assert!(Target::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[tokio::test]
    async fn files_that_are_missing_matter_where_there_is_tls() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        };
        let options = ClientOptions { cacert: Some("/nonexistent".to_owned()), ..ClientOptions::default() };
        assert!(matches!(HttpClient::new(options.clone()), Err(TlsError::Read { .. })));
        let client = HttpClient::lazy(options);
        let ask = |url: String| {
            let client = client.clone();
            async move { client.request(Method::GET, &url, None, Duration::from_secs(5)).await }
        };
        let asked = async {
            assert!(ask(format!("http://{address}/")).await.is_ok());
            let refused = ask(format!("https://{address}/")).await;
            assert!(matches!(refused, Err(HttpError::Tls(TlsError::Read { .. }))), "{refused:?}");
        };
        tokio::select! {
            () = asked => {}
            () = server => {}
        }
    }
}
