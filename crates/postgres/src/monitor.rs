//! Looking at the server. Nothing here writes, and every answer comes by its deadline.

mod heartbeat;
mod status;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patroni_core::server::{ControlData, DataDir, Postmaster as PostmasterState, Running, Server};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::Result;
use crate::control::blocking;
use crate::controldata::ControlValues;
use crate::data_dir;
use crate::options::ServerOptions;
use crate::postmaster::{Found, PidFileStatus, Postmaster};
use crate::programs::Programs;
use crate::sql::{Connection, DEFAULT_OPTIONS, SqlError};
use crate::unfinished::Unfinished;
use heartbeat::Request;

/// Requests for the status that may wait at the same time; more are told that the server does not answer.
const WAITING_REQUESTS: usize = 256;

/// Reading one small file takes no longer unless the disk is broken, so that much is always allowed.
const LEAST: Duration = Duration::from_millis(200);

/// Looks at the data directory, the postmaster, and what PostgreSQL says of itself. Cheap to clone; all clones share one
/// connection to the server.
#[derive(Clone, Debug)]
pub struct Monitor {
    options: watch::Receiver<Arc<ServerOptions>>,
    postmaster: Arc<Mutex<Option<Arc<Postmaster>>>>,
    heartbeat: mpsc::Sender<Request>,
}

impl Monitor {
    /// Watches the server that `options` describe, and follows their changes. Needs a tokio runtime; ends with its last clone.
    pub fn new(options: watch::Receiver<Arc<ServerOptions>>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_REQUESTS);
        tokio::spawn(heartbeat::run(options.clone(), receiver));
        Monitor { options, postmaster: Arc::default(), heartbeat: sender }
    }

    /// The whole state of the server, at the latest at `deadline`: a server that does not answer until then is
    /// [`PostmasterState::Unreachable`].
    pub async fn inspect(&self, deadline: Instant) -> Server {
        let look = self.clone();
        // The disk may hang: this is the only place where it is touched without a program of its own.
        let look = match timeout_at(deadline, blocking(move || look.look())).await {
            Ok(Ok(look)) => look,
            Ok(Err(error)) => return inaccessible(&error.to_string()),
            Err(_) => return inaccessible("the data directory does not answer in time"),
        };
        match look.found {
            Found::Alive(postmaster) => {
                self.inspect_alive(&postmaster, look.status, look.has_control_file, deadline).await
            }
            Found::SingleUser { pid } => {
                Server { data_dir: self.data_dir(deadline).await.0, postmaster: unreachable_single_user(pid) }
            }
            Found::Nobody | Found::Foreign { .. } => self.stopped(deadline).await,
        }
    }

    async fn inspect_alive(
        &self,
        postmaster: &Postmaster,
        status: Option<PidFileStatus>,
        has_control_file: bool,
        deadline: Instant,
    ) -> Server {
        let state = match status {
            Some(PidFileStatus::Starting) => PostmasterState::Starting,
            Some(PidFileStatus::Stopping) => PostmasterState::Stopping,
            // Without a file it has not come so far yet, or somebody has removed the directory under it.
            None | Some(PidFileStatus::Ready | PidFileStatus::Standby) => {
                match self.ask(postmaster.pid(), deadline).await {
                    Ok((running, system_id)) if has_control_file => {
                        let data_dir = DataDir::Present(system_id);
                        return Server { data_dir, postmaster: PostmasterState::Running(running) };
                    }
                    Ok((running, _)) => PostmasterState::Running(running),
                    Err(error) => self.why_no_answer(postmaster, &error, deadline).await,
                }
            }
        };
        if !postmaster.is_alive() {
            return self.stopped(deadline).await;
        }
        Server { data_dir: self.data_dir(deadline).await.0, postmaster: state }
    }

    async fn stopped(&self, deadline: Instant) -> Server {
        let (data_dir, values) = self.data_dir(deadline).await;
        let control = values.and_then(|values| control_data(&self.options(), values));
        Server { data_dir, postmaster: PostmasterState::Stopped(control) }
    }

    /// What can be seen without asking anybody. Blocks.
    fn look(&self) -> Result<Look> {
        let data_dir = &self.options().data_dir;
        let found = self.postmaster()?;
        let status = match &found {
            Found::Alive(postmaster) => postmaster.status(data_dir)?,
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => None,
        };
        Ok(Look { found, status, has_control_file: data_dir.join("global/pg_control").exists() })
    }

    /// What PostgreSQL says of itself, newly asked. Callers that come while a query runs share the next one.
    ///
    /// # Errors
    /// No postmaster, no answer until `deadline`, or what the server says.
    pub async fn status(&self, deadline: Instant) -> Result<Running> {
        match self.postmaster()? {
            Found::Alive(postmaster) => Ok(self.ask(postmaster.pid(), deadline).await?.0),
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => {
                Err(SqlError::other("query", "no postmaster runs on the data directory").into())
            }
        }
    }

    /// Completes within milliseconds of the exit of the postmaster seen last; never, where there is none.
    pub async fn exit_of_postmaster(&self) {
        match self.cached().or_else(|| self.alive().ok().flatten()) {
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
        let conninfo = self.options().local_superuser();
        Ok(Connection::open(&conninfo, &format!("Patroni {name}"), DEFAULT_OPTIONS).await?)
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
    /// The pid file cannot be read.
    pub fn alive(&self) -> Result<Option<Arc<Postmaster>>> {
        match self.postmaster()? {
            Found::Alive(postmaster) => Ok(Some(postmaster)),
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => Ok(None),
        }
    }

    /// The one that was found before as long as it is alive, else what the pid file says.
    fn postmaster(&self) -> Result<Found<Arc<Postmaster>>> {
        if let Some(postmaster) = self.cached().filter(|p| p.is_alive()) {
            return Ok(Found::Alive(postmaster));
        }
        let found = Postmaster::find(&self.options().data_dir)?.map(Arc::new);
        let alive = if let Found::Alive(postmaster) = &found { Some(postmaster.clone()) } else { None };
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = alive;
        Ok(found)
    }

    /// Remembers the postmaster that was just started, before it wrote its pid file.
    pub(crate) fn started(&self, postmaster: &Arc<Postmaster>) {
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(postmaster.clone());
    }

    fn cached(&self) -> Option<Arc<Postmaster>> {
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
        let look = self.clone();
        let deadline = deadline.max(Instant::now() + LEAST);
        let status = match timeout_at(deadline, blocking(move || look.look())).await {
            Ok(Ok(look)) => look.status,
            Ok(Err(_)) | Err(_) => return PostmasterState::Unreachable(error.to_string()),
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

    async fn data_dir(&self, deadline: Instant) -> (DataDir, Option<ControlValues>) {
        let options = self.options();
        let deadline = deadline.max(Instant::now() + LEAST);
        match timeout_at(deadline, data_dir::inspect(&options.programs(), &options.data_dir)).await {
            Ok(result) => result,
            Err(_) => (DataDir::Inaccessible("pg_controldata did not finish in time".into()), None),
        }
    }
}

/// What can be seen of a server from outside.
struct Look {
    found: Found<Arc<Postmaster>>,
    status: Option<PidFileStatus>,
    has_control_file: bool,
}

fn control_data(options: &ServerOptions, values: ControlValues) -> Option<ControlData> {
    let data_dir = &options.data_dir;
    let standby = data_dir::has_standby_signal(data_dir);
    let control = values.control_data(standby, data_dir::has_backup_label(data_dir)).ok()?;
    let torn = matches!(Unfinished::in_force(data_dir, Some(control.state)), Some(Unfinished::Rewind { .. }));
    Some(ControlData { torn, ..control })
}

fn inaccessible(why: &str) -> Server {
    Server { data_dir: DataDir::Inaccessible(why.to_owned()), postmaster: PostmasterState::Unreachable(why.to_owned()) }
}

fn unreachable_single_user(pid: i32) -> PostmasterState {
    PostmasterState::Unreachable(format!("PostgreSQL runs in single-user mode (pid={pid})"))
}
