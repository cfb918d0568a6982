//! One connection to a server of ZooKeeper, from the first bytes on: requests, answers, watches, pings.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use patroni_core::time::Moment;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::proto::{AUTH_XID, Op, PING_XID, Reader, SESSION_EXPIRED, SESSION_MOVED, WATCH_XID, Writer, error_text};
use super::session::Session;
use crate::boot_time::boot_time;

/// A request and who waits for its answer.
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) content: Vec<u8>,
    /// Whoever waits gives up then.
    pub(super) until: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// An answer, and the session that it was given to.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) session: i64,
    /// Until when it surely lasts, if the answer says that the servers know it.
    pub(super) lasts_until: Moment,
    /// 0: none.
    pub(super) error: i32,
    pub(super) content: Vec<u8>,
}

/// What may change while a connection lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// How long a session is to last.
    pub(super) session: Duration,
    /// After which silence a server is given up.
    pub(super) silence: Duration,
    /// How long operations go on trying.
    pub(super) retry: Duration,
    /// Grows with every change of what a connection is made with.
    pub(super) access: u64,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nobody wants it any more.
    Unwanted,
    /// The servers have ended the session.
    Expired,
    /// It is to be made anew, by other settings.
    Outdated,
    /// It broke, or the server was silent.
    Broken(io::Error),
}

/// Whether a session that was used then is to be kept alive now, for a member whose keys live for a `ttl`.
pub(super) fn is_used(used: Option<Moment>, ttl: Duration) -> bool {
    used.is_some_and(|used| boot_time().since(used) < ttl)
}

fn broken(text: impl Into<String>) -> Ended {
    Ended::Broken(io::Error::other(text.into()))
}

/// ZooKeeper's own limit (`jute.maxbuffer`) is 1 MB by default.
const MAX_FRAME: usize = 16 << 20;

/// A stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin + ?Sized), content: &[u8]) -> io::Result<()> {
    stream.write_all(&Writer::default().bytes(content).0).await?;
    stream.flush().await
}

/// Not to be dropped half-way: what was read would be lost.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> io::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is not ZooKeeper"));
    }
    // Grows with what comes, not with what was announced.
    let mut frame = Vec::new();
    stream.take(length as u64).read_to_end(&mut frame).await?;
    if frame.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame)
}

/// Opens the session, or goes on with it.
///
/// # Errors
/// [`Ended::Expired`]: there is no such session any more.
pub(super) async fn greet(stream: &mut (impl Stream + ?Sized), session: &mut Session) -> Result<(), Ended> {
    let sent = boot_time();
    let wanted = i32::try_from(session.wanted.as_millis()).unwrap_or(i32::MAX);
    let hello = Writer::default().int(0).long(session.seen).int(wanted).long(session.id).bytes(&session.password);
    write_frame(stream, &hello.flag(false).0).await.map_err(Ended::Broken)?;
    let answer = read_frame(stream).await.map_err(Ended::Broken)?;
    let mut reader = Reader(&answer);
    let parsed = (|| Some((reader.int()?, reader.int()?, reader.long()?, reader.bytes()?.to_vec())))();
    let Some((_version, agreed, id, password)) = parsed else { return Err(broken("the greeting is too short")) };
    let agreed = Duration::from_millis(u64::try_from(agreed).unwrap_or(0));
    if id == 0 || agreed.is_zero() || (session.id != 0 && session.id != id) {
        return Err(if session.id == 0 { broken("the server gives no session") } else { Ended::Expired });
    }
    (session.id, session.password, session.agreed) = (id, password, agreed);
    session.connected(sent, boot_time());
    Ok(())
}

/// Shows who we are.
///
/// # Errors
/// The server does not believe it, or the connection broke.
pub(super) async fn authenticate(
    stream: &mut (impl Stream + ?Sized),
    scheme: &str,
    credential: &str,
) -> io::Result<()> {
    let packet = Writer::default().int(AUTH_XID).int(Op::Auth as i32).int(0).text(scheme).text(credential);
    write_frame(stream, &packet.0).await?;
    let answer = read_frame(stream).await?;
    let mut reader = Reader(&answer);
    match (reader.int(), reader.long(), reader.int()) {
        (Some(AUTH_XID), Some(_), Some(0)) => Ok(()),
        (Some(AUTH_XID), Some(_), Some(error)) => {
            let text = format!("the server does not accept auth_data of the scheme {scheme}: {}", error_text(error));
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody waits for")),
    }
}

/// Waits until then; for ever without a moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A connection in use.
pub(super) struct Connection<'a> {
    to_server: WriteHalf<Box<dyn Stream>>,
    incoming: mpsc::Receiver<io::Result<Vec<u8>>>,
    reading: AbortHandle,
    session: &'a mut Session,
    /// Counts watches that fired.
    fired: &'a watch::Sender<u64>,
    /// When the session was used last.
    used: &'a watch::Sender<Option<Moment>>,
    waiting: VecDeque<Waiting>,
    xid: i32,
    /// Since when the server says nothing although something was asked.
    silent: Option<Instant>,
    next_ping: Instant,
    /// When a ping was sent that was not answered yet.
    ping: Option<Moment>,
}

struct Waiting {
    xid: i32,
    sent: Moment,
    until: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        stream: Box<dyn Stream>,
        session: &'a mut Session,
        fired: &'a watch::Sender<u64>,
        used: &'a watch::Sender<Option<Moment>>,
    ) -> Self {
        let (mut from_server, to_server) = tokio::io::split(stream);
        let (frames, incoming) = mpsc::channel(16);
        // A task of its own, because a frame must not be given up half-read.
        let reading = tokio::spawn(async move {
            loop {
                let frame = read_frame(&mut from_server).await;
                let is_over = frame.is_err();
                if frames.send(frame).await.is_err() || is_over {
                    return;
                }
            }
        });
        Connection {
            to_server,
            incoming,
            reading: reading.abort_handle(),
            session,
            fired,
            used,
            waiting: VecDeque::new(),
            xid: 0,
            silent: None,
            next_ping: Instant::now(),
            ping: None,
        }
    }

    /// Serves calls until the connection ends, or was made for what is not so any more (`begun`). With `others` to turn to, a server that lets a caller wait in vain is left.
    pub(super) async fn serve(
        mut self,
        calls: &mut mpsc::Receiver<Call>,
        pace: &mut watch::Receiver<Pace>,
        begun: Pace,
        others: bool,
    ) -> Ended {
        loop {
            let now = *pace.borrow_and_update();
            if (now.session, now.access) != (self.session.wanted, begun.access) {
                return Ended::Outdated;
            }
            let overdue = self.waiting.front().map(|first| first.until).filter(|_| others);
            let silent = self.silent.map(|since| since + now.silence);
            let given_up = overdue.into_iter().chain(silent).min();
            let done = tokio::select! {
                // After a standstill of this process, what came meanwhile counts before the time that has passed.
                biased;
                frame = self.incoming.recv() => match frame {
                    Some(Ok(frame)) => self.take(&frame),
                    Some(Err(error)) => return Ended::Broken(error),
                    None => return broken("the connection ended"),
                },
                () = until(given_up) => return broken("the server does not answer"),
                () = tokio::time::sleep_until(self.next_ping) => self.send_ping(now.silence).await,
                changed = pace.changed() => changed.map_err(|_| Ended::Unwanted),
                call = calls.recv() => match call {
                    None => return Ended::Unwanted,
                    // Nobody waits for it any more: it must not happen later.
                    Some(call) if call.answer.is_closed() => Ok(()),
                    Some(call) => self.send(call, now.silence).await,
                },
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    async fn send(&mut self, call: Call, limit: Duration) -> Result<(), Ended> {
        self.xid = self.xid.wrapping_add(1).max(1);
        let packet = Writer::default().int(self.xid).int(call.op as i32).raw(&call.content);
        self.waiting.push_back(Waiting { xid: self.xid, sent: boot_time(), until: call.until, answer: call.answer });
        self.write(&packet.0, limit).await
    }

    async fn send_ping(&mut self, limit: Duration) -> Result<(), Ended> {
        self.next_ping = Instant::now() + self.session.pause();
        if self.ping.is_some() || !is_used(*self.used.borrow(), self.session.wanted) {
            return Ok(());
        }
        self.ping = Some(boot_time());
        let packet = Writer::default().int(PING_XID).int(Op::Ping as i32);
        self.write(&packet.0, limit).await
    }

    async fn write(&mut self, packet: &[u8], limit: Duration) -> Result<(), Ended> {
        self.silent.get_or_insert_with(Instant::now);
        match timeout(limit, write_frame(&mut self.to_server, packet)).await {
            Ok(written) => written.map_err(Ended::Broken),
            Err(_) => Err(broken("the server takes nothing any more")),
        }
    }

    /// Hands an answer over to who waits for it.
    fn take(&mut self, frame: &[u8]) -> Result<(), Ended> {
        let now = boot_time();
        self.session.heard = now;
        let mut reader = Reader(frame);
        let parsed = (|| Some((reader.int()?, reader.long()?, reader.int()?)))();
        let Some((xid, zxid, error)) = parsed else { return Err(broken("an answer is too short")) };
        match xid {
            WATCH_XID => self.fired.send_modify(|count| *count += 1),
            PING_XID => {
                if let Some(sent) = self.ping.take() {
                    self.session.pinged(sent, now);
                }
            }
            _ => {
                let Some(waiting) = self.waiting.pop_front().filter(|waiting| waiting.xid == xid) else {
                    return Err(broken("an answer that nobody waits for"));
                };
                self.session.seen = self.session.seen.max(zxid);
                let answer = Answer {
                    session: self.session.id,
                    lasts_until: self.session.surely_counted_from(waiting.sent) + self.session.agreed,
                    error,
                    content: reader.0.to_vec(),
                };
                let _ = waiting.answer.send(answer);
                match error {
                    SESSION_EXPIRED => return Err(Ended::Expired),
                    SESSION_MOVED => return Err(broken(error_text(error))),
                    _ => {}
                }
            }
        }
        let is_waiting = !self.waiting.is_empty() || self.ping.is_some();
        self.silent = is_waiting.then(Instant::now);
        Ok(())
    }
}
