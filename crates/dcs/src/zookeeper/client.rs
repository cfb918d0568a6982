//! A session with ZooKeeper that outlives connections: a task that connects to the servers in turn, and requests to it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use patroni_core::time::Moment;
use patroni_core::units::in_words;
use patroni_http::tls::{Trust, client_config_for};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::{Answer, Call, Connection, Ended, Pace, Stream, authenticate, greet, is_used};
use super::hosts::Source;
use super::options::{Tls, ZooKeeperOptions};
use super::proto::{Acl, Op, SESSION_EXPIRED, SESSION_MOVED, THROTTLED, error_text};
use super::session::Session;
use crate::Timing;
use crate::attempts::{Failure, Fate, jittered, persist};
use crate::boot_time::boot_time;

/// The way to the session. The task behind it begins with the first request and ends with this. The session is left to end by
/// itself: its nodes are there for the next run of this member.
///
/// It is kept alive for as long as it is *used*: a member whose loop stands still loses its nodes, though its process lives.
pub(super) struct Client {
    shared: Arc<Shared>,
    calls: OnceLock<mpsc::Sender<Call>>,
}

struct Shared {
    source: Source,
    options: Mutex<ZooKeeperOptions>,
    pace: watch::Sender<Pace>,
    /// Whoever waits for a connection looks at it.
    state: watch::Sender<State>,
    /// When the session was used last; `None`: never, because nobody wants nodes that belong to it.
    used: watch::Sender<Option<Moment>>,
    /// Somebody asks.
    knock: Notify,
    /// Counts watches that fired, and connections that were lost.
    fired: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
enum State {
    /// There is a connection, for a session that was to be as long as this.
    Connected { session: i64, wanted: Duration },
    /// There is none, and why.
    Not(String),
}

fn pace(timing: Timing, access: u64) -> Pace {
    // As the reference: a server that is silent is given up early enough to try another one within the loop.
    let silence = timing.loop_wait.saturating_sub(Duration::from_secs(2)).max(Duration::from_secs(2));
    Pace { session: timing.ttl, silence: silence.min(timing.ttl / 3), retry: timing.retry_timeout, access }
}

impl Client {
    pub(super) fn new(options: ZooKeeperOptions, timing: Timing) -> Self {
        let shared = Shared {
            source: Source::new(options.hosts.clone()),
            options: Mutex::new(options),
            pace: watch::Sender::new(pace(timing, 0)),
            state: watch::Sender::new(State::Not("nothing was asked yet".to_owned())),
            used: watch::Sender::new(None),
            knock: Notify::new(),
            fired: watch::Sender::new(0),
        };
        Client { shared: Arc::new(shared), calls: OnceLock::new() }
    }

    /// How long things last now. A session cannot get another length: where that changed, another session begins, and the one
    /// before ends by itself.
    pub(super) fn configure(&self, timing: Timing) {
        self.shared.pace.send_if_modified(|now| {
            let then = pace(timing, now.access);
            std::mem::replace(now, then) != then
        });
    }

    /// Takes other hosts, credentials and certificates. False: these are those of other nodes.
    pub(super) fn reconfigure(&self, options: ZooKeeperOptions) -> bool {
        let mut present = self.shared.options();
        if options.chroot != present.chroot {
            return false;
        }
        if options == *present {
            return true;
        }
        self.shared.source.replace(options.hosts.clone());
        *present = options;
        self.shared.pace.send_modify(|pace| pace.access += 1);
        true
    }

    /// `set_acls`: who may do what with new nodes.
    pub(super) fn acl(&self) -> Vec<Acl> {
        self.shared.options().acl.clone()
    }

    /// The nodes of the session are wanted for another `ttl`.
    pub(super) fn use_session(&self) {
        self.shared.used.send_replace(Some(boot_time()));
    }

    /// Waits while a session that was used is not used any more, no longer than this.
    pub(super) async fn while_unused(&self, limit: Duration) {
        let ttl = self.shared.pace.borrow().session;
        let wanted = |used: &Option<Moment>| used.is_none_or(|used| boot_time().since(used) < ttl);
        let _ = timeout(limit, self.shared.used.subscribe().wait_for(wanted)).await;
    }

    pub(super) fn fired(&self) -> watch::Receiver<u64> {
        self.shared.fired.subscribe()
    }

    /// The session of the present connection.
    pub(super) fn session(&self) -> Option<i64> {
        match *self.shared.state.borrow() {
            State::Connected { session, .. } => Some(session),
            State::Not(_) => None,
        }
    }

    /// One request, tried again until there is an answer or the deadline. True: an earlier attempt may have been carried out.
    pub(super) async fn request(&self, op: Op, content: &[u8], deadline: Instant) -> Result<(Answer, bool), Failure> {
        let attempt = |patience, repeated| async move { Ok((self.attempt(op, content, patience).await?, repeated)) };
        persist("ZooKeeper", deadline, || self.shared.source.count(), attempt).await
    }

    async fn attempt(&self, op: Op, content: &[u8], patience: Duration) -> Result<Answer, (Fate, String)> {
        let until = Instant::now() + patience;
        let calls = self.calls.get_or_init(|| {
            let (calls, incoming) = mpsc::channel(64);
            tokio::spawn(keep(self.shared.clone(), incoming));
            calls
        });
        self.connected(until, patience).await?;
        let (answer, answered) = oneshot::channel();
        let call = Call { op, content: content.to_vec(), until, answer };
        match timeout_at(until, calls.send(call)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err((Fate::NotSent, "too many requests wait for an answer".to_owned())),
        }
        match timeout_at(until, answered).await {
            Ok(Ok(Answer { error: error @ (SESSION_EXPIRED | SESSION_MOVED | THROTTLED), .. })) => {
                Err((Fate::NotSent, error_text(error)))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err((Fate::Unknown, "the connection was lost".to_owned())),
            Err(_) => Err((Fate::Unknown, format!("no answer within {}", in_words(patience)))),
        }
    }

    /// Waits for a connection.
    async fn connected(&self, until: Instant, patience: Duration) -> Result<(), (Fate, String)> {
        let mut state = self.shared.state.subscribe();
        self.shared.knock.notify_one();
        let is_ready = |state: &State| match state {
            State::Connected { wanted, .. } => *wanted == self.shared.pace.borrow().session,
            State::Not(_) => false,
        };
        if matches!(timeout_at(until, state.wait_for(is_ready)).await, Ok(Ok(_))) {
            return Ok(());
        }
        let why = match &*state.borrow() {
            State::Not(why) => why.clone(),
            State::Connected { .. } => "another session is about to begin".to_owned(),
        };
        Err((Fate::NotSent, format!("no session within {}: {why}", in_words(patience))))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.calls.take();
        self.shared.knock.notify_one();
    }
}

/// Keeps a session until nobody can ask any more.
async fn keep(shared: Arc<Shared>, mut calls: mpsc::Receiver<Call>) {
    let mut paces = shared.pace.subscribe();
    let mut session = Session::default();
    let mut failures = 0_u32;
    loop {
        // Nobody wants a connection: a session that is not used is none to keep.
        while !calls.is_closed()
            && !is_used(*shared.used.borrow(), paces.borrow().session)
            && shared.state.receiver_count() == 0
        {
            shared.knock.notified().await;
        }
        if calls.is_closed() {
            return;
        }
        let now = *paces.borrow();
        if session.wanted != now.session || session.may_have_ended(boot_time()) {
            session = Session::wanted(now.session);
        }
        let ended = match shared.connect(&mut session, now).await {
            Ok(stream) => {
                failures = 0;
                shared.state.send_replace(State::Connected { session: session.id, wanted: session.wanted });
                let others = shared.source.count() > 1;
                let connection = Connection::new(stream, &mut session, &shared.fired, &shared.used);
                let ended = connection.serve(&mut calls, &mut paces, now, others).await;
                // Watches are lost with the connection.
                shared.fired.send_modify(|count| *count += 1);
                ended
            }
            Err(ended) => ended,
        };
        let why = match ended {
            Ended::Unwanted => return,
            Ended::Outdated => {
                shared.state.send_replace(State::Not("the settings have changed".to_owned()));
                continue;
            }
            Ended::Expired => {
                tracing::warn!("the session in ZooKeeper has ended; there will be another one");
                session = Session::wanted(session.wanted);
                "the session has ended".to_owned()
            }
            Ended::Broken(error) => {
                tracing::debug!("connection to ZooKeeper: {error}");
                shared.source.advance();
                error.to_string()
            }
        };
        shared.state.send_replace(State::Not(why));
        let rounds = failures / u32::try_from(shared.source.count()).unwrap_or(u32::MAX).max(1);
        failures = failures.saturating_add(1);
        tokio::time::sleep(jittered(Duration::from_millis(50 << rounds.min(4)))).await;
    }
}

impl Shared {
    fn options(&self) -> std::sync::MutexGuard<'_, ZooKeeperOptions> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the server whose turn it is, for this session or a new one.
    async fn connect(&self, session: &mut Session, pace: Pace) -> Result<Box<dyn Stream>, Ended> {
        let broken = |error: String| Ended::Broken(std::io::Error::other(error));
        let (host, port) = self.source.current(pace.retry).await.map_err(broken)?;
        // Each server gets its turn within half of the time that an operation has.
        let share = pace.retry / 2 / u32::try_from(self.source.count()).unwrap_or(u32::MAX).max(1);
        let limit = share.max(Duration::from_secs(1));
        let options = self.options().clone();
        let is_new = session.id == 0;
        let named = |error: std::io::Error| broken(format!("{host}:{port}: {error}"));
        let opening = async {
            let mut stream = open(&host, port, options.tls.as_ref()).await.map_err(named)?;
            greet(&mut *stream, session).await.map_err(|ended| match ended {
                Ended::Broken(error) => named(error),
                other => other,
            })?;
            for (scheme, credential) in &options.credentials {
                authenticate(&mut *stream, scheme, credential).await.map_err(named)?;
            }
            Ok(stream)
        };
        let opened = timeout(limit, opening).await;
        let stream = opened.unwrap_or_else(|_| {
            Err(broken(format!("{host}:{port}: there was no answer within {}", in_words(limit))))
        })?;
        if is_new && session.agreed != session.wanted {
            tracing::warn!(
                "ZooKeeper gives sessions of {} where ttl is {}: look at its minSessionTimeout and maxSessionTimeout",
                in_words(session.agreed),
                in_words(session.wanted)
            );
        }
        Ok(stream)
    }
}

async fn open(host: &str, port: u16, tls: Option<&Tls>) -> std::io::Result<Box<dyn Stream>> {
    let stream = patroni_http::connect(host, port).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls.cloned() else { return Ok(Box::new(stream)) };
    // Files are read for each connection, so that renewed certificates are used.
    let config = tokio::task::spawn_blocking(move || {
        let trust = match tls.unverified {
            true => Trust::Anybody,
            // As the reference: the name in the certificate is not compared.
            false => Trust::Vouched { cafile: tls.cacert.as_deref(), any_name: true },
        };
        client_config_for(trust, tls.identity.as_ref())
    });
    let config = config.await.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
    let name = host.to_owned().try_into().map_err(std::io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}
