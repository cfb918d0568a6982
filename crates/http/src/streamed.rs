//! Answers that are read as they come, such as those that tell of changes for hours.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::{Call, HttpClient, HttpError, MAX_ANSWER_BYTES, Response, Target, Transport, with_cause};

/// An answer whose body is still on its way. Its connection ends with it.
#[derive(Debug)]
pub struct Streamed {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: hyper::HeaderMap,
    body: Incoming,
    connection: Connection,
}

/// The task that drives a connection.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a connection is made and kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way<'a> {
    /// Host and port to connect to, in place of those of the address. The certificate is compared with the host of the address all the same.
    pub at: Option<(&'a str, u16)>,
    /// A peer that does not even acknowledge packets is found to be gone after this time.
    pub keepalive: Option<Duration>,
}

impl HttpClient {
    /// Makes a request and waits until the answer begins, all within `limit`.
    ///
    /// # Errors
    /// No answer began in time.
    pub async fn open(&self, call: Call<'_>, way: Way<'_>, limit: Duration) -> Result<Streamed, HttpError> {
        let until = Instant::now() + limit;
        let target = Target::parse(call.url)?;
        let stream = self.connected(&target, way, until, limit).await?;
        let request = self.http_request(&target, call.method, call.headers, call.body)?;
        timeout_at(until, begin(stream, request)).await.unwrap_or(Err(HttpError::Timeout(limit)))
    }
}

/// Half of the time passes before the peer is asked, the other half is for its answers.
pub(crate) fn keep_alive(stream: &TcpStream, time: Duration) {
    const PROBES: u32 = 3;
    let options =
        TcpKeepalive::new().with_time(time / 2).with_interval((time / 2 / PROBES).max(Duration::from_secs(1)));
    // Without them a dead peer is noticed later.
    let _ = SockRef::from(stream).set_tcp_keepalive(&options.with_retries(PROBES));
}

async fn begin(stream: Box<dyn Transport>, request: Request<Full<Bytes>>) -> Result<Streamed, HttpError> {
    let protocol = |e: hyper::Error| HttpError::Protocol(with_cause(&e));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    let connection = Connection(tokio::spawn(async move {
        // What breaks it shows where the answer is read.
        let _ = connection.await;
    }));
    let (head, body) = sender.send_request(request).await.map_err(protocol)?.into_parts();
    Ok(Streamed { status: head.status.as_u16(), headers: head.headers, body, connection })
}

impl Streamed {
    /// The next part of the body, `None` at its end. The caller has a deadline, or is content to wait for as long as the connection lives.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|e| HttpError::Protocol(with_cause(&e)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole answer, read until then.
    ///
    /// # Errors
    /// It did not come in time, or is too large.
    pub async fn whole(self, limit: Duration) -> Result<Response, HttpError> {
        let Streamed { status, headers, body, connection } = self;
        let body = tokio::time::timeout(limit, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
        drop(connection);
        let body = body.map_err(|_| HttpError::Timeout(limit))?;
        let body = body.map_err(|e| HttpError::Protocol(with_cause(e.as_ref())))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Response { status, headers, body })
    }
}
