//! Looking at the server. Nothing here writes, and every answer comes by its deadline.

mod heartbeat;
mod signs;
mod status;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patroni_core::name::SystemId;
use patroni_core::server::{ControlData, DataDir, Postmaster as PostmasterState, Server};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::blocking;
use crate::controldata::ControlValues;
use crate::data_dir;
use crate::options::ServerOptions;
use crate::other_wal;
use crate::postmaster::{Found, PidFileStatus, Postmaster};
use crate::processes::{self, Killed};
use crate::programs::Programs;
use crate::sql::{Connection, DEFAULT_OPTIONS, SqlError};
use crate::unfinished::Unfinished;
use crate::whereabouts::{Whereabouts, awaits_mount, works_elsewhere};
use crate::{Error, Result};
pub use signs::Pulse;

use heartbeat::Request;

/// Requests for the status that may wait at the same time; more are told that the server does not answer.
const WAITING_REQUESTS: usize = 256;

/// How long finding a postmaster may take, for whoever acts on it: it is known, or its pid file is read.
const FIND_LIMIT: Duration = Duration::from_secs(5);

/// Reading one small file takes no longer unless the disk is broken, so that much is always allowed.
const LEAST: Duration = Duration::from_millis(200);

/// Looks at the data directory, the postmaster, and what PostgreSQL says of itself. Cheap to clone; all clones share one
/// connection to the server.
#[derive(Clone, Debug)]
pub struct Monitor {
    options: watch::Receiver<Arc<ServerOptions>>,
    postmaster: Arc<Mutex<Option<Arc<Postmaster>>>>,
    heartbeat: mpsc::Sender<Request>,
    /// Held while somebody looks at the disk.
    looking: Arc<Semaphore>,
    /// Of a postmaster that was killed.
    killed: Arc<Mutex<Killed>>,
    /// Of the data directory, when it was seen last.
    whereabouts: Arc<Mutex<Option<Whereabouts>>>,
}

impl Monitor {
    /// Watches the server that `options` describe, and follows their changes. Needs a tokio runtime; ends with its last clone.
    pub fn new(options: watch::Receiver<Arc<ServerOptions>>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_REQUESTS);
        tokio::spawn(heartbeat::run(options.clone(), receiver));
        let looking = Arc::new(Semaphore::new(1));
        Monitor {
            options,
            postmaster: Arc::default(),
            heartbeat: sender,
            looking,
            killed: Arc::default(),
            whereabouts: Arc::default(),
        }
    }

    /// The whole state of the server, at the latest at `deadline`: a server that does not answer until then is
    /// [`PostmasterState::Unreachable`].
    pub async fn inspect(&self, deadline: Instant) -> Server {
        // Whoever killed a server that hangs waits for nothing else before it gives the lease up.
        let deadline = if self.killed_remain() { deadline.min(Instant::now() + LEAST * 2) } else { deadline };
        // The other half is for what PostgreSQL says, in case the disk hangs.
        let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        let look = match self.look(half).await {
            Ok(look) => look,
            Err(error) => return self.inspect_without_disk(error.to_string(), deadline).await,
        };
        let (data_dir, postmaster) = match look.found {
            Found::Alive(postmaster) => {
                self.inspect_alive(&postmaster, look.status.ok().flatten(), look.has_control_file, deadline).await
            }
            Found::SingleUser { pid } => (self.data_dir(true, deadline).await.0, unreachable_single_user(pid)),
            Found::Nobody | Found::Foreign { .. } => self.stopped(deadline).await,
        };
        let data_dir = match (data_dir, look.is_another) {
            (DataDir::Present(_) | DataDir::Empty, Some(why)) => DataDir::Inaccessible(why),
            (data_dir, _) => data_dir,
        };
        Server { data_dir, postmaster, other_wal: look.other_wal }
    }

    async fn inspect_alive(
        &self,
        postmaster: &Postmaster,
        status: Option<PidFileStatus>,
        has_control_file: bool,
        deadline: Instant,
    ) -> (DataDir, PostmasterState) {
        let (state, system_id) = self.state_of_alive(postmaster, status, deadline).await;
        if let Some(id) = system_id.filter(|_| has_control_file) {
            return (DataDir::Present(id), state);
        }
        if !postmaster.is_alive() {
            return self.stopped(deadline).await;
        }
        (self.data_dir(true, deadline).await.0, state)
    }

    /// What a postmaster that was found alive does, and whose it is, if it answers.
    async fn state_of_alive(
        &self,
        postmaster: &Postmaster,
        status: Option<PidFileStatus>,
        deadline: Instant,
    ) -> (PostmasterState, Option<SystemId>) {
        match status {
            _ if processes::is_killed(postmaster.pid()) => (PostmasterState::Stopping, None),
            Some(PidFileStatus::Starting) => (PostmasterState::Starting, None),
            Some(PidFileStatus::Stopping) => (PostmasterState::Stopping, None),
            // Without a file it has not come so far yet, or somebody has removed the directory under it.
            None | Some(PidFileStatus::Ready | PidFileStatus::Standby) => {
                match self.ask(postmaster.pid(), deadline).await {
                    Ok((running, id)) => (PostmasterState::Running(running), Some(id)),
                    Err(error) => (self.why_no_answer(postmaster, &error, deadline).await, None),
                }
            }
        }
    }

    /// What the postmaster does, and nothing of the data directory; at the latest at `deadline`. Callers that come while a query
    /// runs share the next one.
    pub async fn postmaster_state(&self, deadline: Instant) -> PostmasterState {
        let look = match self.look(deadline.min(Instant::now() + LEAST)).await {
            Ok(look) => look,
            Err(error) => return self.inspect_without_disk(error.to_string(), deadline).await.postmaster,
        };
        match look.found {
            Found::Alive(postmaster) => {
                let status = look.status.ok().flatten();
                let (state, _) = self.state_of_alive(&postmaster, status, deadline).await;
                if postmaster.is_alive() { state } else { self.state_of_stopped() }
            }
            Found::SingleUser { pid } => unreachable_single_user(pid),
            Found::Nobody | Found::Foreign { .. } => self.state_of_stopped(),
        }
    }

    fn state_of_stopped(&self) -> PostmasterState {
        if self.killed_remain() { PostmasterState::Stopping } else { PostmasterState::Stopped(None) }
    }

    /// The disk did not answer in time. PostgreSQL may.
    async fn inspect_without_disk(&self, why: String, deadline: Instant) -> Server {
        let unknown = |postmaster| Server { data_dir: DataDir::Unknown(why.clone()), postmaster, other_wal: false };
        let options = self.options();
        let search = blocking::at(&options.data_dir, |dir| Ok(Postmaster::find_without_file(dir)?.map(Arc::new)));
        let found = match self.cached().filter(|postmaster| postmaster.is_alive()) {
            Some(postmaster) => Some(Found::Alive(postmaster)),
            // What is left of it is known, and a disk that hangs does not tell of another one.
            None if self.killed_remain() => return unknown(PostmasterState::Stopping),
            None => timeout_at(deadline, search).await.ok().and_then(Result::ok),
        };
        match found {
            Some(Found::Alive(postmaster)) if processes::is_killed(postmaster.pid()) => {
                unknown(PostmasterState::Stopping)
            }
            Some(Found::Alive(postmaster)) => match self.ask(postmaster.pid(), deadline).await {
                // It reads the file with its identifier for the answer, so that is there.
                Ok((running, system_id)) => Server {
                    data_dir: DataDir::Present(system_id),
                    postmaster: PostmasterState::Running(running),
                    other_wal: false,
                },
                Err(error) => unknown(PostmasterState::Unreachable(error.to_string())),
            },
            Some(Found::Nobody | Found::Foreign { .. }) => unknown(PostmasterState::Stopped(None)),
            Some(Found::SingleUser { pid }) => unknown(unreachable_single_user(pid)),
            None => unknown(PostmasterState::Unreachable(why.clone())),
        }
    }

    async fn stopped(&self, deadline: Instant) -> (DataDir, PostmasterState) {
        let (data_dir, values) = self.data_dir(false, deadline).await;
        if self.killed_remain() {
            return (data_dir, PostmasterState::Stopping);
        }
        let control = match values {
            Some(values) => {
                let options = self.options();
                let control = blocking::at(&options.data_dir, move |data_dir| control_data(data_dir, &values));
                timeout_at(deadline.max(Instant::now() + LEAST), control).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        (data_dir, PostmasterState::Stopped(control))
    }

    /// What can be seen without asking anybody, until `deadline`. One look at a time: on a disk that hangs there would be more and more
    /// threads that wait for it.
    async fn look(&self, deadline: Instant) -> Result<Look> {
        let late = || Error::Unexpected("the data directory does not answer in time".into());
        let looking = timeout_at(deadline, Arc::clone(&self.looking).acquire_owned());
        let permit = looking.await.map_err(|_| late())?.map_err(|_| late())?;
        let monitor = self.clone();
        let look = blocking::within(blocking::LIMIT, "looking at the data directory", move || {
            let look = monitor.look_at_disk();
            drop(permit);
            look
        });
        timeout_at(deadline, look).await.map_err(|_| late())?
    }

    /// Blocks.
    #[expect(clippy::disallowed_methods, reason = "blocks")]
    fn look_at_disk(&self) -> Result<Look> {
        let data_dir = &self.options().data_dir;
        let found = self.postmaster()?;
        let status = match &found {
            Found::Alive(postmaster) => postmaster.status(data_dir),
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => Ok(None),
        };
        let has_control_file = data_dir.join("global/pg_control").exists();
        let is_another = self.is_another(&found, has_control_file);
        Ok(Look { found, status, has_control_file, other_wal: other_wal::is_marked(data_dir), is_another })
    }

    /// Blocks.
    fn is_another(&self, found: &Found<Arc<Postmaster>>, has_control_file: bool) -> Option<String> {
        let data_dir = &self.options().data_dir;
        let mut known = self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner);
        if !has_control_file {
            return match known.as_ref() {
                Some(known) => known.is_lost(),
                None => awaits_mount(data_dir),
            };
        }
        Whereabouts::learn(&mut known, data_dir);
        match found {
            // One that has not written its pid file may not have gone there yet.
            Found::Alive(postmaster) if postmaster.was_listed() => works_elsewhere(postmaster.pid(), data_dir),
            Found::Alive(_) | Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => None,
        }
    }

    /// These processes were killed, and may take until their storage answers to go. Until then the server counts as stopping.
    pub(crate) fn remember_killed(&self, killed: Killed) {
        *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = killed;
    }

    fn killed_remain(&self) -> bool {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).remain()
    }

    /// Completes within milliseconds of the exit of the postmaster seen last; never, where there is none.
    pub async fn exit_of_postmaster(&self) {
        let seen = match self.cached() {
            Some(postmaster) => Some(postmaster),
            None => self.alive().await.ok().flatten(),
        };
        match seen {
            Some(postmaster) => {
                postmaster.exited().await;
                // Reported once: whoever asks again before the next look waits for another postmaster.
                let mut cached = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner);
                if cached.as_ref().is_some_and(|p| Arc::ptr_eq(p, &postmaster)) {
                    *cached = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// A connection of its own to the local server, as superuser, with the default limits on statements. `name` is shown as
    /// `Patroni NAME` in `pg_stat_activity`.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(&self, name: &str) -> Result<Connection> {
        Ok(self.options().connect(None, &format!("Patroni {name}"), DEFAULT_OPTIONS).await?)
    }

    /// `pg_control`, read with `pg_controldata`.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn control_values(&self) -> Result<ControlValues> {
        let options = self.options();
        ControlValues::read(&options.programs(), &options.data_dir).await
    }

    /// The options as they are now.
    pub fn options(&self) -> Arc<ServerOptions> {
        self.options.borrow().clone()
    }

    /// The programs of PostgreSQL.
    pub fn programs(&self) -> Programs {
        self.options().programs()
    }

    /// The postmaster, if one is alive on the data directory.
    ///
    /// # Errors
    /// It cannot be watched, or nobody knows it and the disk does not answer.
    pub async fn alive(&self) -> Result<Option<Arc<Postmaster>>> {
        if let Some(known) = self.cached().filter(|postmaster| postmaster.is_alive()) {
            return Ok(Some(known));
        }
        match self.look(Instant::now() + FIND_LIMIT).await?.found {
            Found::Alive(postmaster) => Ok(Some(postmaster)),
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => Ok(None),
        }
    }

    /// The one that was found before as long as it is alive, whatever becomes of its files; else what the pid file says, or where that
    /// cannot be read, the table of processes.
    fn postmaster(&self) -> Result<Found<Arc<Postmaster>>> {
        if let Some(postmaster) = self.cached().filter(|p| p.is_alive()) {
            return Ok(Found::Alive(postmaster));
        }
        let data_dir = &self.options().data_dir;
        let found = match Postmaster::find(data_dir) {
            Err(Error::File { .. }) => Postmaster::find_without_file(data_dir)?,
            found => found?,
        };
        let found = found.map(Arc::new);
        let alive = if let Found::Alive(postmaster) = &found { Some(postmaster.clone()) } else { None };
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = alive;
        Ok(found)
    }

    /// Remembers the postmaster that was just started, before it wrote its pid file.
    pub(crate) fn started(&self, postmaster: &Arc<Postmaster>) {
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(postmaster.clone());
    }

    /// The postmaster that was seen last; it may be gone.
    pub fn cached(&self) -> Option<Arc<Postmaster>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self, pid: i32, deadline: Instant) -> std::result::Result<heartbeat::Answer, SqlError> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| SqlError::other("query", "too many requests for the status wait for PostgreSQL");
        self.heartbeat.try_send(Request { pid, reply }).map_err(busy)?;
        let limit = deadline.saturating_duration_since(Instant::now());
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SqlError::other("query", "the agent is stopping")),
            Err(_) => Err(SqlError::timeout("query".into(), limit)),
        }
    }

    async fn why_no_answer(&self, asked: &Postmaster, error: &SqlError, deadline: Instant) -> PostmasterState {
        let look = self.look(deadline.max(Instant::now() + LEAST)).await;
        let Ok(status) = look.and_then(|look| look.status) else {
            return PostmasterState::Unreachable(error.to_string());
        };
        // Between a crash of a backend and the end of recovery the pid file goes on saying `ready`.
        match status {
            Some(PidFileStatus::Stopping) => PostmasterState::Stopping,
            None if asked.was_listed() => PostmasterState::Stopping,
            None | Some(PidFileStatus::Starting | PidFileStatus::Standby) => PostmasterState::Starting,
            Some(PidFileStatus::Ready) if error.is_cannot_connect_now() => PostmasterState::Starting,
            Some(PidFileStatus::Ready) => PostmasterState::Unreachable(error.to_string()),
        }
    }

    async fn data_dir(&self, is_served: bool, deadline: Instant) -> (DataDir, Option<ControlValues>) {
        let options = self.options();
        let deadline = deadline.max(Instant::now() + LEAST);
        match timeout_at(deadline, data_dir::inspect(&options.programs(), &options.data_dir, is_served)).await {
            Ok(result) => result,
            Err(_) => (DataDir::Unknown("pg_controldata did not finish in time".into()), None),
        }
    }
}

/// What can be seen of a server from outside.
struct Look {
    found: Found<Arc<Postmaster>>,
    /// What it says of itself in its pid file, if that can be read.
    status: Result<Option<PidFileStatus>>,
    has_control_file: bool,
    other_wal: bool,
    /// What is at its path is not the data directory that was there, and why.
    is_another: Option<String>,
}

/// Blocks.
fn control_data(data_dir: &Path, values: &ControlValues) -> Result<ControlData> {
    let control = values.control_data(data_dir::Marks::find(data_dir))?;
    let torn = Unfinished::in_force(data_dir, Some(control.state)).is_some();
    Ok(ControlData { torn, ..control })
}

fn unreachable_single_user(pid: i32) -> PostmasterState {
    PostmasterState::Unreachable(format!("PostgreSQL runs in single-user mode (pid={pid})"))
}
